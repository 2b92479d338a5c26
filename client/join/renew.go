package join

import (
	"context"
	"crypto/tls"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/kubernetes/typed/certificates/v1"
	discovery "k8s.io/client-go/kubernetes/typed/discovery/v1"
)

const (
	// checkEvery bounds how late a renewal is when the wall clock jumps.
	checkEvery = time.Hour
	// retryRenewal is how long to wait after a renewal that failed, and doubles
	// up to lastRetry: each one leaves a request behind.
	retryRenewal, lastRetry = 10 * time.Second, 10 * time.Minute
)

// Run keeps both certificates valid until ctx ends.
func (n *Node) Run(ctx context.Context, ready func()) error {
	requests, err := v1.NewForConfig(n.REST())
	if err != nil {
		return err
	}
	endpoints, err := discovery.NewForConfig(n.REST())
	if err != nil {
		return err
	}
	api := requests.CertificateSigningRequests()
	ready()
	var wg sync.WaitGroup
	wg.Go(func() { n.follow(ctx, endpoints) })
	wg.Go(func() {
		n.keep(ctx, api, &n.client, clientFile, n.clientTemplate(), func() {
			// The server sees the certificate of a connection when it begins.
			n.dialer.CloseAll()
		})
	})
	wg.Go(func() { n.keep(ctx, api, &n.serving, servingFile, n.servingTemplate(), func() {}) })
	wg.Wait()
	return nil
}

// keep renews one certificate whenever it is due.
func (n *Node) keep(ctx context.Context, api requester, current *atomic.Pointer[tls.Certificate], file string, t template, renewed func()) {
	retry := retryRenewal
	for {
		wait := n.left(current.Load(), t)
		if wait <= 0 {
			p, err := n.request(ctx, api, t)
			if err == nil {
				err = p.write(n.path(file))
			}
			switch {
			case ctx.Err() != nil:
				return
			case err != nil:
				n.cfg.Logger.Error("certificate not renewed", "file", n.path(file), "error", err)
				wait, retry = retry, min(2*retry, lastRetry)
			default:
				retry = retryRenewal
				current.Store(p.certificate)
				renewed()
				n.cfg.Logger.Info("certificate obtained", "file", n.path(file), "until", p.certificate.Leaf.NotAfter)
				continue
			}
		}
		select {
		case <-n.cfg.Clock.After(min(wait, checkEvery)):
		case <-ctx.Done():
			return
		}
	}
}

// left is how long a certificate needs no renewal: until a third of its life
// is left.
func (n *Node) left(c *tls.Certificate, t template) time.Duration {
	if c == nil || !t.fits(c.Leaf) {
		return 0
	}
	life := c.Leaf.NotAfter.Sub(c.Leaf.NotBefore)
	return c.Leaf.NotAfter.Add(-life / 3).Sub(n.cfg.Clock.Now())
}
