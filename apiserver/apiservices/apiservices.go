// Package apiservices holds what the APIService objects make of discovery and
// of the OpenAPI documents: the order of groups and versions, and what other
// servers serve. It is data; package aggregation fills it.
package apiservices

import (
	"maps"
	"slices"
	"strings"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/proa-dev/proa/apiserver/kinds"
)

// Service is one group and version.
type Service struct {
	Priority
	// Remote is nil where this server serves it.
	Remote *Remote
}

// Remote is what another server serves of its group and version. It is never
// changed.
type Remote struct {
	// Discovery is stale when that server did not answer lately.
	Discovery apidiscoveryv2.APIVersionDiscovery
	// OpenAPI describes its paths in version 2; nil: it does not say.
	OpenAPI *spec.Swagger
	// V3URL is where the document of version 3 is, with its hash; empty: it
	// has none.
	V3URL string
}

// View is the services of one moment. It is never changed; a nil View is that of
// a server that serves all itself.
type View struct {
	services map[schema.GroupVersion]Service
}

// New makes a view, which keeps the map.
func New(services map[schema.GroupVersion]Service) *View { return &View{services: services} }

// Equal says whether two views say the same.
func (v *View) Equal(other *View) bool {
	if v == nil || other == nil {
		return v == other
	}
	return maps.Equal(v.services, other.services)
}

// Remote returns what another server serves as gv, nil if none does.
func (v *View) Remote(gv schema.GroupVersion) *Remote {
	if v == nil {
		return nil
	}
	return v.services[gv].Remote
}

// Remotes lists what other servers serve, in order of the names.
func (v *View) Remotes() []schema.GroupVersion {
	if v == nil {
		return nil
	}
	var out []schema.GroupVersion
	for gv, s := range v.services {
		if s.Remote != nil {
			out = append(out, gv)
		}
	}
	slices.SortFunc(out, func(a, b schema.GroupVersion) int { return strings.Compare(a.String(), b.String()) })
	return out
}

// priority is what orders gv: its service's if there is one.
func (v *View) priority(gv schema.GroupVersion) Priority {
	if s, ok := v.services[gv]; ok {
		return s.Priority
	}
	return Default(gv)
}

// Groups lists the groups of set and of other servers, in order of discovery.
func (v *View) Groups(set *kinds.Set) []kinds.Group {
	if v == nil {
		return set.Groups
	}
	versions := map[string]map[string]Priority{}
	add := func(gv schema.GroupVersion) {
		if versions[gv.Group] == nil {
			versions[gv.Group] = map[string]Priority{}
		}
		versions[gv.Group][gv.Version] = v.priority(gv)
	}
	for _, g := range set.Groups {
		for _, ver := range g.Versions {
			add(schema.GroupVersion{Group: g.Name, Version: ver})
		}
	}
	for gv, s := range v.services {
		if s.Remote != nil {
			add(gv)
		}
	}
	highest := map[string]int32{}
	var out []kinds.Group
	for name, all := range versions {
		for _, p := range all {
			highest[name] = max(highest[name], p.Group)
		}
		out = append(out, kinds.Group{Name: name, Versions: slices.SortedFunc(maps.Keys(all), func(a, b string) int {
			if d := all[b].Version - all[a].Version; d != 0 {
				return int(d)
			}
			return version.CompareKubeAwareVersionStrings(b, a)
		})})
	}
	slices.SortFunc(out, func(a, b kinds.Group) int {
		if d := highest[b.Name] - highest[a.Name]; d != 0 {
			return int(d)
		}
		return strings.Compare(a.Name, b.Name)
	})
	return out
}
