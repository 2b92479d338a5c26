package customresources

import (
	"encoding/json"
	"strings"

	structural "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"

	"github.com/proa-dev/proa/internal/quantities"
)

// readers is the part of a schema that has rules which read quantities. What
// they are given is chosen by whoever writes an object, and no cost limit ends
// the arithmetic of one out of all bounds. Nil: there are none.
type readers struct {
	here       bool // a rule of this value, which sees all below
	properties map[string]*readers
	each       *readers // of a list or a map
}

func readersOf(s *structural.Structural) *readers {
	if s == nil {
		return nil
	}
	r := &readers{here: mention(s.XValidations) || mention(s.ValueValidation), properties: map[string]*readers{}, each: readersOf(s.Items)}
	for name, p := range s.Properties {
		if below := readersOf(&p); below != nil {
			r.properties[name] = below
		}
	}
	if a := s.AdditionalProperties; a != nil && r.each == nil {
		r.each = readersOf(a.Structural)
	}
	if !r.here && len(r.properties) == 0 && r.each == nil {
		return nil
	}
	return r
}

// mention says that rules call quantity or isQuantity.
func mention(rules any) bool {
	text, err := json.Marshal(rules)
	return err != nil || strings.Contains(string(text), "uantity(")
}

// endless finds a text that the rules may read and would not be done with.
func (r *readers) endless(value any) (text string, found bool) {
	if r == nil {
		return "", false
	}
	if r.here {
		return anyEndless(value)
	}
	switch v := value.(type) {
	case map[string]any:
		for name, one := range v {
			below := r.properties[name]
			if below == nil {
				below = r.each
			}
			if text, found = below.endless(one); found {
				return text, true
			}
		}
	case []any:
		for _, one := range v {
			if text, found = r.each.endless(one); found {
				return text, true
			}
		}
	}
	return "", false
}

func anyEndless(value any) (text string, found bool) {
	switch v := value.(type) {
	case string:
		return v, quantities.Endless(v)
	case map[string]any:
		for name, one := range v {
			if quantities.Endless(name) {
				return name, true
			}
			if text, found = anyEndless(one); found {
				return text, true
			}
		}
	case []any:
		for _, one := range v {
			if text, found = anyEndless(one); found {
				return text, true
			}
		}
	}
	return "", false
}
