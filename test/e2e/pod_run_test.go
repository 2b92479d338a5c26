package e2e

import (
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/proa-dev/proa/test/isolate"
)

// What a policy makes of containers that end.
func TestPodRestartPolicy(t *testing.T) {
	for _, c := range []struct {
		policy   corev1.RestartPolicy
		code     int
		phase    corev1.PodPhase // empty: runs on
		restarts int32
	}{
		{corev1.RestartPolicyNever, 0, corev1.PodSucceeded, 0},
		{corev1.RestartPolicyNever, 3, corev1.PodFailed, 0},
		{corev1.RestartPolicyOnFailure, 0, corev1.PodSucceeded, 0},
		{corev1.RestartPolicyOnFailure, 3, corev1.PodRunning, 1},
		{corev1.RestartPolicyAlways, 0, corev1.PodRunning, 1},
		{corev1.RestartPolicyAlways, 3, corev1.PodRunning, 1},
	} {
		t.Run(fmt.Sprintf("%s %d", c.policy, c.code), func(t *testing.T) {
			t.Parallel()
			e := newEnv(t)
			e.create(podOf(t, "p", fmt.Sprintf("restartPolicy: %s\ncontainers: [{command: [sh, -c, 'exit %d']}]", c.policy, c.code)))
			pod := e.untilPod("p", "has its phase", func(p *corev1.Pod) bool {
				if c.phase != corev1.PodRunning {
					return p.Status.Phase == c.phase
				}
				s := p.Status.ContainerStatuses
				return len(s) == 1 && s[0].RestartCount >= 1 && s[0].State.Waiting != nil && s[0].State.Waiting.Reason == "CrashLoopBackOff"
			})
			s := pod.Status.ContainerStatuses[0]
			if pod.Status.Phase != c.phase || s.RestartCount != c.restarts || s.Ready {
				t.Errorf("phase %s, %d restarts, ready %v", pod.Status.Phase, s.RestartCount, s.Ready)
			}
			last := s.State.Terminated
			if c.phase == corev1.PodRunning {
				last = s.LastTerminationState.Terminated
				want := fmt.Sprintf("back-off 10s restarting failed container=c0 pod=p_%s(%s)", e.namespace, pod.UID)
				if s.State.Waiting.Message != want {
					t.Errorf("waits for %q, want %q", s.State.Waiting.Message, want)
				}
				e.eventMatching("p", "BackOff", `^Back-off restarting failed container c0 in pod p_`+e.namespace+`\(.*\)$`)
			}
			reason := map[bool]string{true: "Completed", false: "Error"}[c.code == 0]
			if last == nil || last.ExitCode != int32(c.code) || last.Reason != reason || last.FinishedAt.IsZero() || last.ContainerID == "" {
				t.Errorf("terminated: %+v", last)
			}
		})
	}
}

// Init containers run one after the other before the others; sidecars start
// among them, stay, and end last.
func TestPodInitAndSidecars(t *testing.T) {
	runOneShots(t, []oneShot{{
		name: "order",
		spec: `
volumes: [{name: v, emptyDir: {}}]
initContainers:
- {command: [sh, -c, 'echo first >>/v/log'], volumeMounts: [{name: v, mountPath: /v}]}
- {restartPolicy: Always, command: [sh, -c, 'echo sidecar >>/v/log; touch /v/up; trap "exit 0" TERM; sleep 3600 & wait'], startupProbe: {exec: {command: [test, -e, /v/up]}, periodSeconds: 1}, volumeMounts: [{name: v, mountPath: /v}]}
- {command: [sh, -c, 'echo second >>/v/log'], volumeMounts: [{name: v, mountPath: /v}]}
containers:
- {command: [cat, /v/log], volumeMounts: [{name: v, mountPath: /v}]}
`,
		want: "first\nsidecar\nsecond",
	}})
	t.Run("failing", func(t *testing.T) {
		e := newEnv(t)
		e.create(podOf(t, "never", "initContainers: [{command: ['false']}, {command: ['true']}]\ncontainers: [{command: ['true']}]"))
		e.create(podOf(t, "always", "restartPolicy: Always\ninitContainers: [{command: ['false']}]\ncontainers: [{command: ['true']}]"))
		pod := e.ended("never")
		if pod.Status.Phase != corev1.PodFailed || pod.Status.ContainerStatuses[0].State.Waiting == nil ||
			pod.Status.ContainerStatuses[0].State.Waiting.Reason != "PodInitializing" || pod.Status.InitContainerStatuses[1].State.Terminated != nil {
			t.Errorf("status %+v", pod.Status)
		}
		pod = e.untilPod("always", "crash loops", func(p *corev1.Pod) bool {
			s := p.Status.InitContainerStatuses
			return len(s) == 1 && s[0].RestartCount >= 1 && s[0].State.Waiting != nil && s[0].State.Waiting.Reason == "CrashLoopBackOff"
		})
		if pod.Status.Phase != corev1.PodPending {
			t.Errorf("phase %s", pod.Status.Phase)
		}
		for _, c := range pod.Status.Conditions {
			if c.Type == corev1.PodInitialized && (c.Status != corev1.ConditionFalse || c.Reason != "ContainersNotInitialized" || c.Message != "containers with incomplete status: [i0]") {
				t.Errorf("condition %+v", c)
			}
		}
	})
}

// Probes of each kind, and what follows from them.
func TestPodProbes(t *testing.T) {
	for _, c := range []struct{ name, probe, script string }{
		{"exec", "exec: {command: [cat, /tmp/ok]}", "touch /tmp/ok; sleep 3600"},
		{"http", "httpGet: {path: /ok, port: web, httpHeaders: [{name: X, value: why}]}", "mkdir /www; touch /www/ok; httpd -f -p 8080 -h /www"},
		{"tcp", "tcpSocket: {port: 8080}", "nc -lk -p 8080 -e true || httpd -f -p 8080"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t)
			pod := podOf(t, "p", fmt.Sprintf(`
containers:
- command: [sh, -c, %q]
  ports: [{name: web, containerPort: 8080}]
  startupProbe: {%s, periodSeconds: 1, failureThreshold: 30}
  readinessProbe: {%s, periodSeconds: 1}
  livenessProbe: {%s, periodSeconds: 1}
`, c.script, c.probe, c.probe, c.probe))
			e.create(pod)
			got := e.ready("p")
			if s := got.Status.ContainerStatuses[0]; s.RestartCount != 0 || s.Started == nil || !*s.Started {
				t.Errorf("status %+v", s)
			}
		})
	}
	t.Run("readiness comes and goes", func(t *testing.T) {
		t.Parallel()
		e := newEnv(t)
		e.create(podOf(t, "p", `
containers:
- command: [sleep, "3600"]
  readinessProbe: {exec: {command: [cat, /tmp/ok]}, periodSeconds: 1, failureThreshold: 1}
`))
		e.eventMatching("p", "Unhealthy", `^Readiness probe failed: cat: can't open '/tmp/ok': No such file or directory\s*$`)
		if isReady(e.pod("p")) {
			t.Error("ready too early")
		}
		e.kubectl("exec", "p", "--", "touch", "/tmp/ok")
		e.ready("p")
		e.kubectl("exec", "p", "--", "rm", "/tmp/ok")
		pod := e.untilPod("p", "is not ready", func(p *corev1.Pod) bool { return !isReady(p) })
		if n := pod.Status.ContainerStatuses[0].RestartCount; n != 0 {
			t.Errorf("%d restarts", n)
		}
	})
	t.Run("liveness restarts", func(t *testing.T) {
		t.Parallel()
		e := newEnv(t)
		e.create(podOf(t, "p", `
restartPolicy: Always
containers:
- command: [sh, -c, 'trap "exit 0" TERM; httpd -p 8080; sleep 3600 & wait']
  livenessProbe: {httpGet: {path: /none, port: 8080}, periodSeconds: 1, failureThreshold: 1, initialDelaySeconds: 1}
`))
		e.untilPod("p", "is restarted", func(p *corev1.Pod) bool {
			return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].RestartCount >= 1
		})
		e.eventMatching("p", "Unhealthy", "^Liveness probe failed: HTTP probe failed with statuscode: 404$")
		if got, want := e.event("p", "Killing"), "Container c0 failed liveness probe, will be restarted"; got != want {
			t.Errorf("event %q, want %q", got, want)
		}
	})
	t.Run("startup restarts", func(t *testing.T) {
		t.Parallel()
		e := newEnv(t)
		e.create(podOf(t, "p", `
restartPolicy: Always
containers:
- command: [sh, -c, 'trap "exit 0" TERM; sleep 3600 & wait']
  startupProbe: {tcpSocket: {port: 9}, periodSeconds: 1, failureThreshold: 1}
  livenessProbe: {exec: {command: ["false"]}, periodSeconds: 1, failureThreshold: 1}
`))
		if got, want := e.event("p", "Killing"), "Container c0 failed startup probe, will be restarted"; got != want {
			t.Errorf("event %q, want %q", got, want)
		}
		e.eventMatching("p", "Unhealthy", `^Startup probe failed: dial tcp 10\.42\.\d+\.\d+:9: connect: connection refused$`)
	})
	t.Run("grpc", func(t *testing.T) {
		t.Parallel()
		listener, err := net.Listen("tcp", isolate.Address+":0")
		if err != nil {
			t.Fatal(err)
		}
		srv, status := grpc.NewServer(), health.NewServer()
		healthpb.RegisterHealthServer(srv, status)
		status.SetServingStatus("db", healthpb.HealthCheckResponse_NOT_SERVING)
		go func() { _ = srv.Serve(listener) }()
		t.Cleanup(srv.Stop)
		e := newEnv(t)
		e.create(podOf(t, "p", fmt.Sprintf(`
hostNetwork: true
containers:
- command: [sleep, "3600"]
  readinessProbe: {grpc: {port: %d, service: db}, periodSeconds: 1}
  livenessProbe: {grpc: {port: %[1]d}, periodSeconds: 1}
`, listener.Addr().(*net.TCPAddr).Port)))
		e.eventMatching("p", "Unhealthy", `^Readiness probe failed: service unhealthy \(responded with "NOT_SERVING"\)$`)
		status.SetServingStatus("db", healthpb.HealthCheckResponse_SERVING)
		if pod := e.ready("p"); pod.Status.ContainerStatuses[0].RestartCount != 0 {
			t.Error("restarted")
		}
	})
}

// Hooks run after the start and before the end, whatever their kind.
func TestPodHooks(t *testing.T) {
	asked := make(chan string, 16)
	srv := &httptest.Server{Config: &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked <- r.URL.Path
	})}}
	var err error
	if srv.Listener, err = net.Listen("tcp", isolate.Address+":0"); err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(srv.Close)
	port := srv.Listener.Addr().(*net.TCPAddr).Port
	heard := func(want string) {
		t.Helper()
		select {
		case got := <-asked:
			if got != want {
				t.Errorf("heard %s, want %s", got, want)
			}
		case <-time.After(30 * time.Second):
			t.Errorf("did not hear %s", want)
		}
	}
	e := newEnv(t)
	e.create(podOf(t, "http", fmt.Sprintf(`
terminationGracePeriodSeconds: 20
containers:
- command: [sh, -c, 'trap "exit 0" TERM; sleep 3600 & wait']
  lifecycle:
    postStart: {httpGet: {host: %s, port: %d, path: /http-start}}
    preStop: {httpGet: {host: %[1]s, port: %[2]d, path: /http-stop}}
`, isolate.Address, port)))
	heard("/http-start")
	e.ready("http")
	e.remove("http")
	heard("/http-stop")

	e.create(podOf(t, "exec", fmt.Sprintf(`
terminationGracePeriodSeconds: 20
containers:
- command: [sh, -c, 'trap "wget -qO- http://%s:%d/term; exit 0" TERM; sleep 3600 & wait']
  lifecycle:
    postStart: {exec: {command: [wget, -qO-, "http://%[1]s:%[2]d/exec-start"]}}
    preStop: {exec: {command: [wget, -qO-, "http://%[1]s:%[2]d/exec-stop"]}}
`, isolate.Address, port)))
	heard("/exec-start")
	e.ready("exec")
	e.remove("exec")
	heard("/exec-stop")
	heard("/term")

	e.create(podOf(t, "bad", "containers: [{command: [sleep, '3600'], lifecycle: {postStart: {exec: {command: ['false']}}}}]"))
	if got := e.event("bad", "FailedPostStartHook"); !strings.HasPrefix(got, "PostStartHook failed") {
		t.Errorf("event %q", got)
	}
	e.ended("bad")
}

// A pod gets its grace to end, no more; preStop counts too.
func TestPodGrace(t *testing.T) {
	e := newEnv(t)
	e.create(podOf(t, "kind", "terminationGracePeriodSeconds: 30\ncontainers: [{command: [sh, -c, 'trap \"exit 0\" TERM; sleep 3600 & wait']}]"))
	e.create(podOf(t, "deaf", "terminationGracePeriodSeconds: 2\ncontainers: [{command: [sh, -c, 'trap \"\" TERM; while true; do sleep 1; done']}]"))
	e.create(podOf(t, "slow", "terminationGracePeriodSeconds: 2\ncontainers: [{command: [sleep, '3600'], lifecycle: {preStop: {exec: {command: [sleep, '3600']}}}}]"))
	e.create(podOf(t, "now", "terminationGracePeriodSeconds: 3600\ncontainers: [{command: [sleep, '3600']}]"))
	for name, limit := range map[string][2]time.Duration{"kind": {0, 10 * time.Second}, "deaf": {1500 * time.Millisecond, 15 * time.Second}, "slow": {1500 * time.Millisecond, 15 * time.Second}} {
		e.ready(name)
		began := time.Now()
		e.remove(name)
		if took := time.Since(began); took < limit[0] || took > limit[1] {
			t.Errorf("%s took %s", name, took)
		}
	}
	e.ready("now")
	e.kubectl("delete", "pod", "now", "--grace-period=0", "--force")
	e.gone("now")
	if got, want := e.event("kind", "Killing"), "Stopping container c0"; got != want {
		t.Errorf("event %q, want %q", got, want)
	}
}

// The last words of a container are in its status.
func TestPodTerminationMessage(t *testing.T) {
	for _, c := range []struct{ name, container, want string }{
		{"file", "command: [sh, -c, 'echo -n DONE >/dev/termination-log']", "DONE"},
		{"own path, not root", "command: [sh, -c, 'echo -n DONE >/dev/mine'], terminationMessagePath: /dev/mine, securityContext: {runAsUser: 1000}", "DONE"},
		{"log of a failure", "command: [sh, -c, 'echo -n DONE; exit 1'], terminationMessagePolicy: FallbackToLogsOnError", "DONE"},
		{"no log of a success", "command: [sh, -c, 'echo DONE'], terminationMessagePolicy: FallbackToLogsOnError", ""},
		{"file before log", "command: [sh, -c, 'echo log; echo -n OK >/dev/termination-log; exit 1'], terminationMessagePolicy: FallbackToLogsOnError", "OK"},
		{"too long", "command: [sh, -c, 'yes | head -c 10000 >/dev/termination-log']", strings.Repeat("y\n", 2048)},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t)
			e.create(podOf(t, "p", "containers: [{"+c.container+"}]"))
			s := e.ended("p").Status.ContainerStatuses[0].State.Terminated
			if s == nil || s.Message != c.want {
				t.Errorf("terminated: %+v, want message %q", s, c.want)
			}
		})
	}
}

// A pod is evicted by its own deadline and cannot be resized beyond sense;
// its resources change in place.
func TestPodDeadlineAndResize(t *testing.T) {
	e := newEnv(t)
	e.create(podOf(t, "late", "activeDeadlineSeconds: 2\ncontainers: [{command: [sleep, '3600']}]"))
	e.create(podOf(t, "p", "restartPolicy: Always\ncontainers: [{command: [sleep, '3600'], resources: {requests: {cpu: 100m, memory: 32Mi}, limits: {cpu: 200m, memory: 64Mi}}}]"))
	id := e.ready("p").Status.ContainerStatuses[0].ContainerID
	e.kubectl("patch", "pod", "p", "--subresource=resize", "-p", `{"spec":{"containers":[{"name":"c0","resources":{"requests":{"cpu":"150m"},"limits":{"cpu":"400m"}}}]}}`)
	pod := e.untilPod("p", "is resized", func(p *corev1.Pod) bool {
		r := p.Status.ContainerStatuses[0].Resources
		return r != nil && r.Limits.Cpu().Cmp(resource.MustParse("400m")) == 0
	})
	if s := pod.Status.ContainerStatuses[0]; s.ContainerID != id || s.RestartCount != 0 {
		t.Errorf("restarted for a resize: %+v", s)
	}
	// The pod as a whole, while its container has limits of its own.
	e.create(podOf(t, "whole", "restartPolicy: Always\nresources: {requests: {cpu: 100m, memory: 64Mi}, limits: {cpu: 200m, memory: 128Mi}}\n"+
		"containers: [{command: [sleep, '3600'], resources: {requests: {cpu: 10m, memory: 32Mi}, limits: {cpu: 50m, memory: 32Mi}}}]"))
	e.ready("whole")
	e.kubectl("patch", "pod", "whole", "--subresource=resize", "-p", `{"spec":{"resources":{"requests":{"cpu":"150m"},"limits":{"cpu":"300m","memory":"160Mi"}}}}`)
	pod = e.untilPod("whole", "is resized", func(p *corev1.Pod) bool {
		r := p.Status.Resources
		return r != nil && r.Limits.Cpu().String() == "300m" && r.Limits.Memory().String() == "160Mi" && r.Requests.Cpu().String() == "150m"
	})
	if s := pod.Status.ContainerStatuses[0]; s.RestartCount != 0 || s.Resources.Limits.Memory().String() != "32Mi" || pod.Status.AllocatedResources.Cpu().String() != "150m" {
		t.Errorf("%+v, container %+v", pod.Status.AllocatedResources, s)
	}
	if got := e.event("whole", "ResizeCompleted"); !strings.HasPrefix(got, `Pod resize completed: {"containers":[{"name":"c0",`) {
		t.Errorf("event %q", got)
	}
	late := e.ended("late")
	if late.Status.Phase != corev1.PodFailed || late.Status.Reason != "DeadlineExceeded" || late.Status.Message != "Pod was active on the node longer than the specified deadline" {
		t.Errorf("%s: %s: %s", late.Status.Phase, late.Status.Reason, late.Status.Message)
	}
}
