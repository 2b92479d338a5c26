package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/client-go/rest"
)

const (
	clients  = 32
	duration = turns * turn
	// A figure and its yardstick are measured in turns.
	turns = 5
	turn  = time.Second
)

// load is 32 clients with an HTTP/2 connection each, on this machine's cores.
type load struct {
	base    string
	clients [clients]*http.Client
	buffers [clients][256 << 10]byte
}

type request struct {
	method, path, contentType, accept string
	body                              []byte
}

func newLoad(base string, cfg *tls.Config) *load {
	l := &load{base: base}
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	for i := range l.clients {
		l.clients[i] = &http.Client{Transport: &http.Transport{TLSClientConfig: cfg.Clone(), DisableCompression: true, Protocols: protocols}}
	}
	return l
}

// loadOn is a load with an administrator's credentials.
func loadOn(cfg *rest.Config) (*load, error) {
	t, err := rest.TLSConfigFor(cfg)
	if err != nil {
		return nil, err
	}
	return newLoad(cfg.Host, t), nil
}

func (l *load) do(ctx context.Context, client int, r request) error {
	return l.send(ctx, client, r, io.Discard)
}

// get is do that keeps the answer.
func (l *load) get(ctx context.Context, r request, to io.Writer) error { return l.send(ctx, 0, r, to) }

func (l *load) send(ctx context.Context, client int, r request, to io.Writer) error {
	req, err := http.NewRequestWithContext(ctx, r.method, l.base+r.path, bytes.NewReader(r.body))
	if err != nil {
		return err
	}
	if r.contentType != "" {
		req.Header.Set("Content-Type", r.contentType)
	}
	if r.accept != "" {
		req.Header.Set("Accept", r.accept)
	}
	resp, err := l.clients[client].Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 500))
		return fmt.Errorf("%s %s: %s: %s", r.method, r.path, resp.Status, b)
	}
	// As a client does that wants the whole: in large reads, each of which
	// makes room for as much to come.
	_, err = io.CopyBuffer(struct{ io.Writer }{to}, resp.Body, l.buffers[client][:])
	return err
}

// rate is how many requests a second all clients together get answered. next
// gives the n-th request of a client.
func (l *load) rate(ctx context.Context, next func(client, n int) request) (float64, error) {
	return all(ctx, func(client, n int) error { return l.do(ctx, client, next(client, n)) })
}

// all is how often a second all clients together do one thing, for one turn.
func all(ctx context.Context, do func(client, n int) error) (float64, error) {
	var wg sync.WaitGroup
	var done atomic.Int64
	errs := make(chan error, clients)
	begin := time.Now()
	for c := range clients {
		wg.Go(func() {
			for n := 0; time.Since(begin) < turn && ctx.Err() == nil; n++ {
				if err := do(c, n); err != nil {
					errs <- err
					return
				}
				done.Add(1)
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		return 0, err
	default:
		return float64(done.Load()) / time.Since(begin).Seconds(), ctx.Err()
	}
}

// inTurns measures several things one after the other and all of them again,
// since the speed of a machine that is shared changes within seconds: a ratio
// is of what ran side by side. It returns the mean rate of each.
func inTurns(things ...func(turn int) (float64, error)) ([]float64, error) {
	rates := make([]float64, len(things))
	for n := range turns {
		for i, thing := range things {
			rate, err := thing(n)
			if err != nil {
				return nil, err
			}
			rates[i] += rate / turns
		}
	}
	return rates, nil
}

// fill creates n objects as fast as the clients can.
func (l *load) fill(ctx context.Context, n int, next func(i int) request) error {
	var wg sync.WaitGroup
	var at atomic.Int64
	errs := make(chan error, clients)
	for c := range clients {
		wg.Go(func() {
			for {
				i := int(at.Add(1)) - 1
				if i >= n {
					return
				}
				if err := l.do(ctx, c, next(i)); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

func (l *load) close() {
	for _, c := range l.clients {
		c.CloseIdleConnections()
	}
}
