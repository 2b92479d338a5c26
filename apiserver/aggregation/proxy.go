package aggregation

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/client-go/transport"
	"k8s.io/streaming/pkg/httpstream"
)

// find returns the route of a request, nil where this server answers itself.
func (s *Server) find(r *http.Request, info *request.RequestInfo) (*route, context.Context) {
	if s == nil {
		return nil, nil
	}
	all := s.routes.Load()
	if all == nil {
		return nil, nil
	}
	if info.IsResourceRequest {
		return all.to[schema.GroupVersion{Group: info.APIGroup, Version: info.APIVersion}], all.ctx
	}
	path := r.URL.Path
	if rest, ok := strings.CutPrefix(path, "/openapi/v3/"); ok {
		to := all.to[versionAt("/"+rest)]
		if to == nil || to.known.Load().V3URL == "" {
			return nil, nil // what is made of its version 2 is served here
		}
		return to, all.ctx
	}
	return all.to[versionAt(path)], all.ctx
}

// versionAt is the group and version that a path leads to, if any.
func versionAt(path string) schema.GroupVersion {
	var gv schema.GroupVersion
	if rest, ok := strings.CutPrefix(path, "/apis/"); ok {
		gv.Group, rest, _ = strings.Cut(rest, "/")
		gv.Version, _, _ = strings.Cut(rest, "/")
	} else if rest, ok := strings.CutPrefix(path, "/api/"); ok {
		gv.Version, _, _ = strings.Cut(rest, "/")
	}
	return gv
}

// streams are subresources whose requests last.
var streams = []string{"attach", "exec", "proxy", "log", "portforward"}

// Lasts says that a request goes to another server and may take as long as it
// wants.
func (s *Server) Lasts(r *http.Request, info *request.RequestInfo) bool {
	to, _ := s.find(r, info)
	return to != nil && (httpstream.IsUpgradeRequest(r) || info.Verb == "watch" || slices.Contains(streams, info.Subresource))
}

// Serve leads a request on to the server that answers it; false means that this
// one does.
func (s *Server) Serve(w http.ResponseWriter, r *http.Request, info *request.RequestInfo) bool {
	to, ctx := s.find(r, info)
	if to == nil {
		return false
	}
	if s.Lasts(r, info) {
		own, cancel := context.WithCancel(r.Context())
		defer cancel()
		defer context.AfterFunc(ctx, cancel)()
		r = r.WithContext(own)
	}
	to.serve(w, r, info)
	return true
}

// unavailable is what clients read as "try again later".
func unavailable(w http.ResponseWriter) {
	http.Error(w, "service unavailable", http.StatusServiceUnavailable)
}

// via is by what name API servers know that they passed a request on, and
// maxPasses how many may: a Service can lead to an API server of this cluster,
// or of one that leads back.
const (
	via       = "proa-aggregator"
	maxPasses = 3
)

func passed(r *http.Request) (n int) {
	for _, v := range r.Header.Values("Via") {
		n += strings.Count(v, via)
	}
	return n
}

func (to *route) serve(w http.ResponseWriter, r *http.Request, info *request.RequestInfo) {
	u, ok := request.UserFrom(r.Context())
	switch {
	case !ok:
		http.Error(w, "missing user", http.StatusInternalServerError)
		return
	case !to.available:
		unavailable(w)
		return
	case to.broken != nil:
		http.Error(w, to.broken.Error(), http.StatusInternalServerError)
		return
	case passed(r) >= maxPasses:
		http.Error(w, "an aggregated API is led back to where it comes from", http.StatusLoopDetected)
		return
	}
	at, err := to.url(r.Context(), "")
	if err != nil {
		to.s.cfg.Logger.Debug("no endpoint of an aggregated API", "apiservice", to.apiService, "error", err)
		unavailable(w)
		return
	}
	// What is asked for is what the authorizer has read: no slash that is none to
	// others, no parameter that others find between semicolons.
	location := &url.URL{Scheme: at.Scheme, Host: at.Host, Path: r.URL.Path, RawQuery: r.URL.Query().Encode()}
	ctx := r.Context()
	if !info.IsResourceRequest { // clients ask every server what it serves: none may hold them up
		limited, cancel := context.WithTimeout(ctx, answerTimeout)
		defer cancel()
		ctx = limited
	}
	out := r.WithContext(ctx)
	out.Header = r.Header.Clone()
	out.URL, out.Host = location, location.Host
	if id := w.Header().Get("Audit-Id"); id != "" {
		out.Header.Set("Audit-Id", id)
	}
	out.Header.Add("Via", fmt.Sprintf("%d.%d %s", r.ProtoMajor, r.ProtoMinor, via))
	upgrade := httpstream.IsUpgradeRequest(r)
	// The names of the user are set last, behind what the client may have had
	// removed by a Connection header. Upgrades are passed on as they are.
	way := transport.NewAuthProxyRoundTripper(u.GetName(), u.GetUID(), u.GetGroups(), u.GetExtra(), answers{to.plain})
	if upgrade {
		transport.SetAuthProxyHeaders(out, u.GetName(), u.GetUID(), u.GetGroups(), u.GetExtra())
	}
	h := proxy.NewUpgradeAwareHandler(location, way, true, upgrade, failures{})
	h.UpgradeTransport = proxy.NewUpgradeRequestRoundTripper(to.upgrade, proxy.MirrorRequest)
	h.RejectForwardingRedirects = true
	h.FlushInterval = -1
	h.ServeHTTP(w, out)
}

// answers takes from an answer what this server says itself.
type answers struct{ *http.Transport }

// RoundTrip implements http.RoundTripper.
func (a answers) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := a.Transport.RoundTrip(r)
	if err == nil {
		resp.Header.Del("Audit-Id")
	}
	return resp, err
}

// failures answers when the other server does not.
type failures struct{}

// Error implements proxy.ErrorResponder.
func (failures) Error(w http.ResponseWriter, _ *http.Request, err error) {
	http.Error(w, err.Error(), http.StatusServiceUnavailable)
}
