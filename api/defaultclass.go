package api

import (
	"slices"
	"strings"
)

// DefaultClass is the class that stands where none is named: of those that one
// of the annotations marks the newest, and of several the first by name. Nil
// when none is marked.
func DefaultClass(classes []Object, annotations ...string) Object {
	var best Object
	for _, c := range classes {
		if !slices.ContainsFunc(annotations, func(a string) bool { return c.GetAnnotations()[a] == "true" }) {
			continue
		}
		if best == nil || newerClass(c, best) < 0 {
			best = c
		}
	}
	return best
}

func newerClass(a, b Object) int {
	if c := b.GetCreationTimestamp().Compare(a.GetCreationTimestamp().Time); c != 0 {
		return c
	}
	return strings.Compare(a.GetName(), b.GetName())
}
