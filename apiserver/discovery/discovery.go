// Package discovery tells clients what is served: the legacy documents, one a
// group and version, and the aggregated one that has it all. Documents are
// made when first asked for and kept until the table of kinds changes.
package discovery

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/proa-dev/proa/apiserver/apiservices"
	"github.com/proa-dev/proa/apiserver/codec"
	"github.com/proa-dev/proa/apiserver/kinds"
)

// Handler serves /api, /apis and what lies directly below.
type Handler struct {
	kinds   *kinds.Table
	codec   *codec.Codec
	view    func() *apiservices.View
	current atomic.Pointer[documents]
}

// documents are those of one generation of the table, and of what other servers
// serve.
type documents struct {
	set  *kinds.Set
	view *apiservices.View
	made sync.Map // docKey to doc
}

type docKey struct {
	path   string
	format codec.Format
	v2     bool
}

type doc struct {
	data []byte
	etag string
}

// New returns a handler over the table and what other servers serve.
func New(k *kinds.Table, c *codec.Codec, view func() *apiservices.View) *Handler {
	return &Handler{kinds: k, codec: c, view: view}
}

func (h *Handler) documents() *documents {
	set, view := h.kinds.Set(), h.view()
	if d := h.current.Load(); d != nil && d.set == set && d.view == view {
		return d
	}
	d := &documents{set: set, view: view}
	h.current.Store(d)
	return d
}

// aggregated says whether a asks for the document of everything.
func aggregated(a codec.Accepted) bool {
	return a.Group == "apidiscovery.k8s.io" && a.Version == "v2" && a.As == "APIGroupDiscoveryList" &&
		(a.Profile == "" || a.Profile == "nopeer")
}

// Serve answers a discovery path; false means that it is none.
func (h *Handler) Serve(w http.ResponseWriter, r *http.Request) (bool, error) {
	path := strings.TrimSuffix(r.URL.Path, "/")
	if path != "/api" && path != "/apis" && !strings.HasPrefix(path, "/api/") && !strings.HasPrefix(path, "/apis/") {
		return false, nil
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return true, apierrors.NewMethodNotSupported(metav1.Unversioned.WithResource("").GroupResource(), strings.ToLower(r.Method))
	}
	root := path == "/api" || path == "/apis"
	accepted, ok := codec.Negotiate(r.Header.Get("Accept"), func(a codec.Accepted) bool { return a.As == "" || root && aggregated(a) })
	if !ok {
		return true, apierrors.NewGenericServerResponse(http.StatusNotAcceptable, "", metav1.Unversioned.WithResource("").GroupResource(), "",
			"only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf", 0, true)
	}
	d, err := h.document(docKey{path: path, format: accepted.Format, v2: accepted.As != ""})
	if err != nil || d == nil {
		return d != nil || err != nil, err
	}
	header := w.Header()
	media := accepted.Format.MediaType()
	if accepted.As != "" {
		media += ";g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
	}
	header.Set("Content-Type", media)
	header.Set("Cache-Control", "no-cache, private")
	header.Set("Vary", "Accept")
	if accepted.As != "" {
		header.Set("ETag", d.etag)
		header.Set("Cache-Control", "public")
		if r.Header.Get("If-None-Match") == d.etag {
			w.WriteHeader(http.StatusNotModified)
			return true, nil
		}
	}
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_, _ = w.Write(d.data) // the client has gone if this fails
	}
	return true, nil
}

func (h *Handler) document(key docKey) (*doc, error) {
	ds := h.documents()
	if d, ok := ds.made.Load(key); ok {
		return d.(*doc), nil
	}
	obj := ds.build(key.path, key.v2)
	if obj == nil {
		return nil, nil
	}
	data, err := h.codec.Marshal(key.format, obj)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	if key.format == codec.JSON {
		data = append(data, '\n')
	}
	sum := sha512.Sum512(data)
	d, _ := ds.made.LoadOrStore(key, &doc{data: data, etag: `"` + strings.ToUpper(hex.EncodeToString(sum[:])) + `"`})
	return d.(*doc), nil
}

// build makes the document at path, nil where there is none.
func (ds *documents) build(path string, v2 bool) runtime.Object {
	set, groups := ds.set, ds.view.Groups(ds.set)
	switch {
	case path == "/api" && v2:
		return ds.aggregate(groups, true)
	case path == "/apis" && v2:
		return ds.aggregate(groups, false)
	case path == "/api":
		return legacyVersions(groups)
	case path == "/apis":
		return groupList(groups)
	}
	parts := strings.Split(strings.TrimPrefix(path, "/"), "/")
	switch {
	case parts[0] == "api" && len(parts) == 2:
		return resourceList(set, "", parts[1])
	case parts[0] == "apis" && len(parts) == 2:
		for _, g := range groups {
			if g.Name == parts[1] && g.Name != "" {
				out := group(g)
				out.TypeMeta = metav1.TypeMeta{Kind: "APIGroup", APIVersion: "v1"}
				return &out
			}
		}
	case parts[0] == "apis" && len(parts) == 3 && parts[1] != "":
		return resourceList(set, parts[1], parts[2])
	}
	return nil
}

func legacyVersions(groups []kinds.Group) runtime.Object {
	out := &metav1.APIVersions{
		TypeMeta: metav1.TypeMeta{Kind: "APIVersions", APIVersion: "v1"},
		// Clients ignore the address; it names the server they speak to.
		ServerAddressByClientCIDRs: []metav1.ServerAddressByClientCIDR{},
	}
	for _, g := range groups {
		if g.Name == "" {
			out.Versions = g.Versions
		}
	}
	return out
}

func groupList(groups []kinds.Group) runtime.Object {
	out := &metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}, Groups: []metav1.APIGroup{}}
	for _, g := range groups {
		if g.Name != "" {
			out.Groups = append(out.Groups, group(g))
		}
	}
	return out
}

func group(g kinds.Group) metav1.APIGroup {
	out := metav1.APIGroup{Name: g.Name}
	for _, v := range g.Versions {
		out.Versions = append(out.Versions, metav1.GroupVersionForDiscovery{GroupVersion: g.Name + "/" + v, Version: v})
	}
	out.PreferredVersion = out.Versions[0]
	return out
}

// storageHash changes when objects are stored in another version.
func storageHash(set *kinds.Set, r resource) string {
	stored := set.Stored(r.kind)
	if stored == nil || r.kind.Virtual {
		return ""
	}
	sum := sha256.Sum256([]byte(stored.GVK.Group + "/" + stored.GVK.Version + "/" + stored.GVK.Kind))
	return base64.StdEncoding.EncodeToString(sum[:8])
}

func resourceList(set *kinds.Set, groupName, version string) runtime.Object {
	out := &metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, APIResources: []metav1.APIResource{}}
	gv := version
	if groupName != "" {
		gv = groupName + "/" + version
	}
	out.GroupVersion = gv
	for _, r := range resources(set, groupName, version) {
		a := metav1.APIResource{
			Name: r.name, SingularName: r.singular, Namespaced: r.kind.Namespaced, Kind: r.gvk.Kind,
			Verbs: r.verbs, ShortNames: r.short, Categories: r.categories,
		}
		if r.sub == "" {
			a.StorageVersionHash = storageHash(set, r)
		} else if r.gvk.GroupVersion() != r.kind.GVK.GroupVersion() {
			a.Group, a.Version = r.gvk.Group, r.gvk.Version
		}
		out.APIResources = append(out.APIResources, a)
	}
	if len(out.APIResources) == 0 {
		return nil
	}
	return out
}

func (ds *documents) aggregate(groups []kinds.Group, core bool) runtime.Object {
	out := &apidiscoveryv2.APIGroupDiscoveryList{
		TypeMeta: metav1.TypeMeta{Kind: "APIGroupDiscoveryList", APIVersion: "apidiscovery.k8s.io/v2"},
		Items:    []apidiscoveryv2.APIGroupDiscovery{},
	}
	for _, g := range groups {
		if (g.Name == "") != core {
			continue
		}
		item := apidiscoveryv2.APIGroupDiscovery{ObjectMeta: metav1.ObjectMeta{Name: g.Name}}
		for _, v := range g.Versions {
			if remote := ds.view.Remote(schema.GroupVersion{Group: g.Name, Version: v}); remote != nil {
				item.Versions = append(item.Versions, remote.Discovery)
				continue
			}
			item.Versions = append(item.Versions, apidiscoveryv2.APIVersionDiscovery{
				Version: v, Resources: aggregateResources(ds.set, g.Name, v), Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent,
			})
		}
		out.Items = append(out.Items, item)
	}
	return out
}

func aggregateResources(set *kinds.Set, groupName, version string) []apidiscoveryv2.APIResourceDiscovery {
	var out []apidiscoveryv2.APIResourceDiscovery
	for _, r := range resources(set, groupName, version) {
		kind := &metav1.GroupVersionKind{Group: r.gvk.Group, Version: r.gvk.Version, Kind: r.gvk.Kind}
		if r.sub != "" {
			last := &out[len(out)-1]
			last.Subresources = append(last.Subresources, apidiscoveryv2.APISubresourceDiscovery{
				Subresource: r.sub, ResponseKind: kind, Verbs: r.verbs,
			})
			continue
		}
		scope := apidiscoveryv2.ScopeCluster
		if r.kind.Namespaced {
			scope = apidiscoveryv2.ScopeNamespace
		}
		out = append(out, apidiscoveryv2.APIResourceDiscovery{
			Resource: r.name, ResponseKind: kind, Scope: scope, SingularResource: r.singular,
			Verbs: r.verbs, ShortNames: r.short, Categories: r.categories,
		})
	}
	return out
}
