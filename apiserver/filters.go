package apiserver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/handlers"
	"github.com/proa-dev/proa/apiserver/registry"
)

// requestTimeout ends requests that are not meant to last.
const requestTimeout = 60 * time.Second

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w := &response{ResponseWriter: rw}
	begin := s.cfg.Now()
	info, infoErr := s.infos.NewRequestInfo(r)
	defer s.recover(w, r)
	defer func() { s.metrics.observe(info, r, s.served(info), w, s.cfg.Now().Sub(begin)) }()
	auditID := r.Header.Get("Audit-Id")
	if auditID == "" || len(auditID) > 64 {
		auditID = string(uuid.NewUUID())
	}
	w.Header()["Audit-Id"] = []string{auditID}
	if infoErr != nil {
		s.fail(w, r, apierrors.NewBadRequest(infoErr.Error()))
		return
	}
	if err := s.serve(w, r, info); err != nil {
		s.fail(w, r, err)
	}
}

// served is the kind that a request was for; nil if that is not served.
func (s *Server) served(info *request.RequestInfo) *api.Kind {
	if info == nil {
		return nil
	}
	k := s.kinds.Set().ByResource(schema.GroupVersionResource{Group: info.APIGroup, Version: info.APIVersion, Resource: info.Resource})
	switch {
	case k == nil:
		return nil
	case info.Subresource == "", info.Subresource == "status" && k.Status != nil, info.Subresource == "scale" && k.Scale != nil:
		return k
	}
	if slices.ContainsFunc(k.Subresources, func(sub api.Subresource) bool { return sub.Name == info.Subresource }) {
		return k
	}
	return nil
}

func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	handlers.WriteError(w, r, s.codec, err)
}

// recover answers a request whose handler panicked, if it can still be.
func (s *Server) recover(w *response, r *http.Request) {
	p := recover()
	if p == nil {
		return
	}
	if p == http.ErrAbortHandler { //nolint:errorlint // net/http compares so
		panic(p)
	}
	s.cfg.Logger.Error("request handler panicked", "method", r.Method, "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
	if w.code != 0 {
		panic(http.ErrAbortHandler) // the client must not take it for a whole answer
	}
	s.fail(w, r, internalError(fmt.Errorf("This request caused apiserver to panic. Look in the logs for details."))) //nolint:staticcheck // upstream's text
}

// serve takes a request through the filters.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, info *request.RequestInfo) error {
	u, err := s.authenticate(r)
	if r.ProtoMajor == 2 && (err != nil || u.GetName() == user.Anonymous) {
		// Strangers have a connection for one request: streams that are opened and
		// reset cost the server more than the client.
		w.Header().Set("Connection", "close")
	}
	if err != nil {
		return err
	}
	if impersonates(r.Header) {
		if u, err = s.impersonate(r.Context(), r.Header, attributesOf(u, info)); err != nil {
			return err
		}
	}
	ctx := request.WithUser(r.Context(), u)
	if isLong(r, info) || s.remote.Lasts(r, info) {
		r = r.WithContext(ctx)
		if err := registry.Authorize(ctx, s.cfg.Authorizer, attributesOf(u, info)); err != nil {
			return err
		}
		defer s.metrics.longRunning(info, r, s.served(info))()
		s.route(w, r, info)
		return nil
	}
	limit := s.reads
	switch info.Verb {
	case "get", "list", "head":
	default:
		limit = s.writes
	}
	defer limit.count()()
	if !privileged(u) {
		if err := limit.enter(ctx); err != nil {
			return err
		}
		defer limit.leave()
	}
	if err := registry.Authorize(ctx, s.cfg.Authorizer, attributesOf(u, info)); err != nil {
		return err
	}
	timeout, err := timeoutOf(r)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	defer handlers.Bound(ctx, w, r.ContentLength != 0)()
	s.route(w, r.WithContext(ctx), info)
	return nil
}

// authenticate says who makes the request.
func (s *Server) authenticate(r *http.Request) (user.Info, error) {
	resp, ok, err := s.cfg.Authenticator.AuthenticateRequest(r)
	if err != nil || !ok {
		if err != nil {
			s.cfg.Logger.Debug("unable to authenticate the request", "error", err)
		}
		return nil, apierrors.NewUnauthorized("Unauthorized")
	}
	r.Header.Del("Authorization") // nobody behind this line needs it
	return resp.User, nil
}

// attributesOf is what the authorizer is asked about a request.
func attributesOf(u user.Info, info *request.RequestInfo) authorizer.AttributesRecord {
	a := authorizer.AttributesRecord{
		User: u, Verb: info.Verb, Namespace: info.Namespace, APIGroup: info.APIGroup, APIVersion: info.APIVersion,
		Resource: info.Resource, Subresource: info.Subresource, Name: info.Name,
		ResourceRequest: info.IsResourceRequest, Path: info.Path,
	}
	if info.FieldSelector != "" {
		sel, err := fields.ParseSelector(info.FieldSelector)
		if err != nil {
			a.FieldSelectorParsingErr = err
		} else {
			a.FieldSelectorRequirements = sel.Requirements()
		}
	}
	if info.LabelSelector != "" {
		sel, err := labels.Parse(info.LabelSelector)
		if err != nil {
			a.LabelSelectorParsingErr = err
		} else {
			a.LabelSelectorRequirements, _ = sel.Requirements()
		}
	}
	return a
}

// isLong says that a request may last: watches and streams.
func isLong(r *http.Request, info *request.RequestInfo) bool {
	if !info.IsResourceRequest {
		return false
	}
	return info.Verb == "watch" || info.Verb == "proxy" || handlers.IsConnect(info)
}

// privileged users are never turned away for load: they may have to mend it.
func privileged(u user.Info) bool {
	for _, g := range u.GetGroups() {
		if g == user.SystemPrivilegedGroup {
			return true
		}
	}
	return false
}

// timeoutOf is the time a request gets; clients may ask for less.
func timeoutOf(r *http.Request) (time.Duration, error) {
	if r.URL.RawQuery == "" {
		return requestTimeout, nil
	}
	v := r.URL.Query().Get("timeout")
	if v == "" {
		return requestTimeout, nil
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		return 0, apierrors.NewBadRequest(fmt.Sprintf("invalid timeout specified in the request URL - %v", err))
	}
	if d <= 0 {
		return requestTimeout, nil
	}
	return min(d, requestTimeout), nil
}

// response remembers the status code and how much was written.
type response struct {
	http.ResponseWriter
	code    int
	written int64
}

// WriteHeader implements http.ResponseWriter.
func (w *response) WriteHeader(code int) {
	if w.code == 0 {
		w.code = code
	}
	w.ResponseWriter.WriteHeader(code)
}

// Write implements http.ResponseWriter.
func (w *response) Write(p []byte) (int, error) {
	if w.code == 0 {
		w.code = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(p)
	w.written += int64(n)
	return n, err
}

// Flush implements http.Flusher.
func (w *response) Flush() { _ = http.NewResponseController(w.ResponseWriter).Flush() }

// Hijack implements http.Hijacker.
func (w *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err == nil && w.code == 0 {
		w.code = http.StatusSwitchingProtocols
	}
	return conn, rw, err
}

// Unwrap lets http.ResponseController through.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *response) status() int {
	if w.code == 0 {
		return http.StatusOK
	}
	return w.code
}

// limiter bounds requests in flight. Those above the bound wait a moment, and
// so many that this is bounded as well.
type limiter struct {
	running chan struct{}
	waiting chan struct{}
	// now is how many requests there are, those that no bound holds back
	// included, and most how many there were since somebody asked.
	now, most atomic.Int64
}

const (
	// waitersPer is how many requests may wait for each that runs.
	waitersPer = 8
	maxWait    = 15 * time.Second
)

func newLimiter(n int) *limiter {
	return &limiter{running: make(chan struct{}, n), waiting: make(chan struct{}, n*waitersPer)}
}

var errBusy = errors.New("too many requests, please try again later")

func (l *limiter) enter(ctx context.Context) error {
	select {
	case l.running <- struct{}{}:
		return nil
	default:
	}
	busy := apierrors.NewTooManyRequests(errBusy.Error(), 1)
	select {
	case l.waiting <- struct{}{}:
		defer func() { <-l.waiting }()
	default:
		return busy
	}
	timer := time.NewTimer(maxWait)
	defer timer.Stop()
	select {
	case l.running <- struct{}{}:
		return nil
	case <-timer.C:
		return busy
	case <-ctx.Done():
		return busy
	}
}

func (l *limiter) leave() { <-l.running }

// count counts a request, until what it returns is called.
func (l *limiter) count() (done func()) {
	n := l.now.Add(1)
	for most := l.most.Load(); n > most && !l.most.CompareAndSwap(most, n); most = l.most.Load() {
	}
	return l.uncount
}

func (l *limiter) uncount() { l.now.Add(-1) }

// peak is the most requests at a time since the last call.
func (l *limiter) peak() int64 { return l.most.Swap(l.now.Load()) }
