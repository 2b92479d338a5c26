package apiserver_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/proa-dev/proa/apiserver/apiservertest"
)

const benchPod = `{"kind":"Pod","apiVersion":"v1","metadata":{"name":%q,"namespace":"default","labels":{"app":"web","pod-template-hash":"5d4f8"},"ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"web-5d4f8","uid":"0a1b","controller":true,"blockOwnerDeletion":true}]},"spec":{"containers":[{"name":"web","image":"registry.example/web:1.2","ports":[{"containerPort":80}],"env":[{"name":"A","value":"b"},{"name":"C","value":"d"}],"resources":{"requests":{"cpu":"100m","memory":"64Mi"},"limits":{"memory":"128Mi"}},"livenessProbe":{"httpGet":{"path":"/","port":80}}}],"tolerations":[{"key":"node.kubernetes.io/not-ready","operator":"Exists","effect":"NoExecute","tolerationSeconds":300}]}}`

type benchClient struct {
	tb   testing.TB
	http *http.Client
	base string
}

func newBenchClient(tb testing.TB, base string) *benchClient {
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}
	tb.Cleanup(tr.CloseIdleConnections)
	return &benchClient{tb: tb, http: &http.Client{Transport: tr}, base: base}
}

func (c *benchClient) do(method, path, contentType, body string) (int, int64) {
	req, err := http.NewRequest(method, c.base+path, bytes.NewReader([]byte(body)))
	if err != nil {
		c.tb.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer admin")
	req.Header.Set("Accept", "application/json")
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		c.tb.Error(err)
		return 0, 0
	}
	n, _ := io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	return resp.StatusCode, n
}

func (c *benchClient) must(want int, method, path, contentType, body string) {
	if code, _ := c.do(method, path, contentType, body); code != want {
		c.tb.Errorf("%s %s: %d", method, path, code)
	}
}

const podsPath = "/api/v1/namespaces/default/pods"

func withPods(b *testing.B, n int) *benchClient {
	b.Helper()
	s := apiservertest.Start(b, nil)
	c := newBenchClient(b, s.URL)
	for i := range n {
		c.must(201, "POST", podsPath, "application/json", fmt.Sprintf(benchPod, fmt.Sprintf("p%d", i)))
	}
	return c
}

// BenchmarkBare is what a Go HTTP/2 server that does nothing can do here.
func BenchmarkBare(b *testing.B) {
	body := []byte(fmt.Sprintf(benchPod, "x"))
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(body) }))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	b.Cleanup(srv.Close)
	c := newBenchClient(b, srv.URL)
	parallel(b, func() { c.must(200, "GET", "/", "", "") })
}

func parallel(b *testing.B, f func()) {
	b.Helper()
	b.ReportAllocs()
	b.SetParallelism(16)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			f()
		}
	})
}

func BenchmarkGet(b *testing.B) {
	c := withPods(b, 100)
	parallel(b, func() { c.must(200, "GET", podsPath+"/p7", "", "") })
}

func BenchmarkCreate(b *testing.B) {
	c := withPods(b, 0)
	var n atomic.Int64
	parallel(b, func() {
		c.must(201, "POST", podsPath, "application/json", fmt.Sprintf(benchPod, fmt.Sprintf("c%d", n.Add(1))))
	})
}

func BenchmarkMergePatch(b *testing.B) {
	c := withPods(b, 100)
	var n atomic.Int64
	parallel(b, func() {
		i := n.Add(1)
		c.must(200, "PATCH", fmt.Sprintf("%s/p%d", podsPath, i%100), "application/merge-patch+json", fmt.Sprintf(`{"metadata":{"annotations":{"n":"%d"}}}`, i))
	})
}

func BenchmarkList5000(b *testing.B) {
	c := withPods(b, 5000)
	parallel(b, func() { c.must(200, "GET", podsPath, "", "") })
}

func BenchmarkWatch200(b *testing.B) {
	c := withPods(b, 1)
	var wait atomic.Int64
	const watchers = 200
	done := make(chan struct{}, watchers)
	for range watchers {
		req, _ := http.NewRequest("GET", c.base+podsPath+"?watch=1&fieldSelector=metadata.name%3Dp0", nil)
		req.Header.Set("Authorization", "Bearer admin")
		resp, err := c.http.Do(req)
		if err != nil {
			b.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		go func() {
			buf := make([]byte, 64<<10)
			for {
				n, err := resp.Body.Read(buf)
				if wait.Add(int64(bytes.Count(buf[:n], []byte("\n")))) >= int64(b.N+1)*watchers {
					select {
					case done <- struct{}{}:
					default:
					}
				}
				if err != nil {
					return
				}
			}
		}()
	}
	b.ResetTimer()
	for i := range b.N {
		c.must(200, "PATCH", podsPath+"/p0", "application/merge-patch+json", fmt.Sprintf(`{"metadata":{"annotations":{"n":"%d"}}}`, i))
	}
	<-done
	b.ReportMetric(float64(b.N*watchers)/b.Elapsed().Seconds(), "events/s")
}
