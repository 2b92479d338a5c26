package apijson

import (
	"reflect"
	"strconv"
	"time"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// The API's own types that write themselves, without a detour.

func writeTime(out []byte, v reflect.Value) ([]byte, error) {
	t := read[metav1.Time](v)
	if t.IsZero() {
		return append(out, "null"...), nil
	}
	out = append(out, '"')
	out = t.UTC().AppendFormat(out, time.RFC3339)
	return append(out, '"'), nil
}

func writeQuantity(out []byte, v reflect.Value) ([]byte, error) {
	data, err := read[resource.Quantity](v).MarshalJSON()
	return append(out, data...), err
}

func writeIntOrString(out []byte, v reflect.Value) ([]byte, error) {
	n := read[intstr.IntOrString](v)
	if n.Type == intstr.Int {
		return strconv.AppendInt(out, int64(n.IntVal), 10), nil
	}
	if n.Type != intstr.String {
		return standard(out, v)
	}
	return appendString(out, n.StrVal), nil
}

// read returns v's value, without a copy where it has an address.
func read[T any](v reflect.Value) *T {
	if v.CanAddr() {
		return v.Addr().Interface().(*T)
	}
	t := v.Interface().(T)
	return &t
}

// writeFields writes what owns fields. Of this server's making it is compact
// and plain; whatever else a client has sent is left to encoding/json.
func writeFields(out []byte, v reflect.Value) ([]byte, error) {
	if v.IsNil() {
		return append(out, "null"...), nil
	}
	raw := v.Interface().(*metav1.FieldsV1).Raw
	if !compactFields(raw) {
		return standard(out, v.Elem())
	}
	return append(out, raw...), nil
}

// compactFields recognizes objects of objects without white space, escapes and
// anything that HTML minds: {"f:a":{"f:b":{}},"k:{…}":{}} without the k.
func compactFields(raw []byte) bool {
	const (
		wantKeyOrEnd = iota // behind {
		wantKey             // behind ,
		wantColon
		wantObject
		wantCommaOrEnd
	)
	depth, state := 0, wantObject
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		switch {
		case c == '{' && state == wantObject:
			depth++
			state = wantKeyOrEnd
		case c == '}' && (state == wantKeyOrEnd || state == wantCommaOrEnd):
			if depth--; depth == 0 {
				return i == len(raw)-1
			}
			state = wantCommaOrEnd
		case c == ',' && state == wantCommaOrEnd:
			state = wantKey
		case c == ':' && state == wantColon:
			state = wantObject
		case c == '"' && (state == wantKeyOrEnd || state == wantKey):
			if i = endOfString(raw, i+1); i < 0 {
				return false
			}
			state = wantColon
		default:
			return false
		}
	}
	return false
}

// endOfString finds the quote that ends a plain string, -1 when it is not.
// Escaped quotes and backslashes, which keys of lists have, are plain.
func endOfString(raw []byte, i int) int {
	for ; i < len(raw); i++ {
		switch c := raw[i]; {
		case c == '"':
			return i
		case c == '\\':
			if i++; i >= len(raw) || raw[i] != '"' && raw[i] != '\\' {
				return -1
			}
		case c < ' ', c >= utf8.RuneSelf, c == '<', c == '>', c == '&':
			return -1
		}
	}
	return -1
}
