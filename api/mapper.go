package api

import (
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// NewMapper maps kinds to their resources and back. Where a group has several
// versions, the first one listed is preferred.
func NewMapper(kinds []*Kind) *meta.DefaultRESTMapper {
	var versions []schema.GroupVersion
	seen := map[schema.GroupVersion]bool{}
	for _, k := range kinds {
		if gv := k.GVK.GroupVersion(); !seen[gv] {
			seen[gv] = true
			versions = append(versions, gv)
		}
	}
	m := meta.NewDefaultRESTMapper(versions)
	for _, k := range kinds {
		k.AddTo(m)
	}
	return m
}

// AddTo adds the kind to a mapper.
func (k *Kind) AddTo(m *meta.DefaultRESTMapper) {
	scope := meta.RESTScopeRoot
	if k.Namespaced {
		scope = meta.RESTScopeNamespace
	}
	singular := k.Singular
	if singular == "" {
		singular = strings.ToLower(k.GVK.Kind)
	}
	m.AddSpecific(k.GVK, k.GVR(), k.GVK.GroupVersion().WithResource(singular), scope)
}
