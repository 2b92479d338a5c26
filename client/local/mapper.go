package local

import (
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/proa-dev/proa/apiserver/kinds"
)

// mapper is a meta.RESTMapper over the table of kinds as it is now.
type mapper struct {
	kinds *kinds.Table

	mu         sync.Mutex
	generation int64
	current    meta.RESTMapper
}

var _ meta.RESTMapper = (*mapper)(nil)

func (m *mapper) now() meta.RESTMapper {
	set := m.kinds.Set()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.current != nil && m.generation == set.Generation {
		return m.current
	}
	var versions []schema.GroupVersion
	for _, g := range set.Groups {
		for _, v := range g.Versions {
			versions = append(versions, schema.GroupVersion{Group: g.Name, Version: v})
		}
	}
	rm := meta.NewDefaultRESTMapper(versions)
	for _, k := range set.All {
		k.AddTo(rm)
	}
	m.current, m.generation = rm, set.Generation
	return rm
}

// KindFor implements meta.RESTMapper.
func (m *mapper) KindFor(r schema.GroupVersionResource) (schema.GroupVersionKind, error) {
	return m.now().KindFor(r)
}

// KindsFor implements meta.RESTMapper.
func (m *mapper) KindsFor(r schema.GroupVersionResource) ([]schema.GroupVersionKind, error) {
	return m.now().KindsFor(r)
}

// ResourceFor implements meta.RESTMapper.
func (m *mapper) ResourceFor(r schema.GroupVersionResource) (schema.GroupVersionResource, error) {
	return m.now().ResourceFor(r)
}

// ResourcesFor implements meta.RESTMapper.
func (m *mapper) ResourcesFor(r schema.GroupVersionResource) ([]schema.GroupVersionResource, error) {
	return m.now().ResourcesFor(r)
}

// RESTMapping implements meta.RESTMapper.
func (m *mapper) RESTMapping(gk schema.GroupKind, versions ...string) (*meta.RESTMapping, error) {
	return m.now().RESTMapping(gk, versions...)
}

// RESTMappings implements meta.RESTMapper.
func (m *mapper) RESTMappings(gk schema.GroupKind, versions ...string) ([]*meta.RESTMapping, error) {
	return m.now().RESTMappings(gk, versions...)
}

// ResourceSingularizer implements meta.RESTMapper.
func (m *mapper) ResourceSingularizer(resource string) (string, error) {
	return m.now().ResourceSingularizer(resource)
}
