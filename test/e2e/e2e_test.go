// Package e2e drives a whole Proa as its users do: with kubectl and client-go,
// on real containers. All tests share one cluster, each in a namespace of its own.
package e2e

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/proa-dev/proa/internal/ociimage"
	"github.com/proa-dev/proa/test/cluster"
	"github.com/proa-dev/proa/test/isolate"
)

// busybox is the image that most tests run.
const busybox = "proa.dev/e2e/busybox:1"

// shared is the cluster of all tests.
var shared *cluster.Cluster

func TestMain(m *testing.M) {
	flag.Parse()
	isolate.Enter()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	ctx := context.Background()
	var err error
	if shared, err = cluster.New("../../bin"); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 2
	}
	code := 2
	if err = prepare(ctx); err == nil {
		code = m.Run()
		if code != 0 {
			fmt.Fprintln(os.Stderr, "proa's last words:\n"+shared.LastWords())
		}
	}
	if cleanup := shared.Remove(ctx); err == nil {
		err = cleanup
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 2
	}
	return code
}

func prepare(ctx context.Context) error {
	if err := shared.Start(ctx); err != nil {
		return err
	}
	c, err := shared.Client()
	if err != nil {
		return err
	}
	if err := shared.Until(ctx, 30*time.Second, func() bool {
		n, err := c.CoreV1().Nodes().Get(ctx, isolate.Host, metav1.GetOptions{})
		return err == nil && condition(n.Status.Conditions, corev1.NodeReady) == corev1.ConditionTrue
	}); err != nil {
		return fmt.Errorf("the node is not Ready: %w", err)
	}
	path, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	files, err := ociimage.Busybox(ctx, path)
	if err != nil {
		return err
	}
	var archive bytes.Buffer
	if err := ociimage.Build(&archive, ociimage.Spec{
		Names: []string{busybox}, Layers: [][]ociimage.File{files}, Cmd: []string{"sh"}, Env: []string{"PATH=/bin"},
	}); err != nil {
		return err
	}
	_, err = shared.Proa(ctx, &archive, "image", "import", "-")
	return err
}

func condition(list []corev1.NodeCondition, kind corev1.NodeConditionType) corev1.ConditionStatus {
	for _, c := range list {
		if c.Type == kind {
			return c.Status
		}
	}
	return corev1.ConditionUnknown
}

// env is one test's namespace.
type env struct {
	t         *testing.T
	namespace string
	client    *kubernetes.Clientset
	// environ is what kubectl's environment holds besides this process's.
	environ []string
}

var notName = regexp.MustCompile("[^a-z0-9]+")

// newEnv makes a namespace that is removed with the test.
func newEnv(t *testing.T) *env {
	t.Helper()
	c, err := shared.Client()
	if err != nil {
		t.Fatal(err)
	}
	name := strings.Trim(notName.ReplaceAllString(strings.ToLower(strings.TrimPrefix(t.Name(), "Test")), "-"), "-")
	e := &env{t: t, namespace: name, client: c}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if _, err := c.CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			out, err := e.try("get", "pods,events", "-o", "wide")
			t.Logf("%s\n%v", out, err)
		}
		ctx := context.WithoutCancel(t.Context())
		if err := c.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	e.until("the default service account is there", func() bool {
		_, err := c.CoreV1().ServiceAccounts(name).Get(t.Context(), "default", metav1.GetOptions{})
		return err == nil
	})
	return e
}

// try runs kubectl in the namespace.
func (e *env) try(args ...string) (string, error) {
	return shared.Kubectl(context.WithoutCancel(e.t.Context()), nil, append([]string{"-n", e.namespace}, args...)...)
}

// kubectl runs kubectl in the namespace; its failure is the test's.
func (e *env) kubectl(args ...string) string {
	e.t.Helper()
	out, err := e.try(args...)
	if err != nil {
		e.t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// apply applies manifests in the namespace.
func (e *env) apply(manifest string) {
	e.t.Helper()
	if _, err := shared.Kubectl(e.t.Context(), strings.NewReader(manifest), "-n", e.namespace, "apply", "-f", "-"); err != nil {
		e.t.Fatal(err)
	}
}

// until waits for a condition.
func (e *env) until(what string, ok func() bool) {
	e.t.Helper()
	if err := shared.Until(e.t.Context(), time.Minute, ok); err != nil {
		e.t.Fatalf("%s: %v", what, err)
	}
}

// pod reads a pod.
func (e *env) pod(name string) *corev1.Pod {
	e.t.Helper()
	p, err := e.client.CoreV1().Pods(e.namespace).Get(e.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		e.t.Fatal(err)
	}
	return p
}
