package openapi

import (
	_ "embed"
	"slices"
	"strings"
)

// requiredFacts tell what Go types do not: a comment beside the field decides
// whether it has to be there, where the tags say otherwise.
//
//go:embed required.txt
var requiredFacts string

// corrected returns the fields that a model requires; tagged are those whose
// tags say so.
func (b *builder) corrected(model string, tagged []string) []string {
	if b.corrections == nil {
		b.corrections = map[string][]string{}
		for line := range strings.Lines(requiredFacts) {
			if words := strings.Fields(line); len(words) > 1 && words[0] != "#" {
				b.corrections["io.k8s."+words[0]] = words[1:]
			}
		}
	}
	for _, c := range b.corrections[model] {
		if field, ok := strings.CutPrefix(c, "-"); ok {
			tagged = slices.DeleteFunc(tagged, func(t string) bool { return t == field })
		} else {
			tagged = append(tagged, strings.TrimPrefix(c, "+"))
		}
	}
	slices.Sort(tagged)
	return tagged
}
