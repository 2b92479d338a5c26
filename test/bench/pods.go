package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/container/runtimebin"
	"github.com/proa-dev/proa/test/cluster"
)

// bareProcess is the median time to start and end a small process.
func bareProcess(ctx context.Context) (time.Duration, error) {
	return median(21, func() error { return exec.CommandContext(ctx, "/bin/true").Run() })
}

func median(n int, fn func() error) (time.Duration, error) {
	var list []time.Duration
	for range n {
		begin := time.Now()
		if err := fn(); err != nil {
			return 0, err
		}
		list = append(list, time.Since(begin))
	}
	slices.Sort(list)
	return list[n/2], nil
}

// bareRunc is the median time of `runc run` with a program that ends at once,
// in namespaces of its own.
func bareRunc(ctx context.Context, dir string) (time.Duration, error) {
	bins, err := runtimebin.Unpack(filepath.Join(dir, "yardstick"))
	if err != nil {
		return 0, err
	}
	bundle := filepath.Join(dir, "bundle")
	if err := os.MkdirAll(filepath.Join(bundle, "rootfs", "bin"), 0o755); err != nil {
		return 0, err
	}
	box, err := exec.LookPath("busybox")
	if err != nil {
		return 0, err
	}
	data, err := os.ReadFile(box)
	if err != nil {
		return 0, err
	}
	if err := os.WriteFile(filepath.Join(bundle, "rootfs", "bin", "true"), data, 0o755); err != nil {
		return 0, err
	}
	if out, err := exec.CommandContext(ctx, bins.Runc, "spec", "-b", bundle).CombinedOutput(); err != nil {
		return 0, fmt.Errorf("runc spec: %w: %s", err, out)
	}
	config := filepath.Join(bundle, "config.json")
	var spec specs.Spec
	if data, err = os.ReadFile(config); err != nil {
		return 0, err
	}
	if err := json.Unmarshal(data, &spec); err != nil {
		return 0, err
	}
	spec.Process.Terminal, spec.Process.Args = false, []string{"/bin/true"}
	spec.Linux.CgroupsPath = "/proa-bench-yardstick"
	spec.Process.OOMScoreAdj = nil
	if data, err = json.Marshal(spec); err != nil {
		return 0, err
	}
	if err := os.WriteFile(config, data, 0o600); err != nil {
		return 0, err
	}
	n := 0
	return median(21, func() error {
		n++
		out, err := exec.CommandContext(ctx, bins.Runc, "--root", filepath.Join(dir, "runc"), "run", "-b", bundle, fmt.Sprintf("yard%d", n)).CombinedOutput()
		if err != nil {
			return fmt.Errorf("runc run: %w: %s", err, out)
		}
		return nil
	})
}

func benchPod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: ptr.To[int64](0),
			Containers:                    []corev1.Container{{Name: "c", Image: image, Command: []string{"sleep", "1000000"}}},
		},
	}
}

// startPod creates a pod and waits until it is Ready.
func startPod(ctx context.Context, e *cluster.Cluster, c *kubernetes.Clientset, name string) error {
	w, err := c.CoreV1().Pods("default").Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	if err != nil {
		return err
	}
	defer w.Stop()
	if err := createPod(ctx, c, name); err != nil {
		return err
	}
	return await(ctx, e, w, 1, podReady)
}

// createPod waits for the default service account, which a fresh namespace
// gets a moment after it is made.
func createPod(ctx context.Context, c *kubernetes.Clientset, name string) error {
	for {
		_, err := c.CoreV1().Pods("default").Create(ctx, benchPod(name), metav1.CreateOptions{})
		if err == nil || ctx.Err() != nil {
			return err
		}
		if _, e := c.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{}); e == nil {
			return err
		}
	}
}

func podReady(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// await reads events until n different pods fulfil ok.
func await(ctx context.Context, e *cluster.Cluster, w watch.Interface, n int, ok func(*corev1.Pod) bool) error {
	limit := time.NewTimer(2 * time.Minute)
	defer limit.Stop()
	done := map[string]bool{}
	for len(done) < n {
		select {
		case ev, open := <-w.ResultChan():
			p, isPod := ev.Object.(*corev1.Pod)
			if !open || !isPod {
				return fmt.Errorf("the watch ended: %v", ev.Object)
			}
			if ev.Type != watch.Deleted && ok(p) {
				done[p.Name] = true
			}
		case <-limit.C:
			return fmt.Errorf("%d of %d pods after 2 minutes\n%s", len(done), n, e.LastWords())
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// benchPods measures starts of pods beside a bare runc.
func benchPods(ctx context.Context, e *cluster.Cluster) ([]figure, error) {
	archive, err := busybox(ctx)
	if err != nil {
		return nil, err
	}
	if err := e.Start(ctx); err != nil {
		return nil, err
	}
	c, err := e.Client()
	if err != nil {
		return nil, err
	}
	if err := e.Until(ctx, 30*time.Second, func() bool { return nodeReady(ctx, c) }); err != nil {
		return nil, err
	}
	if _, err := e.Proa(ctx, bytes.NewReader(archive), "image", "import", "-"); err != nil {
		return nil, err
	}
	if err := startPod(ctx, e, c, "warm"); err != nil {
		return nil, err
	}
	runc, err := bareRunc(ctx, e.Dir)
	if err != nil {
		return nil, err
	}
	n := 0
	single, err := median(15, func() error { n++; return startPod(ctx, e, c, fmt.Sprintf("one-%d", n)) })
	if err != nil {
		return nil, err
	}
	crash, err := restart(ctx, e, c, "warm")
	if err != nil {
		return nil, err
	}
	many, err := fifty(ctx, e, c)
	if err != nil {
		return nil, err
	}
	yard := "runc run " + ms(runc)
	return []figure{
		{"pod start, one by one, p50", ms(single), yard, ratio(single, runc), "<= 12 x", single <= 12*runc},
		{"50 pods at once, all Ready", ms(many), yard, ratio(many, runc), "<= 200 x", many <= 200*runc},
		{"crashed container runs again", ms(crash), yard, ratio(crash, runc), "<= 1000 ms", crash <= time.Second},
	}, nil
}

func fifty(ctx context.Context, e *cluster.Cluster, c *kubernetes.Clientset) (time.Duration, error) {
	w, err := c.CoreV1().Pods("default").Watch(ctx, metav1.ListOptions{})
	if err != nil {
		return 0, err
	}
	defer w.Stop()
	begin := time.Now()
	for i := range 50 {
		if err := createPod(ctx, c, fmt.Sprintf("many-%d", i)); err != nil {
			return 0, err
		}
	}
	err = await(ctx, e, w, 50, func(p *corev1.Pod) bool { return len(p.Name) > 4 && p.Name[:4] == "many" && podReady(p) })
	return time.Since(begin), err
}

// restart kills a container's process and waits until the API says that it
// runs again.
func restart(ctx context.Context, e *cluster.Cluster, c *kubernetes.Clientset, name string) (time.Duration, error) {
	w, err := c.CoreV1().Pods("default").Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	if err != nil {
		return 0, err
	}
	defer w.Stop()
	pod, err := c.CoreV1().Pods("default").Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return 0, err
	}
	begin := time.Now()
	if err := killIn(string(pod.UID)); err != nil {
		return 0, err
	}
	err = await(ctx, e, w, 1, func(p *corev1.Pod) bool {
		s := p.Status.ContainerStatuses
		return len(s) == 1 && s[0].RestartCount == 1 && s[0].State.Running != nil
	})
	return time.Since(begin), err
}

// killIn kills the `sleep` of a pod, found by its cgroup.
func killIn(uid string) error {
	procs, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		return err
	}
	for _, p := range procs {
		group, err := os.ReadFile(p)
		if err != nil || !bytes.Contains(group, []byte(uid)) {
			continue
		}
		line, err := os.ReadFile(filepath.Join(filepath.Dir(p), "cmdline"))
		if err != nil || !bytes.HasPrefix(line, []byte("sleep\x00")) {
			continue
		}
		var pid int
		if _, err := fmt.Sscanf(p, "/proc/%d/", &pid); err != nil {
			return err
		}
		proc, err := os.FindProcess(pid)
		if err != nil {
			return err
		}
		return proc.Kill()
	}
	return fmt.Errorf("no process of pod %s", uid)
}
