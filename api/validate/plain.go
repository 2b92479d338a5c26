package validate

import (
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// What is plain is valid beyond doubt, as nearly all names are: loops say so
// at a fraction of what the library's regular expressions cost. The library
// judges all else, and words what is wrong.

// plain says that a value is a DNS-1123 label.
func plain(value string) bool {
	if value == "" || len(value) > validation.DNS1123LabelMaxLength || value[0] == '-' || value[len(value)-1] == '-' {
		return false
	}
	for i := range len(value) {
		if c := value[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// PlainSubdomain says that a value is a DNS-1123 subdomain.
func PlainSubdomain(value string) bool {
	if len(value) > validation.DNS1123SubdomainMaxLength {
		return false
	}
	for label := range strings.SplitSeq(value, ".") {
		if !plain(label) {
			return false
		}
	}
	return true
}

// PlainLabels says that all keys and values may be labels.
func PlainLabels(labels map[string]string) bool {
	for key, value := range labels {
		if !plainKey(key) || value != "" && !plainWord(value) {
			return false
		}
	}
	return true
}

// PlainAnnotations says that all keys may be an annotation's and that their
// values are small.
func PlainAnnotations(annotations map[string]string) bool {
	const small = 64 << 10 // a quarter of what they may be
	size := 0
	for key, value := range annotations {
		if !plainKey(key) {
			return false
		}
		size += len(key) + len(value)
	}
	return size <= small
}

// plainKey says that a value is a qualified name: of a label, a taint, ….
func plainKey(value string) bool {
	if prefix, name, ok := strings.Cut(value, "/"); ok {
		return PlainSubdomain(prefix) && plainWord(name)
	}
	return plainWord(value)
}

// plainWord says that a value is letters, digits and '-', '_' or '.' between
// them.
func plainWord(value string) bool {
	if value == "" || len(value) > validation.LabelValueMaxLength || mark(value[0]) || mark(value[len(value)-1]) {
		return false
	}
	for i := range len(value) {
		if c := value[i]; (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !mark(c) {
			return false
		}
	}
	return true
}

func mark(c byte) bool { return c == '-' || c == '_' || c == '.' }
