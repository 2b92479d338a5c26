package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// soon is by when a lost container or pod must be back: less than any poll or
// back-off would take, on a machine that others use too. That it is a fraction
// of a second is measured by test/bench.
const soon = 5 * time.Second

func TestRollout(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.apply(paused)
	done := func() {
		t.Helper()
		has(t, "rollout status", e.kubectl("rollout", "status", "deploy/d", "--timeout=60s"), "successfully rolled out")
	}
	image := func(want string) {
		t.Helper()
		if got := e.kubectl("get", "deploy", "d", "-o", "jsonpath={..image}"); got != want {
			t.Errorf("the image is %q, want %q", got, want)
		}
	}
	done()
	for _, next := range []string{"two", "three"} {
		e.kubectl("set", "image", "deploy/d", "c="+next)
		done()
	}
	e.kubectl("annotate", "deploy/d", "kubernetes.io/change-cause=to three")
	e.until("the cause is in the history", func() bool {
		return strings.Contains(e.kubectl("rollout", "history", "deploy/d"), "3         to three")
	})
	has(t, "a revision", e.kubectl("rollout", "history", "deploy/d", "--revision=2"), "with revision #2", "Image:\ttwo")
	e.kubectl("rollout", "undo", "deploy/d")
	image("two")
	done()
	e.kubectl("rollout", "undo", "deploy/d", "--to-revision=1")
	image("one")
	done()
	e.fails("unable to find specified revision 99 in history", "rollout", "undo", "deploy/d", "--to-revision=99")

	e.kubectl("rollout", "pause", "deploy/d")
	e.fails("is already paused", "rollout", "pause", "deploy/d")
	e.fails("you cannot rollback a paused deployment", "rollout", "undo", "deploy/d")
	e.kubectl("rollout", "resume", "deploy/d")
	e.kubectl("rollout", "restart", "deploy/d")
	done()
	if got := e.kubectl("get", "deploy", "d", "-o", `jsonpath={.spec.template.metadata.annotations}`); !strings.Contains(got, "restartedAt") {
		t.Errorf("rollout restart leaves %q", got)
	}
}

// A rollout of an image that is nowhere stops at the first pod, says so, and is
// taken back without touching the pods that serve.
func TestRollbackOfABadImage(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.apply(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: d}
spec:
  replicas: 3
  progressDeadlineSeconds: 3
  selector: {matchLabels: {app: d}}
  template:
    metadata: {labels: {app: d}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: c, image: ` + busybox + `, command: [sleep, "86400"]}]
`)
	ready := func() string {
		return e.kubectl("get", "pods", "-l", "app=d", "--sort-by=.metadata.name", "-o", `jsonpath={range .items[?(@.status.containerStatuses[0].ready==true)]}{.metadata.uid} {end}`)
	}
	e.kubectl("rollout", "status", "deploy/d", "--timeout=60s")
	before := ready()
	e.kubectl("set", "image", "deploy/d", "c=127.0.0.1:1/nowhere/none:1")
	e.fails(`deployment "d" exceeded its progress deadline`, "rollout", "status", "deploy/d", "--timeout=60s")
	e.until("the kubelet tells why", func() bool {
		out := e.kubectl("get", "pods", "-l", "app=d")
		return strings.Contains(out, "ImagePullBackOff") || strings.Contains(out, "ErrImagePull")
	})
	if now := ready(); now != before || strings.Count(now, " ") != 2 {
		t.Errorf("while it is stuck %q serve, before %q", now, before)
	}
	has(t, "get", e.kubectl("get", "deploy", "d"), "d      3/3     1            3")
	e.kubectl("rollout", "undo", "deploy/d")
	has(t, "status", e.kubectl("rollout", "status", "deploy/d", "--timeout=60s"), "successfully rolled out")
	if now := ready(); now != before {
		t.Errorf("after the rollback %q serve, before %q", now, before)
	}
	has(t, "history", e.kubectl("rollout", "history", "deploy/d"), "2         <none>", "3         <none>")
}

// TestRollingUpdateLosesNothing asks through the Service all the while.
func TestRollingUpdateLosesNothing(t *testing.T) {
	e := newEnv(t)
	e.apply(web)
	e.kubectl("rollout", "status", "deploy/web", "--timeout=60s")
	address := "http://" + e.kubectl("get", "svc", "web", "-o", "jsonpath={.spec.clusterIP}")
	e.until("the Service answers", func() bool { _, err := ask(t.Context(), address); return err == nil })

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var asked atomic.Int64
	var users sync.WaitGroup
	for range 4 {
		users.Go(func() {
			for ctx.Err() == nil {
				if _, err := ask(ctx, address); err != nil && ctx.Err() == nil {
					t.Errorf("request %d: %v", asked.Load(), err)
					return
				}
				asked.Add(1)
			}
		})
	}
	e.kubectl("set", "env", "deploy/web", "VERSION=2")
	e.kubectl("rollout", "status", "deploy/web", "--timeout=90s")
	e.until("the old pods are gone", func() bool {
		return strings.Count(e.kubectl("get", "pods", "-o", "name"), "pod/") == 2
	})
	stop()
	users.Wait()
	t.Logf("%d requests", asked.Load())
	if asked.Load() < 100 {
		t.Errorf("only %d requests were made", asked.Load())
	}
}

// ask makes a request on a connection of its own.
func ask(ctx context.Context, url string) (string, error) {
	c := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, DialContext: (&net.Dialer{Timeout: 2 * time.Second}).DialContext,
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := c.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return strings.TrimSpace(string(body)), err
}

// process finds the process that runs with an argument of its own.
func process(t *testing.T, argument string) int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err == nil && strings.HasSuffix(string(b), "\x00"+argument+"\x00") {
			pid, err := strconv.Atoi(strings.Split(f, "/")[2])
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatalf("no process runs with %q", argument)
	return 0
}

func TestKilledContainerRunsAgain(t *testing.T) {
	e := newEnv(t)
	argument := "8640" + strconv.Itoa(os.Getpid())
	e.apply(`
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: ` + busybox + `, command: [sleep, "` + argument + `"]}]
`)
	e.kubectl("wait", "--for=condition=Ready", "pod/p", "--timeout=60s")
	before := e.pod("p").Status.ContainerStatuses[0]
	start := time.Now()
	if err := syscall.Kill(process(t, argument), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	var after corev1.ContainerStatus
	e.until("the container runs again", func() bool {
		after = e.pod("p").Status.ContainerStatuses[0]
		return after.RestartCount == 1 && after.State.Running != nil && after.Ready
	})
	took := time.Since(start)
	t.Logf("back after %s", took)
	if took > soon {
		t.Errorf("back after %s, want less than %s", took, soon)
	}
	last := after.LastTerminationState.Terminated
	if last == nil || last.ExitCode != 137 || last.Reason != "Error" || last.ContainerID != before.ContainerID ||
		!last.StartedAt.Equal(&before.State.Running.StartedAt) || after.ContainerID == before.ContainerID {
		t.Errorf("after: %+v\nbefore: %+v", after, before)
	}
}

func TestDeletedPodIsReplaced(t *testing.T) {
	e := newEnv(t)
	e.apply(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: d}
spec:
  selector: {matchLabels: {app: d}}
  template:
    metadata: {labels: {app: d}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: c, image: ` + busybox + `, command: [sleep, "86400"]}]
`)
	e.kubectl("rollout", "status", "deploy/d", "--timeout=60s")
	old := strings.TrimPrefix(e.kubectl("get", "pods", "-o", "name"), "pod/")
	start := time.Now()
	if err := e.client.CoreV1().Pods(e.namespace).Delete(t.Context(), old, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	e.until("another pod is Ready", func() bool {
		pods, err := e.client.CoreV1().Pods(e.namespace).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for i := range pods.Items {
			p := &pods.Items[i]
			for _, c := range p.Status.Conditions {
				if p.Name != old && c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
					return true
				}
			}
		}
		return false
	})
	took := time.Since(start)
	t.Logf("replaced after %s", took)
	if took > soon {
		t.Errorf("replaced after %s, want less than %s", took, soon)
	}
}
