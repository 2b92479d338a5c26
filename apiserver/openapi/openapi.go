// Package openapi serves /openapi/v2 and /openapi/v3: what clients explain,
// validate and patch by. The documents are made of the kinds' Go types by
// reflection, when first asked for, and kept until the table of kinds changes.
package openapi

import (
	"crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	openapi_v3 "github.com/google/gnostic-models/openapiv3"
	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"

	"github.com/proa-dev/proa/apiserver/apiservices"
	"github.com/proa-dev/proa/apiserver/kinds"
)

// Media types of the documents in protobuf: what clients ask for, and what they
// get, as "@" is not allowed in a Content-Type.
const (
	askV2   = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
	askV3   = "application/com.github.proto-openapi.spec.v3@v1.0+protobuf"
	mediaV2 = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
	mediaV3 = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf"
)

// Handler serves the documents.
type Handler struct {
	kinds *kinds.Table
	types managedfields.TypeConverter
	view  func() *apiservices.View
	// tokens says that the server tells who issues its tokens, and their keys.
	tokens bool

	mu      sync.Mutex // held while documents are made, so that it happens once
	current *documents
}

// New returns a handler over the table and what other servers serve. types tells
// how lists and maps merge, tokens whether the server has the paths of an issuer
// of tokens.
func New(k *kinds.Table, types managedfields.TypeConverter, view func() *apiservices.View, tokens bool) *Handler {
	return &Handler{kinds: k, types: types, view: view, tokens: tokens}
}

// document is one document in its encodings.
type document struct {
	json  []byte
	etag  string
	proto []byte // made when first asked for
}

// documents are those of one generation of the table.
type documents struct {
	set     *kinds.Set
	view    *apiservices.View
	builder *builder
	v2      *document
	v3      map[string]*document // by path below /openapi/v3/
	index   *document
}

var errNoDocument = errors.New("404 page not found")

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	below := strings.TrimPrefix(r.URL.Path, "/openapi/v3/")
	var d *document
	var err error
	accept := r.Header.Get("Accept")
	asProto := false
	for _, media := range []string{askV2, askV3, mediaV2, mediaV3} {
		asProto = asProto || strings.Contains(accept, media)
	}
	switch r.URL.Path {
	case "/openapi/v2":
		d, err = h.get(func(ds *documents) (*document, error) { return ds.swagger(asProto) })
	case "/openapi/v3", "/openapi/v3/":
		asProto = false
		d, err = h.get((*documents).root)
	default:
		d, err = h.get(func(ds *documents) (*document, error) { return ds.group(below, asProto) })
	}
	switch {
	case errors.Is(err, errNoDocument):
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	case err != nil:
		http.Error(w, "internal server error: "+err.Error(), http.StatusInternalServerError)
		return
	}
	h.write(w, r, d, asProto)
}

func (h *Handler) write(w http.ResponseWriter, r *http.Request, d *document, asProto bool) {
	header := w.Header()
	body, media := d.json, "application/json"
	if asProto {
		body, media = d.proto, mediaV3
		if r.URL.Path == "/openapi/v2" {
			media = mediaV2
		}
	}
	header.Set("Content-Type", media)
	header.Set("Vary", "Accept")
	header.Set("ETag", `"`+d.etag+`"`)
	header.Set("Cache-Control", "no-cache, private")
	if hash := r.URL.Query().Get("hash"); hash != "" {
		if hash != d.etag { // a document of former kinds: lead to the present one
			u := *r.URL
			u.RawQuery = "hash=" + d.etag
			http.Redirect(w, r, u.String(), http.StatusMovedPermanently)
			return
		}
		header.Set("Cache-Control", "public, immutable")
		header.Set("Expires", time.Now().AddDate(1, 0, 0).UTC().Format(http.TimeFormat))
	}
	if r.Header.Get("If-None-Match") == `"`+d.etag+`"` {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // the client has gone if this fails
	}
}

// get makes or finds a document of the present kinds.
func (h *Handler) get(find func(*documents) (*document, error)) (*document, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	set, view := h.kinds.Set(), h.view()
	if h.current == nil || h.current.set != set || h.current.view != view {
		b := newBuilder(set, h.types)
		b.tokens = h.tokens
		b.elsewhere = func(gv schema.GroupVersion) bool { return view.Remote(gv) != nil }
		h.current = &documents{set: set, view: view, builder: b, v3: map[string]*document{}}
	}
	return find(h.current)
}

func newDocument(content any) (*document, error) {
	data, err := json.Marshal(content)
	if err != nil {
		return nil, err
	}
	sum := sha512.Sum512(data)
	return &document{json: data, etag: strings.ToUpper(hex.EncodeToString(sum[:]))}, nil
}

func (ds *documents) swagger(asProto bool) (*document, error) {
	if ds.v2 == nil {
		content, err := ds.withRemotes(ds.builder.swagger())
		if err != nil {
			return nil, err
		}
		if ds.v2, err = newDocument(content); err != nil {
			return nil, err
		}
	}
	if asProto && ds.v2.proto == nil {
		parsed, err := openapi_v2.ParseDocument(ds.v2.json)
		if err != nil {
			return nil, err
		}
		if ds.v2.proto, err = proto.Marshal(parsed); err != nil {
			return nil, err
		}
	}
	return ds.v2, nil
}

func pathOf(gv schema.GroupVersion) string {
	if gv.Group == "" {
		return "api/" + gv.Version
	}
	return "apis/" + gv.Group + "/" + gv.Version
}

func (ds *documents) group(path string, asProto bool) (*document, error) {
	d := ds.v3[path]
	if d == nil {
		content := ds.content(path)
		if content == nil {
			return nil, errNoDocument
		}
		var err error
		if d, err = newDocument(content); err != nil {
			return nil, err
		}
		ds.v3[path] = d
	}
	if asProto && d.proto == nil {
		parsed, err := openapi_v3.ParseDocument(d.json)
		if err != nil {
			return nil, err
		}
		if d.proto, err = proto.Marshal(parsed); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// content makes the document at a path; nil if there is none.
func (ds *documents) content(path string) any {
	if gv, ok := ds.find(path); ok {
		if ds.view.Remote(gv) == nil {
			return ds.builder.openapi(gv)
		}
		if doc := ds.converted(gv); doc != nil {
			return doc
		}
		return nil
	}
	for _, r := range ds.builder.roots() {
		if r.path == path {
			return ds.builder.document(func(d *definitions, paths object) { d.addRoot(r, paths) })
		}
	}
	return nil
}

func (ds *documents) find(path string) (schema.GroupVersion, bool) {
	for _, g := range ds.view.Groups(ds.set) {
		for _, v := range g.Versions {
			if gv := (schema.GroupVersion{Group: g.Name, Version: v}); pathOf(gv) == path {
				return gv, true
			}
		}
	}
	return schema.GroupVersion{}, false
}

// root lists the documents with their hashes, by which clients cache them.
func (ds *documents) root() (*document, error) {
	if ds.index != nil {
		return ds.index, nil
	}
	paths := map[string]any{}
	add := func(path string) error {
		d, err := ds.group(path, false)
		if errors.Is(err, errNoDocument) {
			return nil // another server that does not describe itself
		}
		if err == nil {
			paths[path] = map[string]string{"serverRelativeURL": fmt.Sprintf("/openapi/v3/%s?hash=%s", path, d.etag)}
		}
		return err
	}
	for _, r := range ds.builder.roots() {
		if err := add(r.path); err != nil {
			return nil, err
		}
	}
	for _, g := range ds.view.Groups(ds.set) {
		for _, v := range g.Versions {
			gv := schema.GroupVersion{Group: g.Name, Version: v}
			if remote := ds.view.Remote(gv); remote != nil && remote.V3URL != "" {
				paths[pathOf(gv)] = map[string]string{"serverRelativeURL": remote.V3URL}
				continue
			}
			if err := add(pathOf(gv)); err != nil {
				return nil, err
			}
		}
	}
	var err error
	ds.index, err = newDocument(map[string]any{"paths": paths})
	return ds.index, err
}
