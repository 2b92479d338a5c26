package discovery

import (
	"cmp"
	"slices"
	"strings"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/kinds"
)

// resource is one line of a document: a resource or one of its subresources,
// which follow it.
type resource struct {
	kind       *api.Kind
	gvk        schema.GroupVersionKind
	name, sub  string
	singular   string
	verbs      []string
	short      []string
	categories []string
}

func resources(set *kinds.Set, group, version string) []resource {
	var found []*api.Kind
	for _, k := range set.All {
		if k.GVK.Group == group && k.GVK.Version == version {
			found = append(found, k)
		}
	}
	slices.SortFunc(found, func(a, b *api.Kind) int { return cmp.Compare(a.Resource, b.Resource) })
	var out []resource
	for _, k := range found {
		verbs := k.Verbs
		switch {
		case k.NoCreate != "": // nor help others to stay
			verbs = []string{"delete", "deletecollection", "get", "list", "watch"}
		case verbs == nil:
			verbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}
		}
		singular := k.Singular
		if singular == "" {
			singular = strings.ToLower(k.GVK.Kind)
		}
		out = append(out, resource{kind: k, gvk: k.GVK, name: k.Resource, singular: singular, verbs: verbs, short: k.ShortNames, categories: k.Categories})
		out = append(out, subresources(k)...)
	}
	return out
}

func subresources(k *api.Kind) []resource {
	line := func(name string, gvk schema.GroupVersionKind, verbs ...string) resource {
		return resource{kind: k, gvk: gvk, name: k.Resource + "/" + name, sub: name, verbs: verbs}
	}
	var out []resource
	for _, s := range k.Subresources {
		out = append(out, line(s.Name, s.GVK, s.Verbs...))
	}
	if k.Scale != nil {
		out = append(out, line("scale", autoscalingv1.SchemeGroupVersion.WithKind("Scale"), "get", "patch", "update"))
	}
	if k.Status != nil {
		out = append(out, line("status", k.GVK, "get", "patch", "update"))
	}
	slices.SortFunc(out, func(a, b resource) int { return cmp.Compare(a.name, b.name) })
	return out
}
