package loop

import (
	"slices"

	"github.com/proa-dev/proa/api"
)

// Serves reports whether a kind is stored and its resource takes a verb.
func Serves(k *api.Kind, verb string) bool {
	return !k.Virtual && (len(k.Verbs) == 0 || slices.Contains(k.Verbs, verb))
}

// Stored returns one kind for each storage: of several versions of one
// resource the one that is stored. All kinds are there from the start or come
// with a CustomResourceDefinition.
func Stored(kinds []*api.Kind) []*api.Kind {
	var out []*api.Kind
	for _, k := range kinds {
		if !k.Virtual && k.Storage == nil {
			out = append(out, k)
		}
	}
	return out
}
