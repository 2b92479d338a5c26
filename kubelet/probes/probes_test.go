package probes_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/clock"

	"github.com/proa-dev/proa/kubelet/probes"
)

func target(t *testing.T, address string) (probes.Target, int) {
	t.Helper()
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return probes.Target{PodIP: host, Container: &corev1.Container{Name: "c", Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: int32(port)}}}}, port
}

func TestHTTP(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/ok":
			if (r.ProtoMajor == 2) != (r.TLS != nil) || r.Header.Get("X-Test") != "1" || r.Host != "name.example" || !strings.HasPrefix(r.UserAgent(), "kube-probe/") {
				w.WriteHeader(http.StatusBadRequest)
			}
		case "/away":
			http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
		case "/slow":
			<-r.Context().Done()
		default:
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	plain, secure := httptest.NewServer(handler), httptest.NewUnstartedServer(handler)
	secure.EnableHTTP2 = true
	secure.StartTLS()
	defer plain.Close()
	defer secure.Close()
	headers := []corev1.HTTPHeader{{Name: "X-Test", Value: "1"}, {Name: "Host", Value: "name.example"}}
	for _, c := range []struct {
		name   string
		server *httptest.Server
		get    corev1.HTTPGetAction
		want   string
	}{
		{"good", plain, corev1.HTTPGetAction{Path: "/ok", Port: intstr.FromString("web"), HTTPHeaders: headers}, ""},
		{"TLS", secure, corev1.HTTPGetAction{Path: "/ok", Port: intstr.FromString("web"), Scheme: corev1.URISchemeHTTPS, HTTPHeaders: headers}, ""},
		{"bad", plain, corev1.HTTPGetAction{Path: "/no", Port: intstr.FromString("web")}, "HTTP probe failed with statuscode: 503"},
		{"redirect to elsewhere", plain, corev1.HTTPGetAction{Path: "/away", Port: intstr.FromString("web")},
			"Probe terminated redirects, Response body: <a href=\"http://192.0.2.1/\">Found</a>.\n\n"},
		{"slow", plain, corev1.HTTPGetAction{Path: "/slow", Port: intstr.FromString("web")},
			"context deadline exceeded (Client.Timeout exceeded while awaiting headers)"},
		{"no such port", plain, corev1.HTTPGetAction{Path: "/", Port: intstr.FromString("none")}, "couldn't find port: none"},
	} {
		t.Run(c.name, func(t *testing.T) {
			to, _ := target(t, c.server.Listener.Addr().String())
			err := probes.Once(t.Context(), &corev1.Probe{TimeoutSeconds: 1, ProbeHandler: corev1.ProbeHandler{HTTPGet: &c.get}}, to)
			if (err == nil) != (c.want == "") || (err != nil && !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

func TestHooks(t *testing.T) {
	var asked, told []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.UserAgent()+" "+r.Header.Get("Authorization"))
		w.WriteHeader(http.StatusTeapot)
	}))
	defer server.Close()
	to, _ := target(t, server.Listener.Addr().String())
	get := &corev1.HTTPGetAction{Path: "/", Port: intstr.FromString("web"), HTTPHeaders: []corev1.HTTPHeader{{Name: "authorization", Value: "secret"}}}
	for _, scheme := range []corev1.URIScheme{corev1.URISchemeHTTP, corev1.URISchemeHTTPS} {
		get.Scheme = scheme
		if err := probes.Hook(t.Context(), get, time.Minute, to, func(server string) { told = append(told, server) }); err != nil {
			t.Errorf("%s: %v", scheme, err)
		}
	}
	if want := []string{"kube-lifecycle/1.37 secret", "kube-lifecycle/1.37 "}; !slices.Equal(asked, want) {
		t.Errorf("asked %q, want %q", asked, want)
	}
	if want := []string{server.Listener.Addr().String()}; !slices.Equal(told, want) {
		t.Errorf("told of %q, want %q", told, want)
	}
	server.Close()
	if err := probes.Hook(t.Context(), get, time.Minute, to, nil); err == nil {
		t.Error("nobody was asked, and all is well")
	}
}

func TestTCPAndGRPC(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, state := grpc.NewServer(), health.NewServer()
	healthpb.RegisterHealthServer(server, state)
	go func() { _ = server.Serve(l) }()
	to, port := target(t, l.Addr().String())
	tcp := &corev1.Probe{TimeoutSeconds: 1, ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt(port)}}}
	rpc := &corev1.Probe{TimeoutSeconds: 1, ProbeHandler: corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: int32(port)}}}
	for name, p := range map[string]*corev1.Probe{"tcp": tcp, "grpc": rpc} {
		if err := probes.Once(t.Context(), p, to); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0") // it takes connections, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	_, mute := target(t, silent.Addr().String())
	want := fmt.Sprintf("timeout: failed to connect service %q within 1s: context deadline exceeded", silent.Addr())
	if err := probes.Once(t.Context(), &corev1.Probe{TimeoutSeconds: 1, ProbeHandler: corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: int32(mute)}}}, to); err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	state.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	if err := probes.Once(t.Context(), rpc, to); err == nil || err.Error() != `service unhealthy (responded with "NOT_SERVING")` {
		t.Errorf("not serving: %v", err)
	}
	server.Stop()
	for name, p := range map[string]*corev1.Probe{"tcp": tcp, "grpc": rpc} {
		if err := probes.Once(t.Context(), p, to); err == nil {
			t.Errorf("%s finds what is gone", name)
		}
	}
}

// A command is given what the container's spec says of its variables, and an
// outcome that says nothing is asked for again at once.
func TestExec(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked [][]string
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var told []string
		w := &probes.Worker{
			Probe: &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"check", "$(WHAT)/$(ELSE)"}}}},
			Target: probes.Target{Container: &corev1.Container{Env: []corev1.EnvVar{{Name: "WHAT", Value: "it"}}},
				Exec: func(_ context.Context, command []string, _ time.Duration) ([]byte, int32, error) {
					asked = append(asked, command)
					if len(asked) < 6 {
						return nil, 0, errors.New("no runtime")
					}
					return nil, 0, nil
				}},
			Clock: clock.RealClock{}, Since: time.Now(), Tell: func(err error) { told = append(told, err.Error()) },
			Verdict: func(probes.Outcome) { cancel() },
		}
		w.Run(ctx)
		if len(asked) != 6 || !slices.Equal(asked[0], []string{"check", "it/$(ELSE)"}) || !slices.Equal(told, []string{"probe errored: no runtime"}) {
			t.Errorf("asked %q, told %q", asked, told)
		}
	})
}

func TestThresholds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		codes := []int32{0, 1, 0, 1, 1, 0, 0, 1} // what the command says, second by second
		ctx, cancel := context.WithCancel(context.Background())
		var verdicts []bool
		var at []time.Duration
		began := time.Now()
		w := &probes.Worker{
			Probe: &corev1.Probe{PeriodSeconds: 1, InitialDelaySeconds: 5, FailureThreshold: 2, SuccessThreshold: 2,
				ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{}}},
			Target: probes.Target{Container: &corev1.Container{}, Exec: func(context.Context, []string, time.Duration) ([]byte, int32, error) {
				if len(codes) == 0 {
					cancel()
					return nil, 0, errors.New("over")
				}
				code := codes[0]
				codes = codes[1:]
				return nil, code, nil
			}},
			Clock: clock.RealClock{}, Since: began, Tell: func(error) {},
			Verdict: func(o probes.Outcome) { verdicts, at = append(verdicts, o.OK), append(at, time.Since(began)) },
		}
		w.Run(ctx)
		if len(verdicts) != 2 || verdicts[0] || !verdicts[1] || at[0] != 9*time.Second || at[1] != 11*time.Second {
			t.Errorf("verdicts %v at %v", verdicts, at)
		}
	})
}
