// Package handlers speaks HTTP for the registry: it reads options and bodies,
// picks the format of the answer, and writes objects, lists and watches of
// bytes that the store made once.
//
// Authentication and authorization have happened when a request comes here.
package handlers

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/warning"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/codec"
	"github.com/proa-dev/proa/apiserver/kinds"
	"github.com/proa-dev/proa/apiserver/registry"
)

// Connect serves the subresources that lead to a node, pod or service. rest is
// the path after the subresource, without a leading slash.
type Connect interface {
	ServeConnect(w http.ResponseWriter, r *http.Request, t registry.Target, rest string) error
}

// Config is what a Handler is made of. Connect may be nil.
type Config struct {
	Registry *registry.Core
	Kinds    *kinds.Table
	Codec    *codec.Codec
	Connect  Connect
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Handler serves everything below /api/v1 and /apis/<group>/<version>.
type Handler struct {
	cfg   Config
	lists listBodies
	// stop ends watches when the server shuts down.
	stop     chan struct{}
	stopOnce sync.Once
}

// New returns a handler.
func New(cfg Config) *Handler {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Handler{cfg: cfg, stop: make(chan struct{})}
}

// StopWatches ends the watches that are open.
func (h *Handler) StopWatches() { h.stopOnce.Do(func() { close(h.stop) }) }

// connects are the subresources that Connect serves.
var connects = map[string][]string{
	"pods":     {"log", "exec", "attach", "portforward", "proxy"},
	"nodes":    {"proxy"},
	"services": {"proxy"},
}

// IsConnect says whether a request is for a subresource that leads out of the
// API server.
func IsConnect(info *request.RequestInfo) bool {
	return info.APIGroup == "" && info.Subresource != "" && slices.Contains(connects[info.Resource], info.Subresource)
}

// call is one request on its way.
type call struct {
	*Handler
	w      http.ResponseWriter
	r      *http.Request
	info   *request.RequestInfo
	target registry.Target
	sub    *api.Subresource // of subresources other than status and scale
	query  queryValues
	accept codec.Accepted
}

// Serve answers a resource request.
func (h *Handler) Serve(w http.ResponseWriter, r *http.Request, info *request.RequestInfo) {
	c := &call{Handler: h, w: w, r: r, info: info}
	if err := c.locate(); err != nil {
		c.fail(err)
		return
	}
	recorder := &warnings{header: w.Header()}
	ctx := registry.WithAuthorized(warning.WithWarningRecorder(r.Context(), recorder))
	if text := c.target.Kind.Deprecated; text != "" {
		warning.AddWarning(ctx, "", text)
	}
	if err := c.dispatch(ctx); err != nil {
		c.fail(err)
	}
}

// locate finds the kind and the subresource of the request.
func (c *call) locate() error {
	info := c.info
	gvr := schema.GroupVersionResource{Group: info.APIGroup, Version: info.APIVersion, Resource: info.Resource}
	k := c.cfg.Kinds.Set().ByResource(gvr)
	if k == nil {
		return notServed()
	}
	c.target = registry.Target{Kind: k, Namespace: info.Namespace, Name: info.Name, Subresource: info.Subresource}
	if !wellFormed(k, info, c.r.Method) {
		return notServed()
	}
	if !k.Namespaced {
		c.target.Namespace = ""
	}
	if !c.served() {
		if info.Subresource != "" && !hasSubresource(k, info.Subresource) {
			return notServed()
		}
		return apierrors.NewMethodNotSupported(k.GR(), methodVerb(c.r.Method, info.Verb))
	}
	var err error
	c.query, err = parseQuery(c.r.URL.RawQuery)
	return err
}

// wellFormed refuses paths that the authorizer understands as less than what
// they would do.
func wellFormed(k *api.Kind, info *request.RequestInfo, method string) bool {
	switch {
	case info.Resource == "namespaces":
		// In /namespaces/a/namespaces/b it decides as of a.
		if info.Namespace != "" && info.Namespace != info.Name {
			return false
		}
	case !k.Namespaced:
		if info.Namespace != "" {
			return false
		}
	case info.Namespace == "" && len(info.Parts) > 1:
		return false
	}
	switch info.Verb {
	case "watch", "proxy":
		// /watch/… makes any method a "watch": no way to a command in a pod.
		if info.Subresource != "" {
			return false
		}
	case "":
		// A method without a verb is for those alone who may do everything.
		if info.Subresource != "" && (info.Subresource != "proxy" || method != http.MethodOptions) {
			return false
		}
	}
	return len(info.Parts) <= 3 || IsConnect(info)
}

// methodVerb is how a 405 names what was tried.
func methodVerb(method, verb string) string {
	if verb != "" {
		return verb
	}
	return method
}

// notServed is the 404 of a path that leads nowhere.
func notServed() error {
	return &apierrors.StatusError{ErrStatus: apierrors.NewGenericServerResponse(http.StatusNotFound, "", schema.GroupResource{}, "", "404 page not found", 0, true).ErrStatus}
}

var standardVerbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}

// served says whether the verb is among those of the kind or subresource, and
// finds the latter.
func (c *call) served() bool {
	k, verb := c.target.Kind, c.info.Verb
	if c.info.Name == "" && (verb == "update" || verb == "patch") {
		return false
	}
	switch c.target.Subresource {
	case "":
		verbs := k.Verbs
		if verbs == nil {
			verbs = standardVerbs
		}
		if verb == "create" && (c.info.Name != "" || k.Namespaced && c.info.Namespace == "" && !k.Virtual) {
			return false
		}
		if verb == "deletecollection" && k.Namespaced && c.info.Namespace == "" {
			return false
		}
		return slices.Contains(verbs, verb)
	case "status":
		if k.Status != nil {
			return verb == "get" || verb == "update" || verb == "patch"
		}
	case "scale":
		if k.Scale != nil {
			return verb == "get" || verb == "update" || verb == "patch"
		}
	}
	for i := range k.Subresources {
		if s := &k.Subresources[i]; s.Name == c.target.Subresource {
			c.sub = s
			return IsConnect(c.info) || slices.Contains(s.Verbs, verb)
		}
	}
	return false
}

// hasSubresource says whether a kind has a subresource, whatever its verbs.
func hasSubresource(k *api.Kind, name string) bool {
	return name == "status" && k.Status != nil || name == "scale" && k.Scale != nil ||
		slices.ContainsFunc(k.Subresources, func(s api.Subresource) bool { return s.Name == name })
}

func (c *call) dispatch(ctx context.Context) error {
	if IsConnect(c.info) {
		if c.cfg.Connect == nil {
			return apierrors.NewMethodNotSupported(c.target.Kind.GR(), c.info.Verb)
		}
		rest := ""
		if len(c.info.Parts) > 3 {
			rest = restOf(c.r.URL.Path, c.info)
		}
		return c.cfg.Connect.ServeConnect(c.w, c.r.WithContext(ctx), c.target, rest)
	}
	if err := c.negotiate(); err != nil {
		return err
	}
	switch c.info.Verb {
	case "get":
		return c.get(ctx)
	case "list":
		return c.list(ctx)
	case "watch":
		return c.watch(ctx)
	case "create":
		return c.create(ctx)
	case "update":
		return c.update(ctx)
	case "patch":
		return c.patch(ctx)
	case "delete":
		return c.delete(ctx)
	case "deletecollection":
		return c.deleteCollection(ctx)
	}
	return apierrors.NewMethodNotSupported(c.target.Kind.GR(), c.info.Verb)
}

// negotiate picks the format of the answer.
func (c *call) negotiate() error {
	k := c.target.Kind
	accepted, ok := codec.Negotiate(c.r.Header.Get("Accept"), func(a codec.Accepted) bool {
		switch a.As {
		case "Table": // what is computed and never stored has no columns
			if k.Virtual && len(k.Columns) == 0 {
				return false
			}
		case "": // custom resources have no protobuf form, but their metadata has
			if k.Coerce != nil && a.Format == codec.Protobuf && c.target.Subresource != "scale" {
				return false
			}
		}
		return codec.IsKnown(a)
	})
	if !ok {
		return notAcceptable()
	}
	c.accept = accepted
	return nil
}
