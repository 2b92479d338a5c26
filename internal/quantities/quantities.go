// Package quantities keeps quantities out whose arithmetic does not end.
//
// A Quantity of k8s.io/apimachinery is a decimal of any size, and to compare
// or add two of them writes both out in full: "1e1000000000" keeps a core
// busy for hours, "1e-9999999" even its parser. Upstream has no answer to
// them, so they get the answer of a quantity that cannot be read.
//
// Text that looks like such a quantity is often none (a commit is called
// 7e12345), so bodies are scanned first, which costs next to nothing, and those
// in which something turns up are read once more along their Go type.
package quantities

import (
	"reflect"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
)

const (
	// maxExponent bounds how large and how small a quantity may be. 10^999
	// and 10^-999 are computed in less than a microsecond.
	maxExponent = 999
	// maxDigits bounds a run of digits: trailing zeros are taken off one by
	// one, each a division of the whole.
	maxDigits = 1000
	// looksHuge is how many digits an exponent above maxExponent has at least.
	looksHuge = 4
	// maxDepth is how deep JSON may be nested before its decoder refuses it.
	maxDepth = 10000
)

var quantityType = reflect.TypeFor[resource.Quantity]()

// Check says why a text is not even to be parsed as a quantity.
func Check(s string) error {
	s = strings.TrimSpace(s)
	run := 0
	for i := range len(s) {
		if !digit(s[i]) {
			run = 0
		} else if run++; run > maxDigits {
			return resource.ErrNumeric
		}
	}
	e := strings.IndexAny(s, "eE")
	if e < 0 {
		return nil
	}
	// What is no number is another suffix, or one that the parser refuses.
	if n, err := strconv.ParseInt(s[e+1:], 10, 64); err == nil {
		if n = int64(int32(n)); n > maxExponent || n < -maxExponent { //nolint:gosec // the parser truncates too
			return resource.ErrSuffix
		}
	}
	return nil
}

func digit(c byte) bool { return c-'0' <= 9 }

// suspicious says that there may be a quantity in data that refuse refuses.
// It looks at every fourth byte only: what it looks for holds a run of four
// digits at least.
func suspicious(data []byte, exponent func(data []byte, start, end int) bool) bool {
	for i := looksHuge - 1; i < len(data); i += looksHuge {
		if !digit(data[i]) {
			continue
		}
		start, end := i, i+1
		for start > 0 && digit(data[start-1]) {
			start--
		}
		for end < len(data) && digit(data[end]) {
			end++
		}
		if end-start > maxDigits || end-start >= looksHuge && exponent(data, start, end) {
			return true
		}
		i = end
	}
	return false
}

// mantissa returns the index of the last byte of the number before an
// exponent's digits.
func mantissa(data []byte, digits int) (int, bool) {
	i := digits - 1
	if i >= 0 && (data[i] == '+' || data[i] == '-') {
		i--
	}
	if i < 1 || data[i]|0x20 != 'e' {
		return 0, false
	}
	i--
	return i, digit(data[i]) || data[i] == '.'
}

// looseExponent takes any digits for an exponent that may be one: between the
// fields of a protobuf message is no boundary that could be seen.
func looseExponent(data []byte, start, _ int) bool {
	_, ok := mantissa(data, start)
	return ok
}

// textExponent wants the number to stand alone, as it does in JSON, where
// identifiers with digits abound.
func textExponent(data []byte, start, end int) bool {
	if end < len(data) && (inWord(data[end]) || data[end] == ':') {
		return false
	}
	i, ok := mantissa(data, start)
	if !ok {
		return false
	}
	for i >= 0 && (digit(data[i]) || data[i] == '.') {
		i--
	}
	if i >= 0 && (data[i] == '+' || data[i] == '-') {
		i--
	}
	return i < 0 || !inWord(data[i])
}

func inWord(c byte) bool {
	return digit(c) || c|0x20 >= 'a' && c|0x20 <= 'z' || c == '_' || c == '.' || c == '-' || c == '/' || c == '@'
}

// types remembers the fields of the structs that one walk has met.
type types map[reflect.Type]map[string]reflect.Type

// plain is the type behind pointers.
func plain(t reflect.Type) reflect.Type {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t
}

// element is the type of what a slice or map holds, nil for others.
func element(t reflect.Type) reflect.Type {
	switch t.Kind() {
	case reflect.Slice, reflect.Array, reflect.Map:
		return plain(t.Elem())
	}
	return nil
}
