package validate_test

import (
	"testing"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"pgregory.net/rapid"

	"github.com/proa-dev/proa/api/validate"
)

// What is taken for valid without the library is valid for the library, and
// what the library refuses is refused.
func TestPlain(t *testing.T) {
	// Few letters, so that many are nearly names, and of all lengths around the limits.
	text := rapid.OneOf(
		rapid.StringMatching(`[a-cA-B0-1._/ ~é-]{0,12}`),
		rapid.StringMatching(`[a-b.-]{60,66}`),
		rapid.StringMatching(`([a-b]{1,62}[.]){3,5}[a-b]{0,3}`),
		rapid.StringMatching(`[a-b.]{1,9}/[a-bA._-]{0,66}`),
	)
	rapid.Check(t, func(t *rapid.T) {
		s := text.Draw(t, "text")
		path := field.NewPath("x")
		for _, c := range []struct {
			rule string
			ours bool
			says []string
		}{
			{"label", len(validate.Label(path, s)) == 0, validation.IsDNS1123Label(s)},
			{"subdomain", len(validate.Subdomain(path, s)) == 0, validation.IsDNS1123Subdomain(s)},
			{"qualified name", len(validate.QualifiedName(path, s)) == 0, validation.IsQualifiedName(s)},
			{"label's key", len(validate.LabelKey(path, s)) == 0, validation.IsQualifiedName(s)},
		} {
			if c.ours != (len(c.says) == 0) {
				t.Errorf("%s %q: valid %t, the library says %q", c.rule, s, c.ours, c.says)
			}
		}
		if validate.PlainLabels(map[string]string{s: "v"}) && len(validation.IsQualifiedName(s)) > 0 ||
			validate.PlainLabels(map[string]string{"k": s}) && len(validation.IsValidLabelValue(s)) > 0 ||
			validate.PlainAnnotations(map[string]string{s: ""}) && len(validation.IsQualifiedName(s)) > 0 {
			t.Errorf("%q is taken for plain", s)
		}
	})
}
