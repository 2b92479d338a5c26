// Package admissiontest holds objects in memory for tests of what reads an
// admission.Source.
package admissiontest

import (
	"slices"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/admission"
)

// Source is an admission.Source of the objects put into it.
type Source struct {
	mu        sync.RWMutex
	objects   map[schema.GroupResource]map[string]api.Object
	revisions map[schema.GroupResource]int64
	revision  int64
}

var _ admission.Source = (*Source)(nil)

// New returns an empty source.
func New() *Source {
	return &Source{
		objects:   map[schema.GroupResource]map[string]api.Object{},
		revisions: map[schema.GroupResource]int64{},
	}
}

func key(namespace, name string) string {
	if namespace == "" {
		return name
	}
	return namespace + "/" + name
}

// Put stores objects of one resource, each under its own name.
func (s *Source) Put(gr schema.GroupResource, objects ...api.Object) *Source {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.objects[gr] == nil {
		s.objects[gr] = map[string]api.Object{}
	}
	for _, o := range objects {
		s.objects[gr][key(o.GetNamespace(), o.GetName())] = o
	}
	s.touch(gr)
	return s
}

// Delete removes an object.
func (s *Source) Delete(gr schema.GroupResource, namespace, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.objects[gr], key(namespace, name))
	s.touch(gr)
}

func (s *Source) touch(gr schema.GroupResource) {
	s.revision++
	s.revisions[gr] = s.revision
}

// Get implements admission.Source.
func (s *Source) Get(gr schema.GroupResource, namespace, name string) (api.Object, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	o, ok := s.objects[gr][key(namespace, name)]
	return o, ok
}

// List implements admission.Source.
func (s *Source) List(gr schema.GroupResource, namespace string) []api.Object {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []api.Object
	for _, o := range s.objects[gr] {
		if namespace == "" || o.GetNamespace() == namespace {
			out = append(out, o)
		}
	}
	slices.SortFunc(out, func(a, b api.Object) int {
		return strings.Compare(key(a.GetNamespace(), a.GetName()), key(b.GetNamespace(), b.GetName()))
	})
	return out
}

// Revision implements admission.Source.
func (s *Source) Revision(gr schema.GroupResource) int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.revisions[gr]
}
