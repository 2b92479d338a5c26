package fault

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A server that stops, cleanly or not, leaves its containers running, and the
// next one finds them as they are.
func TestRestartFindsContainers(t *testing.T) {
	n := newNode(t)
	n.start()
	n.importBusybox()
	n.run("p")
	before := n.pod("p")
	for _, c := range []struct {
		name string
		end  func() error
	}{{"SIGTERM", n.Stop}, {"SIGKILL", n.Kill}, {"SIGTERM again", n.Stop}} {
		last := fmt.Sprint("written-before-", c.name)
		last = strings.ReplaceAll(strings.ToLower(last), " ", "-")
		if _, err := n.client.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: last}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := c.end(); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("%s took %s", c.name, took)
		}
		if !slices.ContainsFunc(processes(t, "86399"), func(s string) bool { return strings.HasPrefix(s, "sleep") }) {
			t.Fatalf("no container runs after %s", c.name)
		}
		n.start()
		after := n.pod("p")
		old, now := before.Status.ContainerStatuses[0], after.Status.ContainerStatuses[0]
		if now.ContainerID != old.ContainerID || now.RestartCount != 0 || after.Status.PodIP != before.Status.PodIP || !now.State.Running.StartedAt.Equal(&old.State.Running.StartedAt) {
			t.Errorf("after %s: %+v at %s, was %+v at %s", c.name, now, after.Status.PodIP, old, before.Status.PodIP)
		}
		if _, err := n.client.CoreV1().ConfigMaps("default").Get(t.Context(), last, metav1.GetOptions{}); err != nil {
			t.Errorf("after %s: %v", c.name, err)
		}
		n.until("exec works", func() bool {
			out, err := n.Kubectl(t.Context(), nil, "exec", "p", "--", "echo", "alive")
			return err == nil && out == "alive\n"
		})
	}
}

// A pod that is deleted, and one that ends, while nobody looks.
func TestRestartSeesWhatHappened(t *testing.T) {
	n := newNode(t)
	n.start()
	n.importBusybox()
	n.run("killed")
	pod := n.pod("killed")
	if err := n.Kill(); err != nil {
		t.Fatal(err)
	}
	n.endPod(pod)
	n.start()
	n.until("the container is restarted", func() bool {
		got, err := n.client.CoreV1().Pods("default").Get(t.Context(), "killed", metav1.GetOptions{})
		return err == nil && len(got.Status.ContainerStatuses) == 1 && got.Status.ContainerStatuses[0].RestartCount == 1 && got.Status.ContainerStatuses[0].State.Running != nil
	})
	got := n.pod("killed")
	last := got.Status.ContainerStatuses[0].LastTerminationState.Terminated
	if last == nil || last.ExitCode != 137 || last.Reason != "Error" || got.Status.PodIP != pod.Status.PodIP {
		t.Errorf("last state %+v, address %s (was %s)", last, got.Status.PodIP, pod.Status.PodIP)
	}
	n.delete("killed")
	if err := n.Kill(); err != nil {
		t.Fatal(err)
	}
	n.start()
	n.gone("killed")
}

// rounds is how many crashes TestCrashesLeakNothing goes through. Each meets
// another moment: look deeper with `go test ./test/fault -args -rounds=50`.
var rounds = flag.Int("rounds", 4, "crashes with pods coming and going")

// Crashes with pods coming and going: everything that was made for the pods
// goes with them.
func TestCrashesLeakNothing(t *testing.T) {
	n := newNode(t)
	n.start()
	n.importBusybox()
	n.run("first")
	n.pod("first")
	n.delete("first")
	n.gone("first")
	var uids []string
	before := look(t, n.Dir, nil)
	for round := range *rounds {
		names := []string{fmt.Sprintf("ready-%d", round), fmt.Sprintf("leaving-%d", round), fmt.Sprintf("coming-%d", round)}
		n.run(names[0])
		n.run(names[1])
		uids = append(uids, string(n.pod(names[0]).UID), string(n.pod(names[1]).UID))
		n.delete(names[1])
		n.run(names[2])
		// A little later each time, so that the crash meets another moment.
		later := time.Duration(round) * 400 / time.Duration(*rounds) * time.Millisecond
		time.Sleep(later)
		if err := n.Kill(); err != nil {
			t.Fatal(err)
		}
		if round%2 == 1 {
			n.startAndKill(later)
		}
		n.start()
		uids = append(uids, string(n.pod(names[2]).UID))
		n.delete(names[0])
		n.delete(names[2])
		for _, name := range names {
			n.gone(name)
		}
	}
	n.wantClean(before, uids)
}

// startAndKill has another crash meet the recovery from the one before.
func (n *node) startAndKill(after time.Duration) {
	n.Helper()
	ctx, cancel := context.WithTimeout(n.Context(), after)
	defer cancel()
	_ = n.Start(ctx) // it may be ready before
	<-ctx.Done()
	if err := n.Kill(); err != nil {
		n.Fatal(err)
	}
}

// Reset leaves the machine as it was, whatever state the node was in.
func TestResetLeavesNothing(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(n *node) error
	}{{"after SIGTERM", func(n *node) error { return n.Stop() }}, {"after SIGKILL", func(n *node) error { return n.Kill() }}} {
		t.Run(c.name, func(t *testing.T) {
			before := look(t, "/nowhere", nil)
			n := newNode(t)
			n.start()
			n.importBusybox()
			var uids []string
			for i := range 3 {
				n.run(fmt.Sprintf("p-%d", i))
			}
			for i := range 3 {
				uids = append(uids, string(n.pod(fmt.Sprintf("p-%d", i)).UID))
			}
			if out, err := n.Proa(t.Context(), nil, "reset", "--yes"); err == nil {
				t.Errorf("a running node was reset: %s", out)
			}
			// They have rules and links of the same names.
			other := t.TempDir()
			if err := os.Mkdir(filepath.Join(other, "tls"), 0o700); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.CommandContext(t.Context(), program(t), "reset", "--yes", "--data-dir", other).CombinedOutput(); err == nil || !strings.Contains(string(out), "another Proa runs a node on this machine") {
				t.Errorf("another one was reset beside it: %v: %s", err, out)
			}
			during := look(t, n.Dir, uids)
			if len(during["cgroups"]) == 0 || len(during["logs"]) == 0 || len(during["processes"]) == 0 {
				t.Errorf("these tests do not see what they look for: %d cgroups, %d logs, %d processes", len(during["cgroups"]), len(during["logs"]), len(during["processes"]))
			}
			if err := c.end(n); err != nil {
				t.Fatal(err)
			}
			if _, err := n.Proa(t.Context(), nil, "reset", "--yes"); err != nil {
				t.Fatal(err)
			}
			after := look(t, n.Dir, uids)
			for _, group := range during["cgroups"] {
				for dir := filepath.Dir(group); strings.Contains(dir, "/proa"); dir = filepath.Dir(dir) {
					if found, err := filepath.Glob(dir); err == nil {
						after["cgroups"] = append(after["cgroups"], found...)
					}
				}
			}
			if found, err := filepath.Glob(n.Dir); err == nil {
				after["data directory"] = found
			}
			if left := after.more(before); len(left) > 0 {
				t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
			}
		})
	}
}

// Pods that are deleted while they come up, each at another moment, leave
// nothing either.
func TestDeletionsLeakNothing(t *testing.T) {
	n := newNode(t)
	n.start()
	n.importBusybox()
	n.run("first")
	n.pod("first")
	n.delete("first")
	n.gone("first")
	before := look(t, n.Dir, nil)
	var uids, names []string
	for i := range 24 {
		name := fmt.Sprintf("p-%d", i)
		n.run(name)
		pod, err := n.client.CoreV1().Pods("default").Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		names, uids = append(names, name), append(uids, string(pod.UID))
		time.Sleep(time.Duration(i) * 15 * time.Millisecond) // the moment is what the test is about
		n.delete(name)
	}
	for _, name := range names {
		n.gone(name)
	}
	n.wantClean(before, uids)
}

// wantClean waits until nothing is left of pods.
func (n *node) wantClean(before machine, uids []string) {
	n.Helper()
	var left []string
	if err := n.Until(n.Context(), 20*time.Second, func() bool {
		left = look(n.T, n.Dir, uids).more(before)
		return len(left) == 0
	}); err != nil {
		n.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
}
