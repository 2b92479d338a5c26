package server_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/proa-dev/proa/kubelet/cri"
	"github.com/proa-dev/proa/kubelet/metrics"
	"github.com/proa-dev/proa/kubelet/server"
	"github.com/proa-dev/proa/kubelet/stats"
)

// node is one pod with one log.
type node struct {
	pod *corev1.Pod
	log string
}

func (n *node) Pods() []*corev1.Pod { return []*corev1.Pod{n.pod} }

func (n *node) Get(namespace, name string) *corev1.Pod {
	if namespace == n.pod.Namespace && name == n.pod.Name {
		return n.pod
	}
	return nil
}

func (n *node) Container(_ *corev1.Pod, name string, previous bool) (*cri.Container, <-chan struct{}) {
	if name != "c" || previous {
		return nil, nil
	}
	done := make(chan struct{})
	close(done)
	return &cri.Container{ContainerStatus: &runtimeapi.ContainerStatus{Id: "1", Metadata: &runtimeapi.ContainerMetadata{Name: "c"},
		State: runtimeapi.ContainerState_CONTAINER_EXITED, LogPath: n.log}}, done
}

func (n *node) Sandbox(*corev1.Pod) string { return "" }

// newServer lets "good" tokens be user "watcher", who may read logs and stats.
func newServer(t *testing.T) (s *server.Server, reviews *int) {
	t.Helper()
	count := 0
	client := interceptor.NewClient(fake.NewClientBuilder().Build(), interceptor.Funcs{
		Create: func(_ context.Context, _ ctrl.WithWatch, obj ctrl.Object, _ ...ctrl.CreateOption) error {
			count++
			switch r := obj.(type) {
			case *authenticationv1.TokenReview:
				r.Status.Authenticated = strings.HasPrefix(r.Spec.Token, "good")
				r.Status.User.Username = "watcher"
				if r.Spec.Token == "good, but scoped" {
					r.Status.User.Extra = map[string]authenticationv1.ExtraValue{"scope": {"none"}}
				}
			case *authorizationv1.SubjectAccessReview:
				a := r.Spec.ResourceAttributes
				admin := len(r.Spec.Groups) > 0 && r.Spec.Groups[0] == "system:masters"
				r.Status.Allowed = admin || (len(r.Spec.Extra) == 0 && r.Spec.User == "watcher" && a.Resource == "nodes" && a.Name == "n1" && a.Subresource == "proxy" && a.Verb == "get")
			}
			return nil
		}})
	log := filepath.Join(t.TempDir(), "0.log")
	if err := os.WriteFile(log, []byte("2026-01-01T00:00:00Z stdout F one\n2026-01-01T00:00:01Z stdout F two\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}, {Name: "waits"}, {Name: "went"}, {Name: "never"}}},
		Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "waits", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff"}}},
			{Name: "went", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ContainerID: "fake://1"}}},
			{Name: "never", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}}}}}
	return server.New(server.Config{NodeName: "n1", Pods: &node{pod, log}, Metrics: metrics.New(), Stats: stats.New(t.Context(), stats.Config{}), Client: client, Logger: slog.New(slog.DiscardHandler),
		Clock: clock.RealClock{}, Healthy: func() error { return nil }}), &count
}

func ask(s *server.Server, method, path string, who func(r *http.Request)) (int, string) {
	r := httptest.NewRequest(method, path, nil)
	who(r)
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	body, err := io.ReadAll(w.Result().Body)
	if err != nil {
		return 0, err.Error()
	}
	return w.Code, string(body)
}

func nobody(*http.Request) {}

func token(text string) func(r *http.Request) {
	return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+text) }
}

func certificate(name string, groups ...string) func(r *http.Request) {
	return func(r *http.Request) {
		r.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{{Subject: pkix.Name{CommonName: name, Organization: groups}}}}}
	}
}

func TestWhoMayDoWhat(t *testing.T) {
	const logs = "/containerLogs/ns/p/c"
	for _, c := range []struct {
		name   string
		who    func(r *http.Request)
		method string
		path   string
		want   int
	}{
		{"nobody", nobody, "GET", logs, 401},
		{"nobody, health", nobody, "GET", "/healthz", 401},
		{"bad token", token("bad"), "GET", logs, 401},
		{"token", token("good"), "GET", logs, 200},
		{"token, more than it may", token("good"), "POST", "/exec/ns/p/c?command=sh", 403},
		{"token, a command by GET", token("good"), "GET", "/exec/ns/p/c?command=sh", 403},
		{"token, other subresource", token("good"), "GET", "/stats/summary", 403},
		{"token, pods by nodes/proxy", token("good"), "GET", "/pods", 200},
		{"stranger's certificate", certificate("eve"), "GET", logs, 403},
		{"API server", certificate("kube-apiserver-kubelet-client", "system:masters"), "GET", logs, 200},
		{"no such path", certificate("a", "system:masters"), "GET", "/nowhere", 404},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, _ := newServer(t)
			if code, body := ask(s, c.method, c.path, c.who); code != c.want {
				t.Errorf("%d %s, want %d", code, body, c.want)
			}
		})
	}
}

func TestAnswersAreRemembered(t *testing.T) {
	s, reviews := newServer(t)
	for range 5 {
		ask(s, "GET", "/containerLogs/ns/p/c", token("good"))
	}
	if *reviews != 2 {
		t.Errorf("%d reviews for five equal requests", *reviews)
	}
	// The same name is not the same caller.
	if code, body := ask(s, "GET", "/containerLogs/ns/p/c", token("good, but scoped")); code != 403 {
		t.Errorf("%d %s", code, body)
	}
}

func TestContainerLogs(t *testing.T) {
	s, _ := newServer(t)
	for path, want := range map[string]string{
		"/containerLogs/ns/p/c":               "200 one\ntwo\n",
		"/containerLogs/ns/p/c?tailLines=1":   "200 two\n",
		"/containerLogs/ns/p/c?follow=true":   "200 one\ntwo\n",
		"/containerLogs/ns/p/c?tailLines=-1":  `400 invalid tailLines "-1"`,
		"/containerLogs/ns/p/c?previous=true": `400 previous terminated container "c" in pod "p" not found`,
		"/containerLogs/ns/p/waits":           `400 container "waits" in pod "p" is waiting to start: trying and failing to pull image`,
		"/containerLogs/ns/p/went":            "400 unable to retrieve container logs for fake://1",
		"/containerLogs/ns/p/never":           `400 container "never" in pod "p" is terminated`,
		"/containerLogs/ns/p/no":              `404 container "no" not found in pod "p"`,
		"/containerLogs/ns/q/c":               "404 pod does not exist",
	} {
		code, body := ask(s, "GET", path, token("good"))
		if got := fmt.Sprintf("%d %s", code, body); strings.TrimSpace(got) != strings.TrimSpace(want) {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
}
