package builtin_test

import (
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/builtin"
)

// Every row must be whole: what reads the table relies on it.
func TestKindsAreWhole(t *testing.T) {
	scheme := builtin.Scheme()
	seen := map[string]bool{}
	for _, k := range builtin.Kinds() {
		t.Run(k.GVR().String(), func(t *testing.T) {
			if seen[k.GVR().String()] {
				t.Error("listed twice")
			}
			seen[k.GVR().String()] = true
			gvks, _, err := scheme.ObjectKinds(k.New())
			if err != nil || !slices.Contains(gvks, k.GVK) {
				t.Errorf("New makes %v (%v), not %v", gvks, err, k.GVK)
			}
			if k.Resource != strings.ToLower(k.Resource) || k.Resource == "" {
				t.Errorf("resource %q", k.Resource)
			}
			checkFunctions(t, k)
			if k.Virtual {
				if k.StoragePath != "" {
					t.Error("virtual, yet stored")
				}
				return
			}
			if k.StoragePath == "" {
				t.Error("no storage path")
			}
			list, err := scheme.New(k.GVK.GroupVersion().WithKind(k.GVK.Kind + "List"))
			if err != nil || !meta.IsListType(k.NewList()) {
				t.Errorf("NewList makes %T, want %T (%v)", k.NewList(), list, err)
			}
		})
	}
}

// checkFunctions runs every function on empty objects: the table must bear
// objects that say nothing.
func checkFunctions(t *testing.T, k *api.Kind) {
	obj, old := k.New(), k.New()
	for _, f := range []func(api.Object){k.Default, k.PrepareCreate} {
		if f != nil {
			f(obj)
		}
	}
	if k.PrepareUpdate != nil {
		k.PrepareUpdate(obj, old)
	}
	if k.Validate != nil {
		k.Validate(obj)
	}
	if k.ValidateUpdate != nil {
		k.ValidateUpdate(obj, old)
	}
	if k.Warnings != nil {
		k.Warnings(obj, nil)
		k.Warnings(obj, old)
	}
	if s := k.Status; s != nil {
		s.PrepareUpdate(obj, old)
		if s.ValidateUpdate != nil {
			s.ValidateUpdate(obj, old)
		}
	}
	if s := k.Scale; s != nil {
		s.Set(obj, 3)
		if got := s.Get(obj).Spec.Replicas; got != 3 {
			t.Errorf("scale is %d after it was set to 3", got)
		}
	}
	if k.Fields != nil {
		got := k.Fields(obj)
		for _, name := range k.FieldNames {
			if !got.Has(name) {
				t.Errorf("field %s has no value", name)
			}
		}
		if len(got) != len(k.FieldNames) {
			t.Errorf("fields %v, names %v", got, k.FieldNames)
		}
	}
	columns := k.TableColumns()
	if columns[0].Name == "" {
		t.Error("first column has no name")
	}
	for _, c := range columns {
		c.Value(obj)
	}
}
