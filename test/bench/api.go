package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/proa-dev/proa/test/cluster"
)

const (
	podsPath  = "/api/v1/namespaces/default/pods"
	jsonType  = "application/json"
	mergeType = "application/merge-patch+json"
	anyName   = "the-name-of-a-pod"
)

// apiPod is a pod as an application's is, of about 1.5 kB in the store.
func apiPod(name string) []byte {
	p := benchPod(name)
	p.APIVersion, p.Kind = "v1", "Pod"
	p.Labels = map[string]string{"app": "bench", "tier": "load", "version": "v1.2.3"}
	p.Annotations = map[string]string{"example.com/owner": "the team that keeps this application running"}
	p.Spec.NodeName = "nowhere"
	c := &p.Spec.Containers[0]
	c.Ports = []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}
	for _, n := range []string{"LOG_LEVEL", "LISTEN_ADDRESS", "DATABASE_URL", "CACHE_URL", "REGION"} {
		c.Env = append(c.Env, corev1.EnvVar{Name: n, Value: "a value of some length for " + n})
	}
	b, err := json.Marshal(p)
	if err != nil {
		panic(err) // a Pod always marshals
	}
	return b
}

// startControlPlane starts a server without a node and waits for the
// namespace to take pods.
func startControlPlane(ctx context.Context, e *cluster.Cluster, flags ...string) (*load, error) {
	if err := e.Start(ctx, append(flags, "--disable-agent")...); err != nil {
		return nil, err
	}
	c, err := e.Client()
	if err != nil {
		return nil, err
	}
	if err := e.Until(ctx, 10*time.Second, func() bool {
		_, err := c.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
		return err == nil
	}); err != nil {
		return nil, err
	}
	cfg, err := e.REST()
	if err != nil {
		return nil, err
	}
	return loadOn(cfg)
}

// benchAPI measures requests of 32 clients on the same cores.
func benchAPI(ctx context.Context, e *cluster.Cluster) ([]figure, error) {
	l, err := startControlPlane(ctx, e)
	if err != nil {
		return nil, err
	}
	defer l.close()
	template := apiPod(anyName)
	create := func(name string) request {
		body := bytes.Replace(template, []byte(anyName), []byte(name), 1)
		return request{method: http.MethodPost, path: podsPath, contentType: jsonType, accept: jsonType, body: body}
	}
	etcd, err := startYardstick(ctx, "yardstick-etcd", filepath.Join(e.Dir, "yardstick-etcd"))
	if err != nil {
		return nil, err
	}
	defer etcd.stop()
	writes, err := inTurns(
		func(int) (float64, error) { return etcd.rate() },
		func(turn int) (float64, error) {
			return l.rate(ctx, func(c, n int) request { return create(fmt.Sprintf("made-%d-%d-%d", turn, c, n)) })
		},
		func(int) (float64, error) {
			return l.rate(ctx, func(c, n int) request {
				return request{method: http.MethodPatch, path: fmt.Sprintf("%s/made-0-%d-%d", podsPath, c, n%10), contentType: mergeType, accept: jsonType,
					body: fmt.Appendf(nil, `{"metadata":{"labels":{"step":"n%d"}}}`, n)}
			})
		})
	if err != nil {
		return nil, err
	}
	etcd.stop()
	gets, err := besideHTTP(ctx, l, apiPod("yardstick"), func(c, n int) request {
		return request{method: http.MethodGet, path: fmt.Sprintf("%s/made-0-%d-%d", podsPath, c, n%10), accept: jsonType}
	})
	if err != nil {
		return nil, err
	}
	lists, size, err := lists(ctx, e, l, create)
	if err != nil {
		return nil, err
	}
	rss, private, err := e.Memory()
	if err != nil {
		return nil, err
	}
	per := func(f float64) string { return fmt.Sprintf("%.0f/s", f) }
	share := func(f, of float64) string { return fmt.Sprintf("%.2f", f/of) }
	raw, creates, patches := writes[0], writes[1], writes[2]
	return []figure{
		{"GET of a pod", per(gets.here), "bare HTTP/2 server " + per(gets.bare), share(gets.here, gets.bare), ">= 0.50", gets.here >= gets.bare/2},
		{"create a pod", per(creates), "raw etcd transaction " + per(raw), share(creates, raw), ">= 0.20", creates >= raw/5},
		{"merge-patch a pod", per(patches), "raw etcd transaction " + per(raw), share(patches, raw), "", true},
		{fmt.Sprintf("list 5,000 pods as JSON (%d MB)", size>>20), per(lists.here), "bare HTTP/2 server, same body " + per(lists.bare), share(lists.here, lists.bare), ">= 50/s", lists.here >= 50},
		{"resident memory after that (private part)", fmt.Sprintf("%d MB (%d MB)", rss>>20, private>>20), "", "", "", true},
	}, nil
}

// reads are a rate of Proa and that of a bare server.
type reads struct{ here, bare float64 }

// besideHTTP measures requests beside a bare server that answers with body.
func besideHTTP(ctx context.Context, l *load, body []byte, next func(client, n int) request) (reads, error) {
	bare, stop, err := bareHTTP(ctx, body)
	if err != nil {
		return reads{}, err
	}
	defer stop()
	rates, err := inTurns(
		func(int) (float64, error) { return l.rate(ctx, next) },
		func(int) (float64, error) {
			return bare.rate(ctx, func(int, int) request { return request{method: http.MethodGet, path: "/"} })
		})
	if err != nil {
		return reads{}, err
	}
	return reads{rates[0], rates[1]}, nil
}

// lists measures lists of a namespace that holds 5,000 pods, and tells the size
// of one.
func lists(ctx context.Context, e *cluster.Cluster, l *load, create func(string) request) (reads, int, error) {
	c, err := e.Client()
	if err != nil {
		return reads{}, 0, err
	}
	if _, err := c.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "lists"}}, metav1.CreateOptions{}); err != nil {
		return reads{}, 0, err
	}
	if err := e.Until(ctx, 10*time.Second, func() bool {
		_, err := c.CoreV1().ServiceAccounts("lists").Get(ctx, "default", metav1.GetOptions{})
		return err == nil
	}); err != nil {
		return reads{}, 0, err
	}
	const path = "/api/v1/namespaces/lists/pods"
	if err := l.fill(ctx, 5000, func(i int) request {
		r := create(fmt.Sprintf("listed-%d", i))
		r.path = path
		return r
	}); err != nil {
		return reads{}, 0, err
	}
	list := request{method: http.MethodGet, path: path, accept: jsonType}
	var body bytes.Buffer
	if err := l.get(ctx, list, &body); err != nil {
		return reads{}, 0, err
	}
	r, err := besideHTTP(ctx, l, body.Bytes(), func(int, int) request { return list })
	return r, body.Len(), err
}

// benchWatch measures events delivered to 200 watchers of one object that
// changes all the time.
func benchWatch(ctx context.Context, e *cluster.Cluster) ([]figure, error) {
	const watchers = 200
	l, err := startControlPlane(ctx, e)
	if err != nil {
		return nil, err
	}
	defer l.close()
	const path = "/api/v1/namespaces/default/configmaps"
	if err := l.do(ctx, 0, request{method: http.MethodPost, path: path, contentType: jsonType,
		body: []byte(`{"metadata":{"name":"watched"},"data":{"k":"v"}}`)}); err != nil {
		return nil, err
	}
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	var events atomic.Int64
	var wg sync.WaitGroup
	ready := make(chan error, watchers)
	for i := range watchers {
		wg.Go(func() {
			l.watch(watching, i%clients, path+"?watch=1&fieldSelector=metadata.name%3Dwatched", &events, ready)
		})
	}
	for range watchers {
		if err := <-ready; err != nil {
			return nil, err
		}
	}
	// Two writers at a time, as fast as they can: the watchers' share of the
	// machine is what is measured.
	events.Store(0)
	begin := time.Now()
	var writes atomic.Int64
	var writers sync.WaitGroup
	for c := range 2 {
		writers.Go(func() {
			for n := 0; time.Since(begin) < duration; n++ {
				if l.do(ctx, c, request{method: http.MethodPatch, path: path + "/watched", contentType: mergeType,
					body: fmt.Appendf(nil, `{"data":{"k%d":"%d"}}`, c, n)}) == nil {
					writes.Add(1)
				}
			}
		})
	}
	writers.Wait()
	rate := float64(events.Load()) / time.Since(begin).Seconds()
	cancel()
	wg.Wait()
	return []figure{{
		"watch events to 200 watchers of one object", fmt.Sprintf("%.0f/s", rate),
		fmt.Sprintf("%.0f writes/s", float64(writes.Load())/duration.Seconds()), "", ">= 75000/s", rate >= 75000,
	}}, nil
}

// watch counts the events of one watch: each is one line. The first one, the
// state at the start, says that it is ready.
func (l *load) watch(ctx context.Context, client int, path string, events *atomic.Int64, ready chan<- error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, l.base+path, nil)
	if err != nil {
		ready <- err
		return
	}
	req.Header.Set("Accept", jsonType)
	resp, err := l.clients[client].Do(req)
	if err != nil {
		ready <- err
		return
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		ready <- fmt.Errorf("watch: %s", resp.Status)
		return
	}
	first := true
	buf := make([]byte, 64<<10)
	for {
		n, err := resp.Body.Read(buf)
		lines := 0
		for _, b := range buf[:n] {
			if b == '\n' {
				lines++
			}
		}
		if lines > 0 {
			events.Add(int64(lines))
			if first {
				first = false
				ready <- nil
			}
		}
		if err != nil {
			if first {
				ready <- err
			}
			return
		}
	}
}
