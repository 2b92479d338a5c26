// Package webhookclient calls webhooks: servers of the cluster's users, reached
// by a URL or through a Service, that answer one JSON document with another.
//
// Whoever configures a webhook chooses where the API server connects to and what
// it reads. So answers are bounded, redirects are not followed, and nothing that
// names the server itself (credentials, cookies) is sent, but to servers of this
// cluster's own, which are known by their certificates.
package webhookclient

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/transport"
	"k8s.io/utils/lru"
)

const (
	// maxClients bounds the webhooks to which connections are kept.
	maxClients = 200
	// maxAnswer is how much is read of an answer that no Config bounds.
	maxAnswer = 8 << 20
	// idleTime is how long a connection waits for its next use.
	idleTime = 90 * time.Second
	// defaultPort is the port of a Service that names none.
	defaultPort = 443
)

// Resolve finds an address ("10.42.0.7:8443") at which a port of a Service is
// served.
type Resolve func(ctx context.Context, namespace, name string, port int32) (addr string, err error)

// Config says where a webhook is: at a URL or behind a Service.
type Config struct {
	URL     *string
	Service *Service
	// CABundle is the PEM of the authorities that are trusted; without any:
	// those of the machine.
	CABundle []byte
	// MaxAnswer bounds the answer in bytes; 0 means 8 MiB.
	MaxAnswer int64
}

// Service is a webhook's Service. Port 0 means 443.
type Service struct {
	Namespace, Name, Path string
	Port                  int32
}

// Self is how a webhook is asked that this cluster's API servers serve, as an
// aggregated API: behind their own Service, by one of their own.
type Self struct {
	// Identity is the certificate by which API servers believe who is named as
	// the user.
	Identity func(*tls.CertificateRequestInfo) (*tls.Certificate, error)
	// CAs sign the certificates of API servers.
	CAs *x509.CertPool
}

// own is the Service of the API servers.
var own = Service{Namespace: "default", Name: "kubernetes", Port: defaultPort}

func (s *Self) is(to *Service) bool {
	return s != nil && to != nil && to.Namespace == own.Namespace && to.Name == own.Name && to.Port == own.Port
}

// Option changes a Client.
type Option func(*Client)

// WithSelf has webhooks behind the Service of the API servers asked by s. They
// are asked by nobody, as all others, without.
func WithSelf(s Self) Option { return func(c *Client) { c.self = &s } }

// Client calls webhooks. Safe for concurrent use.
type Client struct {
	resolve Resolve
	self    *Self      // nil: nobody
	mu      sync.Mutex // between a miss and its Add
	clients *lru.Cache // of *endpoint, by where and whom to trust
}

// endpoint is what is kept for a webhook.
type endpoint struct {
	client    *rest.RESTClient
	transport *http.Transport
}

// New returns a client that finds Services by resolve.
func New(resolve Resolve, options ...Option) *Client {
	c := &Client{resolve: resolve, clients: lru.NewWithEvictionFunc(maxClients, func(_ lru.Key, v any) {
		v.(*endpoint).transport.CloseIdleConnections()
	})}
	for _, o := range options {
		o(c)
	}
	return c
}

// Close drops the connections that are not in use.
func (c *Client) Close() { c.clients.Clear() }

// Call posts request as JSON and reads the answer into response. Errors of the
// webhook and on the way to it read as those of any client of Kubernetes.
func (c *Client) Call(ctx context.Context, cfg Config, timeout time.Duration, request, response any) error {
	e, err := c.endpoint(cfg)
	if err != nil {
		return err
	}
	body, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("encode the request: %w", err)
	}
	limit := cfg.MaxAnswer
	if limit <= 0 {
		limit = maxAnswer
	}
	ctx = context.WithValue(ctx, limitKey{}, limit)
	r := e.client.Post().Timeout(timeout).SetHeader("Content-Type", "application/json").SetHeader("Accept", "application/json").Body(body).Do(ctx)
	if err := r.Error(); err != nil {
		return err
	}
	answer, err := r.Raw()
	if err != nil {
		return err
	}
	if err := json.Unmarshal(answer, response); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	return nil
}

// endpoint returns what is kept for a webhook, or makes it.
func (c *Client) endpoint(cfg Config) (*endpoint, error) {
	at, service, err := cfg.address()
	if err != nil {
		return nil, err
	}
	var to Service
	if service != nil {
		to = *service
	}
	key := struct {
		at, ca string
		to     Service
	}{at.String(), string(cfg.CABundle), to}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.clients.Get(key); ok {
		return e.(*endpoint), nil
	}
	e, err := c.open(at, service, cfg.CABundle)
	if err != nil {
		return nil, err
	}
	c.clients.Add(key, e)
	return e, nil
}

// address is the URL to post to; service is nil unless one leads there.
func (cfg Config) address() (at *url.URL, service *Service, err error) {
	if cfg.Service != nil {
		s := *cfg.Service
		if s.Port == 0 {
			s.Port = defaultPort
		}
		at, err := url.Parse("https://" + net.JoinHostPort(s.Name+"."+s.Namespace+".svc", strconv.Itoa(int(s.Port))))
		if err != nil {
			return nil, nil, fmt.Errorf("unparsable service: %w", err)
		}
		at.Path = s.Path
		return at, &s, nil
	}
	if cfg.URL == nil || *cfg.URL == "" {
		return nil, nil, errors.New("webhook configuration must have either service or URL")
	}
	if at, err = url.Parse(*cfg.URL); err != nil {
		return nil, nil, fmt.Errorf("unparsable URL: %w", err)
	}
	return at, nil, nil
}

func (c *Client) open(at *url.URL, service *Service, bundle []byte) (*endpoint, error) {
	// One request a connection: answers come from all pods of a Service alike.
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	t := &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSHandshakeTimeout: 10 * time.Second, IdleConnTimeout: idleTime,
		MaxIdleConnsPerHost: 25, Protocols: protocols, MaxResponseHeaderBytes: 64 << 10,
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12},
	}
	way := &roundTripper{to: t, resolve: c.resolve, service: service, self: c.self.is(service)}
	if way.self {
		t.TLSClientConfig.GetClientCertificate, t.TLSClientConfig.RootCAs = c.self.Identity, c.self.CAs.Clone()
	}
	if bundle = bytes.TrimSpace(bundle); len(bundle) > 0 {
		if t.TLSClientConfig.RootCAs == nil {
			t.TLSClientConfig.RootCAs = x509.NewCertPool()
		}
		if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(bundle) {
			return nil, errors.New("unable to load root certificates: unable to parse bytes as PEM block")
		}
	}
	if service != nil {
		t.Proxy = nil // pods are never behind a proxy of the machine
		t.TLSClientConfig.ServerName = service.Name + "." + service.Namespace + ".svc"
	}
	cfg := &rest.Config{
		Host: (&url.URL{Scheme: at.Scheme, Host: at.Host}).String(), APIPath: at.Path, QPS: -1, UserAgent: "proa-apiserver",
		ContentConfig:  rest.ContentConfig{NegotiatedSerializer: scheme.Codecs.WithoutConversion(), ContentType: "application/json"},
		WarningHandler: rest.NoWarnings{},
	}
	client, err := rest.UnversionedRESTClientForConfigAndClient(cfg, &http.Client{
		Transport:     way,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	})
	if err != nil {
		return nil, err
	}
	return &endpoint{client: client, transport: t}, nil
}

// roundTripper finds where a Service is served right now, for each request:
// connections to pods that are gone are not used again. It bounds answers.
type roundTripper struct {
	to      http.RoundTripper
	resolve Resolve
	service *Service // nil: the URL says where
	self    bool
}

type limitKey struct{}

// RoundTrip implements http.RoundTripper.
func (t *roundTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	if s := t.service; s != nil {
		addr, err := t.resolve(r.Context(), s.Namespace, s.Name, s.Port)
		if err != nil {
			if r.Body != nil {
				_ = r.Body.Close() // memory
			}
			return nil, err
		}
		host := r.URL.Host
		r = r.Clone(r.Context())
		r.URL.Host = addr
		if r.Host == "" {
			r.Host = host
		}
		if t.self {
			transport.SetAuthProxyHeaders(r, user.APIServerUser, "", []string{user.SystemPrivilegedGroup}, nil)
		}
	}
	resp, err := t.to.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if limit, ok := r.Context().Value(limitKey{}).(int64); ok {
		resp.Body = &bounded{ReadCloser: resp.Body, limit: limit, left: limit}
	}
	return resp, nil
}

// bounded fails where a body goes on for too long.
type bounded struct {
	io.ReadCloser
	limit, left int64
}

// Read implements io.Reader.
func (b *bounded) Read(p []byte) (int, error) {
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return n, fmt.Errorf("the answer is larger than %d bytes", b.limit)
	}
	return n, err
}
