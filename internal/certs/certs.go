// Package certs is the cluster's own certificate authority.
//
// # What is on disk
//
// Three keys live in one directory (0700, files 0600), each made once:
//
//	ca.key, ca.crt                         signs every server and client of the cluster
//	front-proxy-ca.key, front-proxy-ca.crt signs the proxy in front of extension API servers
//	service-account.key                    signs service account tokens
//
// A Leaf (a server's or client's certificate) is never stored: it is issued at
// start and issued again, while in use, when a third of its life is left. So
// there is nothing to rotate by hand but the authorities themselves, and no
// stale file to trip over.
//
// A crash at any point leaves a directory that Open completes: files appear
// whole or not at all, a key before its certificate.
package certs

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/utils/clock"
)

const (
	authorityLife = 10 * 365 * 24 * time.Hour
	leafLife      = 365 * 24 * time.Hour
	// backdate tolerates clocks that differ a little between machines.
	backdate = 5 * time.Minute
	// checkEvery bounds how late a renewal is when the wall clock jumps.
	checkEvery = time.Hour
)

// Authority issues certificates. Safe for concurrent use.
type Authority struct {
	clock      clock.Clock
	logger     *slog.Logger
	cluster    *issuer
	frontProxy *issuer
	signing    *SigningKey

	mu     sync.Mutex
	leaves []*Leaf
	files  []*kubeconfigFile
	added  chan struct{} // wakes Run when there is a new leaf
}

// Open reads the authorities in dir, making those that do not exist yet.
func Open(dir string, clk clock.Clock, logger *slog.Logger) (*Authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create certificate directory: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, fmt.Errorf("protect certificate directory: %w", err)
	}
	a := &Authority{clock: clk, logger: logger, added: make(chan struct{}, 1)}
	var err error
	if a.cluster, err = openIssuer(dir, "ca", "proa-ca", clk.Now()); err != nil {
		return nil, err
	}
	if a.frontProxy, err = openIssuer(dir, "front-proxy-ca", "proa-front-proxy-ca", clk.Now()); err != nil {
		return nil, err
	}
	key, err := openKey(filepath.Join(dir, "service-account.key"))
	if err != nil {
		return nil, err
	}
	if a.signing, err = newSigningKey(key); err != nil {
		return nil, err
	}
	return a, nil
}

// CAPEM is the certificate that every client of the cluster trusts.
func (a *Authority) CAPEM() []byte { return a.cluster.pem }

// Pool holds the cluster's authority: it verifies servers and clients.
func (a *Authority) Pool() *x509.CertPool { return a.cluster.pool }

// FrontProxyCAPEM is the certificate that extension API servers trust to
// vouch for users in headers.
func (a *Authority) FrontProxyCAPEM() []byte { return a.frontProxy.pem }

// FrontProxyPool verifies the clients that may name a user in headers.
func (a *Authority) FrontProxyPool() *x509.CertPool { return a.frontProxy.pool }

// SigningKey signs service account tokens.
func (a *Authority) SigningKey() *SigningKey { return a.signing }

// Server issues a certificate for serving under names.
func (a *Authority) Server(names Names) (*Leaf, error) {
	return a.leaf(a.cluster, names, x509.ExtKeyUsageServerAuth)
}

// Client issues a certificate that authenticates as user, in groups.
func (a *Authority) Client(user string, groups ...string) (*Leaf, error) {
	return a.leaf(a.cluster, Names{CommonName: user, Organizations: groups}, x509.ExtKeyUsageClientAuth)
}

// FrontProxyClient issues the certificate with which the API server speaks to
// extension API servers on behalf of its users.
func (a *Authority) FrontProxyClient(user string) (*Leaf, error) {
	return a.leaf(a.frontProxy, Names{CommonName: user}, x509.ExtKeyUsageClientAuth)
}

func (a *Authority) leaf(by *issuer, names Names, usage x509.ExtKeyUsage) (*Leaf, error) {
	l := &Leaf{issuer: by, names: names, usage: usage}
	if err := l.renew(a.clock.Now()); err != nil {
		return nil, err
	}
	a.mu.Lock()
	a.leaves = append(a.leaves, l)
	a.mu.Unlock()
	select {
	case a.added <- struct{}{}:
	default: // Run has a wake-up waiting already
	}
	return l, nil
}

// Run renews every leaf in time, and the kubeconfig files made of them, until
// ctx ends.
func (a *Authority) Run(ctx context.Context) error {
	for {
		wait := a.renewDue()
		timer := a.clock.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-a.added:
			timer.Stop()
		case <-timer.C():
		}
	}
}

// renewDue renews what is due and returns how long nothing will be.
func (a *Authority) renewDue() time.Duration {
	a.mu.Lock()
	leaves, files := a.leaves[:len(a.leaves):len(a.leaves)], a.files[:len(a.files):len(a.files)]
	a.mu.Unlock()

	now := a.clock.Now()
	wait := checkEvery
	for _, l := range leaves {
		if left := l.due().Sub(now); left > 0 {
			wait = min(wait, left)
			continue
		}
		if err := l.renew(now); err != nil {
			a.logger.Error("certificate not renewed", "commonName", l.names.CommonName, "error", err)
			wait = min(wait, time.Minute)
			continue
		}
		a.logger.Info("certificate renewed", "commonName", l.names.CommonName, "until", l.expires())
	}
	for _, f := range files {
		if err := f.write(); err != nil {
			a.logger.Error("kubeconfig not renewed", "file", f.Path, "error", err)
			wait = min(wait, time.Minute)
		}
	}
	return wait
}
