package quantities

import (
	"encoding/binary"
	"errors"
	"reflect"
	"strconv"
	"strings"
)

var errMalformed = errors.New("proto: malformed message")

// SuspectProto says that a protobuf message may hold a quantity out of all
// bounds, or messages within messages out of all depth, each of two bytes at
// least: that CheckProto is worth its time.
func SuspectProto(data []byte) bool {
	return len(data) > 2*maxDepth || suspicious(data, looseExponent)
}

// CheckProto refuses a message, about to be read into a value of the type of
// into, when one of its quantities is out of all bounds, or the message is
// nested too deep or not well formed.
func CheckProto(data []byte, into any) error {
	w := protoWalk{types{}}
	return w.message(data, plain(reflect.TypeOf(into)), 0)
}

// protoWalk follows messages along a Go type with the tags of k8s.io/api.
type protoWalk struct{ types types }

func (w protoWalk) message(data []byte, t reflect.Type, depth int) error {
	if depth > maxDepth {
		return errMalformed
	}
	for len(data) > 0 {
		tag, n := binary.Uvarint(data)
		if n <= 0 {
			return errMalformed
		}
		data = data[n:]
		var value []byte
		switch tag & 7 {
		case 0:
			if _, n = binary.Uvarint(data); n <= 0 {
				return errMalformed
			}
		case 1:
			n = 8
		case 2:
			size, m := binary.Uvarint(data)
			if m <= 0 || size > uint64(len(data)-m) {
				return errMalformed
			}
			n = m + int(size) //nolint:gosec // bounded by len(data)
			value = data[m:n]
		case 5:
			n = 4
		default: // groups, which no message of the API has
			return errMalformed
		}
		if n > len(data) {
			return errMalformed
		}
		data = data[n:]
		if err := w.field(value, t, tag>>3, depth); err != nil {
			return err
		}
	}
	return nil
}

// field looks into a length-delimited field; value is nil for others.
func (w protoWalk) field(value []byte, t reflect.Type, number uint64, depth int) error {
	switch {
	case value == nil:
		return nil
	case t == quantityType:
		if number == 1 {
			return Check(string(value))
		}
		return nil
	}
	ft := w.member(t, number)
	if ft == nil {
		return nil
	}
	switch ft.Kind() {
	case reflect.Slice, reflect.Array:
		ft = element(ft)
	}
	if k := ft.Kind(); k != reflect.Struct && k != reflect.Map {
		return nil
	}
	return w.message(value, ft, depth+1)
}

// member is the type of a field. An entry of a map is a message with the key
// as its first field and the value as its second.
func (w protoWalk) member(t reflect.Type, number uint64) reflect.Type {
	switch {
	case t.Kind() == reflect.Map:
		if number == 2 {
			return element(t)
		}
		return nil
	case t.Kind() != reflect.Struct:
		return nil
	}
	fields, ok := w.types[t]
	if !ok {
		fields = map[string]reflect.Type{}
		for i := range t.NumField() {
			f := t.Field(i)
			if parts := strings.SplitN(f.Tag.Get("protobuf"), ",", 3); len(parts) == 3 {
				fields[parts[1]] = plain(f.Type)
			}
		}
		w.types[t] = fields
	}
	return fields[strconv.FormatUint(number, 10)]
}
