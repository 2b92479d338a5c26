package aggregation

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/transport"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/apiservices"
	"github.com/proa-dev/proa/apiserver/connect"
	"github.com/proa-dev/proa/store"
)

const (
	// rest is how long a backend that is well is not looked at, if nothing
	// happens.
	rest = 30 * time.Second
	// refresh is how long what a backend serves is believed.
	refresh = time.Minute
	// Failures are tried again after firstTry, twice that, …, at most rest.
	firstTry = 100 * time.Millisecond
	// patience is how long a condition stands before somebody else's contradicts
	// it: two servers that see a backend differently must not write in turns.
	patience = 5 * time.Second
	// breath is the least time between two looks, however much happens.
	breath = 100 * time.Millisecond

	defaultPort = 443
)

// target is what a backend is reached by. Another target is another backend.
type target struct {
	uid             types.UID
	gv              schema.GroupVersion
	namespace, name string
	port            int32
	insecure        bool
	ca              string
}

func targetOf(svc *apiService) target {
	ref := svc.Spec.Service
	return target{
		uid: svc.UID, gv: groupVersion(svc), namespace: ref.Namespace, name: ref.Name, port: ptr.Deref(ref.Port, defaultPort),
		insecure: svc.Spec.InsecureSkipTLSVerify, ca: string(svc.Spec.CABundle),
	}
}

// backend is another server that serves one group and version.
type backend struct {
	target
	s          *Server
	apiService string
	plain      *http.Transport
	upgrade    *http.Transport // of HTTP/1.1, which alone upgrades
	client     *http.Client
	broken     error // what is wrong with the target itself
	cancel     context.CancelFunc
	bell       chan struct{}
	// known is what it serves.
	known atomic.Pointer[apiservices.Remote]
	// told is the condition that was written last.
	told atomic.Pointer[apiregistrationv1.APIServiceCondition]

	// Of run alone.
	asked time.Time // when it said last what it serves
	etag  string    // of its OpenAPI document
}

// open makes a backend that is not looked at yet.
func (s *Server) open(name string, at target) *backend {
	b := &backend{target: at, s: s, apiService: name, bell: make(chan struct{}, 1)}
	cfg := &tls.Config{
		ServerName: at.name + "." + at.namespace + ".svc", InsecureSkipVerify: at.insecure,
		GetClientCertificate: s.cfg.Identity, MinVersion: tls.VersionTLS12,
	}
	if at.ca != "" {
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM([]byte(at.ca)) {
			b.broken = errors.New("unable to load root certificates: unable to parse bytes as PEM block")
		}
	}
	dialer := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second, Control: connect.Guard}
	open := func(http2 bool) *http.Transport {
		t := &http.Transport{
			DialContext: dialer.DialContext, TLSClientConfig: cfg.Clone(), TLSHandshakeTimeout: 10 * time.Second,
			IdleConnTimeout: 90 * time.Second, MaxIdleConnsPerHost: 25, MaxResponseHeaderBytes: 1 << 20,
			Protocols: &http.Protocols{}, HTTP2: &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
		}
		t.Protocols.SetHTTP1(true)
		t.Protocols.SetHTTP2(http2)
		return t
	}
	b.plain, b.upgrade = open(true), open(false)
	b.client = &http.Client{Transport: b.plain, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	b.known.Store(&apiservices.Remote{Discovery: unknown(at.gv)})
	return b
}

// stop ends a backend. Requests that are on their way go on.
func (b *backend) stop() { b.cancel() }

// compare has the backend looked at again when somebody else wrote its condition.
func (b *backend) compare(svc *apiService) {
	told, have := b.told.Load(), helper.GetAPIServiceConditionByType(svc, apiregistrationv1.Available)
	if told == nil || have != nil && have.Status == told.Status && have.Reason == told.Reason ||
		time.Since(told.LastTransitionTime.Time) < patience { // the next look will tell
		return
	}
	select {
	case b.bell <- struct{}{}:
	default:
	}
}

// run looks at the backend, at once when its Service or endpoints change.
func (b *backend) run(ctx context.Context, group *sync.WaitGroup) {
	defer b.plain.CloseIdleConnections()
	defer b.upgrade.CloseIdleConnections()
	group.Go(func() {
		b.s.ring(ctx, b.s.core, store.WatchOptions{Key: b.namespace + "/" + b.name}, b.bell)
	})
	group.Go(func() {
		b.s.ring(ctx, b.s.slices, store.WatchOptions{Prefix: b.namespace + "/", Match: func(o api.Object) bool {
			return o.GetLabels()[discoveryv1.LabelServiceName] == b.name
		}}, b.bell)
	})
	try := firstTry
	for ctx.Err() == nil {
		if err := b.look(ctx); err != nil {
			b.s.cfg.Logger.Debug("an aggregated API is not served", "apiservice", b.apiService, "error", err)
			wait(ctx, b.bell, true, try)
			try = min(2*try, rest)
		} else {
			try = firstTry
			wait(ctx, b.bell, true, rest)
		}
		wait(ctx, nil, true, breath)
	}
}

// look finds out whether the backend serves, and what.
func (b *backend) look(ctx context.Context) error {
	select {
	case b.s.looks <- struct{}{}:
		defer func() { <-b.s.looks }()
	case <-ctx.Done():
		return ctx.Err()
	}
	condition, err := b.check(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if told := b.report(ctx, condition); told != nil {
		return told
	}
	if condition.Status != apiregistrationv1.ConditionTrue {
		b.stale()
		b.asked = time.Time{}
		return err
	}
	if time.Since(b.asked) < refresh {
		return nil
	}
	if err := b.learn(ctx); err != nil {
		b.stale()
		return err
	}
	b.asked = time.Now()
	return nil
}

// url is where one of the Service's endpoints serves path.
func (b *backend) url(ctx context.Context, path string) (*url.URL, error) {
	at, err := b.s.endpoints.Address(ctx, b.namespace, b.name, b.port)
	if err != nil {
		return nil, err
	}
	return &url.URL{Scheme: "https", Host: at, Path: path}, nil
}

// discoveryPath is what every server of the group and version must serve.
func (b *backend) discoveryPath() string {
	if b.gv.Group == "" {
		return "/api/" + b.gv.Version
	}
	return "/apis/" + b.gv.Group + "/" + b.gv.Version
}

// request makes a request of the server's own, which may all.
func (b *backend) request(ctx context.Context, to *url.URL) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, to.String(), nil)
	if err != nil {
		return nil, err
	}
	transport.SetAuthProxyHeaders(r, "system:kube-aggregator", "", []string{user.SystemPrivilegedGroup}, nil)
	return r, nil
}

// answer is what a backend answers.
type answer struct {
	code   int
	header http.Header
	body   []byte
}

// maxDocument bounds what is read of a document.
const maxDocument = 32 << 20

// get reads a document.
func (b *backend) get(ctx context.Context, path string, header map[string]string) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, documentTimeout)
	defer cancel()
	to, err := b.url(ctx, path)
	if err != nil {
		return nil, err
	}
	r, err := b.request(ctx, to)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		r.Header.Set(k, v)
	}
	resp, err := b.client.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", to, err)
	case len(body) > maxDocument:
		return nil, fmt.Errorf("read %s: it is larger than %d bytes", to, maxDocument)
	}
	return &answer{code: resp.StatusCode, header: resp.Header, body: body}, nil
}
