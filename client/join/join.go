// Package join makes a machine a node of a cluster, and keeps it one.
//
//	token ─> who is the cluster? (its CA, checked by the token's hash)
//	      ─> who am I?           (client certificate, by a signing request)
//	      ─> what do all agree on? (Settings)
//	      ─> under which name do I serve? (serving certificate, by another request)
//
// All of it is kept in one folder (0700, files 0600), so that the token is needed
// once. Both certificates are renewed while in use, when a third of their life
// is left: connections made with the old one are cut and made anew.
package join

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/connrotation"
	"k8s.io/utils/clock"

	"github.com/proa-dev/proa/internal/bootstraptoken"
)

// Config says which cluster to join, and as what.
type Config struct {
	// Dir keeps what was obtained.
	Dir string
	// Servers are URLs of API servers of the cluster. The others are learnt of.
	Servers []string
	// Token is the full form of a bootstrap token; it may be empty once Dir
	// holds a certificate.
	Token    string
	NodeName string
	// Addresses are those that the node serves under, beside its name.
	Addresses []net.IP
	Logger    *slog.Logger
	// Clock is real when nil.
	Clock clock.Clock
}

// Validate says what is missing or wrong.
func (c *Config) Validate() error {
	for _, s := range c.Servers {
		if _, err := addressOf(s); err != nil {
			return err
		}
	}
	switch {
	case len(c.Servers) == 0:
		return errors.New("join: no --server: the URL of the cluster's API server, such as https://192.0.2.1:6443")
	case c.Dir == "" || !filepath.IsAbs(c.Dir):
		return fmt.Errorf("join: folder %q is not absolute", c.Dir)
	case c.NodeName == "":
		return errors.New("join: no node name")
	case c.Logger == nil:
		return errors.New("join: no logger")
	}
	return nil
}

// Node is this machine as a node. Safe for concurrent use.
type Node struct {
	cfg      Config
	ca       []byte
	pool     *x509.CertPool
	client   atomic.Pointer[tls.Certificate]
	serving  atomic.Pointer[tls.Certificate]
	servers  *servers
	dialer   *connrotation.Dialer
	rest     *rest.Config
	settings Settings

	mu sync.Mutex
	// complained keeps one failure from being told again and again.
	complained string
}

// Open returns once this machine may act as the node: at once if Dir says so,
// else when the cluster has given it a certificate. It waits for a server that
// does not answer, and fails where waiting does not help.
func Open(ctx context.Context, cfg Config) (*Node, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("join: %w", err)
	}
	n := &Node{cfg: cfg, servers: &servers{log: cfg.Logger},
		dialer: connrotation.NewDialer((&net.Dialer{KeepAlive: 30 * time.Second}).DialContext)}
	for _, s := range cfg.Servers {
		address, err := addressOf(s)
		if err != nil {
			return nil, err
		}
		n.servers.given = append(n.servers.given, address)
	}
	n.servers.learn(n.rememberedServers())
	if err := n.recall(); err != nil {
		return nil, err
	}
	if n.client.Load() == nil {
		if err := n.enroll(ctx); err != nil {
			return nil, err
		}
	}
	n.connect()
	if err := n.learn(ctx); err != nil {
		return nil, err
	}
	return n, nil
}

// recall takes what an earlier run obtained.
func (n *Node) recall() error {
	ca, err := os.ReadFile(n.path("ca.crt"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("join: %w", err)
	}
	if n.cfg.Token != "" {
		_, want, err := bootstraptoken.ParseFull(n.cfg.Token)
		if err != nil {
			return fmt.Errorf("join: --token: %w", err)
		}
		if have, err := bootstraptoken.CAHash(ca); err != nil || have != want {
			return fmt.Errorf("join: %s belongs to another cluster than the token: remove it by `proa reset`, or leave out --token", n.cfg.Dir)
		}
	}
	if err := n.trust(ca); err != nil {
		return err
	}
	now := n.cfg.Clock.Now()
	for file, to := range map[string]*atomic.Pointer[tls.Certificate]{clientFile: &n.client, servingFile: &n.serving} {
		pair, err := readPair(n.path(file))
		switch {
		case errors.Is(err, os.ErrNotExist):
			continue
		case err != nil:
			n.cfg.Logger.Warn("certificate not read, another one is asked for", "file", n.path(file), "error", err)
			continue
		case pair.Leaf.Subject.CommonName != n.user():
			n.cfg.Logger.Warn("certificate is another node's, a new one is asked for", "file", n.path(file), "holder", pair.Leaf.Subject.CommonName)
			continue
		case !now.Before(pair.Leaf.NotAfter):
			n.cfg.Logger.Warn("certificate has expired, another one is asked for", "file", n.path(file), "expired", pair.Leaf.NotAfter)
			continue
		}
		to.Store(pair)
	}
	return nil
}

func (n *Node) trust(ca []byte) error {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return fmt.Errorf("join: %s holds no certificate: remove it and start again with --token", n.path("ca.crt"))
	}
	n.ca, n.pool = ca, pool
	return nil
}

func (n *Node) path(file string) string { return filepath.Join(n.cfg.Dir, file) }

func (n *Node) user() string { return "system:node:" + n.cfg.NodeName }

// CAs verify the cluster: its servers, and those who call the node.
func (n *Node) CAs() *x509.CertPool { return n.pool }

// REST is how the node reaches the API server. Its connections are shared.
func (n *Node) REST() *rest.Config { return rest.CopyConfig(n.rest) }

// Settings is what all nodes of the cluster agree on.
func (n *Node) Settings() Settings { return n.settings }

// GetCertificate is for tls.Config of the node's API.
func (n *Node) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if c := n.serving.Load(); c != nil {
		return c, nil
	}
	return nil, errors.New("the cluster has not signed this node's serving certificate yet")
}

// Liveness of connections: a server that is gone without a word is noticed.
const (
	pingAfter   = 30 * time.Second
	pingTimeout = 15 * time.Second
)

// connect makes the transport with the client certificate.
func (n *Node) connect() {
	n.rest = &rest.Config{Host: n.cfg.Servers[0], UserAgent: "proa-agent", QPS: -1,
		Transport: n.transport(func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return n.client.Load(), nil })}
}

// transport makes one to the cluster's servers.
func (n *Node) transport(certificate func(*tls.CertificateRequestInfo) (*tls.Certificate, error)) *http.Transport {
	return &http.Transport{
		DialTLSContext: n.servers.connect(n.dialer.DialContext, &tls.Config{
			RootCAs: n.pool, MinVersion: tls.VersionTLS12, ServerName: serverName, NextProtos: []string{"h2", "http/1.1"},
			GetClientCertificate: certificate,
		}),
		MaxIdleConnsPerHost: 25, IdleConnTimeout: 90 * time.Second,
		ForceAttemptHTTP2: true,
		HTTP2:             &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
	}
}
