// Package fault stops, kills, breaks and removes Proa, and looks at what is
// left: of the data, of the pods and on the machine.
package fault

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"github.com/go-logr/logr"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/proa-dev/proa/internal/ociimage"
	"github.com/proa-dev/proa/test/cluster"
	"github.com/proa-dev/proa/test/isolate"
)

const (
	busybox = "proa.dev/fault/busybox:1"
	bin     = "../../bin"
)

func TestMain(m *testing.M) {
	isolate.Enter()
	klog.SetLogger(logr.Discard()) // who is killed complains
	log.SetLogger(logr.Discard())
	// What others leave in these folders of the machine is not Proa's.
	for _, dir := range []string{"/run", "/var/log", "/var/lib/cni"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			fmt.Fprintln(os.Stderr, "fault:", err)
			os.Exit(2)
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
			fmt.Fprintln(os.Stderr, "fault: tmpfs over", dir+":", err)
			os.Exit(2)
		}
	}
	os.Exit(m.Run())
}

// node is a whole Proa with a client.
type node struct {
	*testing.T
	*cluster.Cluster
	client *kubernetes.Clientset
}

// newNode prepares a cluster that does not run yet and is removed with the test.
func newNode(t *testing.T) *node {
	t.Helper()
	c, err := cluster.New(bin)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{T: t, Cluster: c}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log("proa's last words:\n" + c.LastWords())
		}
		if err := c.Remove(context.WithoutCancel(t.Context())); err != nil && !t.Failed() {
			t.Error(err)
		}
	})
	return n
}

// start runs the server and waits for its node.
func (n *node) start(flags ...string) {
	n.Helper()
	if err := n.Start(n.Context(), flags...); err != nil {
		n.Fatal(err)
	}
	var err error
	if n.client, err = n.Client(); err != nil {
		n.Fatal(err)
	}
	n.until("the node is Ready", func() bool {
		node, err := n.client.CoreV1().Nodes().Get(n.Context(), isolate.Host, metav1.GetOptions{})
		if err != nil {
			return false
		}
		for _, c := range node.Status.Conditions {
			if c.Type == corev1.NodeReady {
				return c.Status == corev1.ConditionTrue
			}
		}
		return false
	})
	n.until("the default service account", func() bool {
		_, err := n.client.CoreV1().ServiceAccounts("default").Get(n.Context(), "default", metav1.GetOptions{})
		return err == nil
	})
}

func (n *node) until(what string, ok func() bool) {
	n.Helper()
	if err := n.Until(n.Context(), time.Minute, ok); err != nil {
		n.Fatalf("%s: %v", what, err)
	}
}

// importBusybox gives the node the image that the pods here run, and images
// of other names that differ in no more than that.
func (n *node) importBusybox(names ...string) {
	n.Helper()
	path, err := exec.LookPath("busybox")
	if err != nil {
		n.Fatal(err)
	}
	files, err := ociimage.Busybox(n.Context(), path)
	if err != nil {
		n.Fatal(err)
	}
	for _, name := range append(names, busybox) {
		var archive bytes.Buffer
		spec := ociimage.Spec{Names: []string{name}, Layers: [][]ociimage.File{files}, Cmd: []string{"sh"}, Env: []string{"PATH=/bin", "NAME=" + name}}
		if err := ociimage.Build(&archive, spec); err != nil {
			n.Fatal(err)
		}
		if _, err := n.Proa(n.Context(), &archive, "image", "import", "-"); err != nil {
			n.Fatal(err)
		}
	}
}

// run makes a pod with every kind of thing that a node makes for pods.
func (n *node) run(name string) {
	n.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}}
	spec := `
terminationGracePeriodSeconds: 1
containers:
- name: main
  image: ` + busybox + `
  command: [sh, -c, 'trap "exit 0" TERM; sleep 86399 & wait']
  ports: [{containerPort: 80}]
  resources: {requests: {cpu: 1m, memory: 4Mi}}
  volumeMounts: [{name: mem, mountPath: /mem}, {name: disk, mountPath: /disk}, {name: conf, mountPath: /conf}, {name: disk, mountPath: /sub, subPath: a}]
volumes:
- {name: mem, emptyDir: {medium: Memory}}
- {name: disk, emptyDir: {}}
- {name: conf, configMap: {name: kube-root-ca.crt}}
`
	if err := yaml.UnmarshalStrict([]byte(spec), &pod.Spec); err != nil {
		n.Fatal(err)
	}
	if _, err := n.client.CoreV1().Pods("default").Create(n.Context(), pod, metav1.CreateOptions{}); err != nil {
		n.Fatal(err)
	}
}

// pod waits until a pod is Ready.
func (n *node) pod(name string) *corev1.Pod {
	n.Helper()
	var pod *corev1.Pod
	n.until("pod "+name+" is Ready", func() bool {
		var err error
		if pod, err = n.client.CoreV1().Pods("default").Get(n.Context(), name, metav1.GetOptions{}); err != nil {
			return false
		}
		for _, c := range pod.Status.Conditions {
			if c.Type == corev1.PodReady {
				return c.Status == corev1.ConditionTrue
			}
		}
		return false
	})
	return pod
}

// delete asks for a pod's end; gone waits for it.
func (n *node) delete(name string) {
	n.Helper()
	if err := n.client.CoreV1().Pods("default").Delete(n.Context(), name, metav1.DeleteOptions{}); err != nil {
		n.Fatal(err)
	}
}

func (n *node) gone(name string) {
	n.Helper()
	n.until("pod "+name+" is gone", func() bool {
		_, err := n.client.CoreV1().Pods("default").Get(n.Context(), name, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
}

// processes are those that a file below dir runs in, or whose command line
// speaks of dir, with those below them.
func processes(t *testing.T, dir string) []string {
	t.Helper()
	var list []string
	entries, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		line, err := os.ReadFile(e)
		if err == nil && strings.Contains(string(line), dir) {
			list = append(list, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return list
}

// machine is what a node can leave behind on one.
type machine map[string][]string

// look takes stock. cgroups are looked for by the UIDs of pods.
func look(t *testing.T, dataDir string, uids []string) machine {
	t.Helper()
	m := machine{}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 {
			m["mounts"] = append(m["mounts"], f[4])
		}
	}
	out, err := exec.Command("ip", "-o", "link").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		m["links"] = append(m["links"], strings.Fields(line)[1])
	}
	rules, err := exec.Command("nft", "list", "ruleset").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(rules)) {
		m["rules"] = append(m["rules"], strings.TrimSpace(line))
	}
	for name, patterns := range map[string][]string{
		"network namespaces": {"/run/netns/*", "/var/run/netns/*", filepath.Join(dataDir, "run", "netns", "*")},
		"logs":               {"/var/log/pods/*", "/var/log/containers/*"},
		"run":                {"/run/*", "/run/*/*"},
		"addresses":          {filepath.Join(dataDir, "cni", "pods", "*")},
		"pod directories":    {filepath.Join(dataDir, "kubelet", "pods", "*")},
		"tasks":              {filepath.Join(dataDir, "run", "containerd", "*", "*", "*"), filepath.Join(dataDir, "containerd", "*.task", "*", "*")},
		"containers":         {filepath.Join(dataDir, "containerd", "*.cri", "*", "*")},
		"sockets":            {filepath.Join(dataDir, "run", "s", "*")},
		"runc":               {filepath.Join(dataDir, "run", "runc", "*", "*")},
		"network cache":      {"/var/lib/cni/results/*"},
	} {
		for _, p := range patterns {
			found, err := filepath.Glob(p)
			if err != nil {
				t.Fatal(err)
			}
			m[name] = append(m[name], found...)
		}
	}
	for _, uid := range uids {
		for _, depth := range []string{"*", "*/*", "*/*/*", "*/*/*/*"} {
			found, err := filepath.Glob(filepath.Join("/sys/fs/cgroup", depth, "pod"+uid))
			if err != nil {
				t.Fatal(err)
			}
			m["cgroups"] = append(m["cgroups"], found...)
		}
	}
	m["processes"] = processes(t, dataDir)
	return m
}

// more gives what is in m and was not in before.
func (m machine) more(before machine) []string {
	var list []string
	for kind, things := range m {
		had := map[string]int{}
		for _, x := range before[kind] {
			had[x]++
		}
		for _, x := range things {
			if had[x]--; had[x] < 0 {
				list = append(list, kind+": "+x)
			}
		}
	}
	return list
}
