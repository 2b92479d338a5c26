// Package kinds holds the table of what the API server serves: built-in kinds
// from the start, custom ones as they come and go. Readers see one immutable
// Set at a time, so a request that began with a kind ends with it.
package kinds

import (
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/runtime/schema"
	apimachineryversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/component-base/version"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/internal/target"
)

// Table is the current Set. Safe for concurrent use.
type Table struct {
	mu      sync.Mutex // serializes Put
	sources map[string][]*api.Kind
	current atomic.Pointer[Set]
}

// New returns a table of the built-in kinds.
func New(builtin []*api.Kind) *Table {
	t := &Table{sources: map[string][]*api.Kind{}}
	t.Put("", builtin)
	return t
}

// Put replaces the kinds that came from source (a custom resource definition's
// name); nil removes them. A kind that another source has already stays as it
// is: the source that sorts first wins, built-in kinds ("") before all.
func (t *Table) Put(source string, kinds []*api.Kind) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(kinds) == 0 {
		delete(t.sources, source)
	} else {
		t.sources[source] = slices.Clone(kinds)
	}
	var generation int64 = 1
	if old := t.current.Load(); old != nil {
		generation = old.Generation + 1
	}
	t.current.Store(newSet(t.sources, generation))
}

// Set returns the kinds as they are now.
func (t *Table) Set() *Set { return t.current.Load() }

// Set is an immutable table of kinds. A nil Set is empty.
type Set struct {
	// Generation grows with every change of the table.
	Generation int64
	// All is every kind, those of built-in groups first, in the order given.
	All []*api.Kind
	// Groups is in order of discovery: the core group first.
	Groups []Group

	byResource map[schema.GroupVersionResource]*api.Kind
	byKind     map[schema.GroupVersionKind]*api.Kind
	byPath     map[string][]*api.Kind
}

// Group is one API group with its versions, the preferred one first.
type Group struct {
	Name     string
	Versions []string
}

func newSet(sources map[string][]*api.Kind, generation int64) *Set {
	s := &Set{
		Generation: generation,
		byResource: map[schema.GroupVersionResource]*api.Kind{},
		byKind:     map[schema.GroupVersionKind]*api.Kind{},
		byPath:     map[string][]*api.Kind{},
	}
	names := make([]string, 0, len(sources))
	for name := range sources {
		names = append(names, name)
	}
	slices.Sort(names)
	groups := map[string]int{}
	for _, name := range names {
		for _, k := range sources[name] {
			if s.byResource[k.GVR()] != nil || s.byKind[k.GVK] != nil {
				continue
			}
			s.byResource[k.GVR()] = k
			s.byKind[k.GVK] = k
			if !k.Virtual && k.StoragePath != "" {
				s.byPath[k.StoragePath] = append(s.byPath[k.StoragePath], k)
			}
			s.All = append(s.All, k)
			i, ok := groups[k.GVK.Group]
			if !ok {
				i = len(s.Groups)
				groups[k.GVK.Group] = i
				s.Groups = append(s.Groups, Group{Name: k.GVK.Group})
			}
			if !slices.Contains(s.Groups[i].Versions, k.GVK.Version) {
				s.Groups[i].Versions = append(s.Groups[i].Versions, k.GVK.Version)
			}
		}
	}
	for i := range s.Groups {
		slices.SortStableFunc(s.Groups[i].Versions, func(a, b string) int {
			return apimachineryversion.CompareKubeAwareVersionStrings(b, a)
		})
	}
	slices.SortStableFunc(s.Groups, func(a, b Group) int { return groupRank(a.Name) - groupRank(b.Name) })
	return s
}

// groupRank puts the core group first and apps second, then groups of the
// system, then those of users, as clients expect when a short name is
// ambiguous.
func groupRank(name string) int {
	switch {
	case name == "":
		return 0
	case name == "apps":
		return 1
	case !strings.Contains(name, "."), strings.HasSuffix(name, ".k8s.io"):
		return 2
	}
	return 3
}

// ByResource returns the kind served as gvr, or nil.
func (s *Set) ByResource(gvr schema.GroupVersionResource) *api.Kind {
	if s == nil {
		return nil
	}
	return s.byResource[gvr]
}

// ByKind returns the kind named gvk, or nil.
func (s *Set) ByKind(gvk schema.GroupVersionKind) *api.Kind {
	if s == nil {
		return nil
	}
	return s.byKind[gvk]
}

// Stored returns the kind in whose version k's objects are stored.
func (s *Set) Stored(k *api.Kind) *api.Kind {
	if k.Storage == nil {
		return k
	}
	if k.Storage.Stored != nil {
		return k.Storage.Stored
	}
	return s.byKind[k.Storage.Kind]
}

// Equivalents returns the kinds that show the same objects as k, with k itself.
func (s *Set) Equivalents(k *api.Kind) []*api.Kind { return s.byPath[k.StoragePath] }

// Convert returns an object of one kind as its equivalent. It may share parts
// with obj, and others may have it too: neither is to be changed.
func Convert(obj api.Object, from, to *api.Kind) (api.Object, error) {
	if from.GVK == to.GVK {
		return obj, nil
	}
	if to := from.Versions[to.GVK.Version]; to != nil {
		return to(obj)
	}
	var err error
	if from.Storage != nil {
		if obj, err = from.Storage.To(obj); err != nil {
			return nil, err
		}
	}
	if to.Storage != nil {
		if obj, err = to.Storage.From(obj); err != nil {
			return nil, err
		}
	}
	if k := obj.GetObjectKind(); k.GroupVersionKind() != to.GVK {
		k.SetGroupVersionKind(to.GVK)
	}
	return obj, nil
}

// ByGroupResource returns the kind of the group's preferred version.
func (s *Set) ByGroupResource(gr schema.GroupResource) *api.Kind {
	for _, g := range s.Groups {
		if g.Name != gr.Group {
			continue
		}
		for _, v := range g.Versions {
			if k := s.byResource[gr.WithVersion(v)]; k != nil {
				return k
			}
		}
	}
	return nil
}

// Version is what /version reports: the API that is served, with the build as
// the linker was told it. A binary that was built without `make` knows the API
// alone.
func Version() apimachineryversion.Info {
	v := version.Get()
	if strings.Contains(v.GitVersion, "$") { // git's placeholder, never filled in
		v.Major, v.Minor, v.GitVersion = strconv.Itoa(target.Major), strconv.Itoa(target.Minor), target.GitVersion
		v.GitCommit, v.GitTreeState, v.BuildDate = "", "", ""
	}
	return v
}
