package aggregation

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"time"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/kube-openapi/pkg/aggregator"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/proa-dev/proa/apiserver/apiservices"
)

// documentTimeout is how long a backend may take to describe itself.
const documentTimeout = 15 * time.Second

// unknown is what is told of a group and version before its server has said
// what it serves.
func unknown(gv schema.GroupVersion) apidiscoveryv2.APIVersionDiscovery {
	return apidiscoveryv2.APIVersionDiscovery{Version: gv.Version, Freshness: apidiscoveryv2.DiscoveryFreshnessStale}
}

// stale marks what is known as old.
func (b *backend) stale() {
	old := b.known.Load()
	if old.Discovery.Freshness == apidiscoveryv2.DiscoveryFreshnessStale {
		return
	}
	next := *old
	next.Discovery.Freshness = apidiscoveryv2.DiscoveryFreshnessStale
	b.known.Store(&next)
	b.s.learned()
}

// learn asks the backend what it serves.
func (b *backend) learn(ctx context.Context) error {
	old := b.known.Load()
	next := &apiservices.Remote{OpenAPI: old.OpenAPI}
	var err error
	if next.Discovery, err = b.discover(ctx); err != nil {
		return fmt.Errorf("discovery: %w", err)
	}
	next.Discovery.Freshness = apidiscoveryv2.DiscoveryFreshnessCurrent
	// Without a description all works but explain.
	if next.V3URL, err = b.v3(ctx); err != nil {
		b.s.cfg.Logger.Warn("read the OpenAPI v3 index of an aggregated API", "apiservice", b.apiService, "error", err)
	}
	if next.OpenAPI, err = b.v2(ctx, old.OpenAPI); err != nil {
		b.s.cfg.Logger.Warn("read the OpenAPI v2 document of an aggregated API", "apiservice", b.apiService, "error", err)
		next.OpenAPI = old.OpenAPI
	}
	if next.V3URL == old.V3URL && next.OpenAPI == old.OpenAPI && reflect.DeepEqual(next.Discovery, old.Discovery) {
		return nil
	}
	b.known.Store(next)
	b.s.learned()
	return nil
}

var aggregated = schema.GroupVersionKind{Group: "apidiscovery.k8s.io", Version: "v2", Kind: "APIGroupDiscoveryList"}

// discover asks for the one document that has all, or, of servers that have
// none, for that of the group and version.
func (b *backend) discover(ctx context.Context) (apidiscoveryv2.APIVersionDiscovery, error) {
	var none apidiscoveryv2.APIVersionDiscovery
	root := "/apis"
	if b.gv.Group == "" {
		root = "/api"
	}
	a, err := b.get(ctx, root, map[string]string{"Accept": discovery.AcceptV2})
	if err != nil {
		return none, err
	}
	if is, err := discovery.ContentTypeIsGVK(a.header.Get("Content-Type"), aggregated); err == nil && is && a.code == http.StatusOK {
		var list apidiscoveryv2.APIGroupDiscoveryList
		if err := json.Unmarshal(a.body, &list); err != nil {
			return none, fmt.Errorf("%s: %w", root, err)
		}
		return pick(&list, b.gv), nil
	}
	path := b.discoveryPath()
	if a, err = b.get(ctx, path, map[string]string{"Accept": "application/json"}); err != nil {
		return none, err
	}
	if a.code != http.StatusOK {
		return none, fmt.Errorf("%s: status %d", path, a.code)
	}
	var list metav1.APIResourceList
	if err := json.Unmarshal(a.body, &list); err != nil {
		return none, fmt.Errorf("%s: %w", path, err)
	}
	return apidiscoveryv2.APIVersionDiscovery{Version: b.gv.Version, Resources: resources(list.APIResources, b.gv)}, nil
}

// pick finds one version in a document; a server that does not name it serves
// nothing in it.
func pick(list *apidiscoveryv2.APIGroupDiscoveryList, gv schema.GroupVersion) apidiscoveryv2.APIVersionDiscovery {
	for _, g := range list.Items {
		for _, v := range g.Versions {
			if g.Name != gv.Group || v.Version != gv.Version {
				continue
			}
			for i := range v.Resources {
				r := &v.Resources[i]
				if r.ResponseKind == nil { // clients take it for granted
					r.ResponseKind = &metav1.GroupVersionKind{}
				}
				for j := range r.Subresources {
					if r.Subresources[j].ResponseKind == nil {
						r.Subresources[j].ResponseKind = &metav1.GroupVersionKind{}
					}
				}
			}
			return v
		}
	}
	return apidiscoveryv2.APIVersionDiscovery{Version: gv.Version}
}

// resources makes the new form of discovery of the old one, in which
// subresources stand beside resources.
func resources(list []metav1.APIResource, gv schema.GroupVersion) []apidiscoveryv2.APIResourceDiscovery {
	var out []apidiscoveryv2.APIResourceDiscovery
	at := map[string]int{}
	parent := func(name string) *apidiscoveryv2.APIResourceDiscovery {
		i, ok := at[name]
		if !ok {
			i = len(out)
			at[name] = i
			out = append(out, apidiscoveryv2.APIResourceDiscovery{Resource: name, ResponseKind: &metav1.GroupVersionKind{}})
		}
		return &out[i]
	}
	for _, r := range list {
		kind := &metav1.GroupVersionKind{Group: r.Group, Version: r.Version, Kind: r.Kind}
		if kind.Group == "" && kind.Version == "" {
			kind.Group, kind.Version = gv.Group, gv.Version
		}
		scope := apidiscoveryv2.ScopeCluster
		if r.Namespaced {
			scope = apidiscoveryv2.ScopeNamespace
		}
		name, sub, isSub := strings.Cut(r.Name, "/")
		p := parent(name)
		if p.Scope == "" {
			p.Scope = scope
		}
		if isSub {
			p.Subresources = append(p.Subresources, apidiscoveryv2.APISubresourceDiscovery{Subresource: sub, ResponseKind: kind, Verbs: r.Verbs})
			continue
		}
		p.ResponseKind, p.Scope, p.SingularResource = kind, scope, r.SingularName
		p.Verbs, p.ShortNames, p.Categories = r.Verbs, r.ShortNames, r.Categories
	}
	return out
}

// v3 finds the document of the group and version, empty if there is none.
func (b *backend) v3(ctx context.Context) (string, error) {
	a, err := b.get(ctx, "/openapi/v3", map[string]string{"Accept": "application/json"})
	if err != nil || a.code != http.StatusOK {
		return "", err // older servers have no such index
	}
	var index struct {
		Paths map[string]struct {
			URL string `json:"serverRelativeURL"`
		} `json:"paths"`
	}
	if err := json.Unmarshal(a.body, &index); err != nil {
		return "", err
	}
	path := strings.TrimPrefix(b.discoveryPath(), "/")
	if url := index.Paths[path].URL; strings.HasPrefix(url, "/openapi/v3/"+path+"?") {
		return url, nil
	}
	return "", nil
}

// v2 reads what describes the paths of the group and version, old if that is
// still so. Documents may be anything: upstream's code trips over some.
func (b *backend) v2(ctx context.Context, old *spec.Swagger) (_ *spec.Swagger, err error) {
	header := map[string]string{"Accept": "application/json"}
	if old != nil && b.etag != "" {
		header["If-None-Match"] = b.etag
	}
	a, err := b.get(ctx, "/openapi/v2", header)
	switch {
	case err != nil:
		return nil, err
	case a.code == http.StatusNotModified:
		return old, nil
	case a.code == http.StatusNotFound:
		return nil, nil
	case a.code != http.StatusOK:
		return nil, fmt.Errorf("status %d", a.code)
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it cannot be read: %v", p)
		}
	}()
	var doc spec.Swagger
	if err := json.Unmarshal(a.body, &doc); err != nil {
		return nil, err
	}
	if doc.Paths == nil {
		return nil, nil
	}
	doc = *aggregator.FilterSpecByPathsWithoutSideEffects(&doc, []string{b.discoveryPath() + "/"})
	b.etag = a.header.Get("Etag")
	if old != nil && reflect.DeepEqual(old, &doc) {
		return old, nil
	}
	return &doc, nil
}
