package e2e

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const guarded = `
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: guard}
spec: {maxUnavailable: 1, selector: {matchLabels: {app: guarded}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: guarded}
spec:
  replicas: 3
  selector: {matchLabels: {app: guarded}}
  template:
    metadata: {labels: {app: guarded}}
    spec:
      containers:
      - name: c
        image: ` + busybox + `
        command: [sh, -c, "trap 'exit 0' TERM; sleep 86400 & wait"]
`

// TestDrainKeepsTheBudget drains the only node, so no other test runs beside it.
func TestDrainKeepsTheBudget(t *testing.T) {
	e := newEnv(t)
	t.Cleanup(func() {
		if out, err := shared.Kubectl(context.WithoutCancel(t.Context()), nil, "uncordon", "node-1"); err != nil {
			t.Errorf("uncordon: %s %v", out, err)
		}
	})
	e.apply(guarded)
	e.kubectl("rollout", "status", "deploy/guarded", "--timeout=60s")
	e.until("the budget allows one", func() bool {
		return strings.Contains(e.kubectl("get", "pdb", "guard"), "guard   N/A             1                 1")
	})
	before := map[types.UID]bool{}
	list, err := e.client.CoreV1().Pods(e.namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list.Items {
		before[p.UID] = true
	}
	fewest := watchServing(t, e, list.ResourceVersion, list.Items)

	// With nowhere to go only one may.
	e.fails("global timeout reached", "drain", "node-1", "--ignore-daemonsets", "--pod-selector=app=guarded", "--timeout=8s")
	serving := e.kubectl("get", "pdb", "guard", "-o", "jsonpath={.status.currentHealthy} {.status.disruptionsAllowed} {.status.conditions[0].reason}")
	if serving != "2 0 InsufficientPods" {
		t.Errorf("while the drain is blocked: %s", serving)
	}
	// With room for the replacements the drain ends.
	drained := make(chan error, 1)
	go func() {
		_, err := e.try("drain", "node-1", "--ignore-daemonsets", "--pod-selector=app=guarded", "--timeout=60s")
		drained <- err
	}()
	e.until("the node is cordoned by the drain", func() bool {
		return e.kubectl("get", "node", "node-1", "-o", "jsonpath={.spec.unschedulable}") == "true"
	})
	for done := false; !done; {
		e.kubectl("uncordon", "node-1")
		select {
		case err := <-drained:
			if err != nil {
				t.Fatal(err)
			}
			done = true
		default:
		}
	}
	e.kubectl("rollout", "status", "deploy/guarded", "--timeout=60s")
	list, err = e.client.CoreV1().Pods(e.namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list.Items {
		if before[p.UID] && p.DeletionTimestamp == nil {
			t.Errorf("%s was not drained", p.Name)
		}
	}
	if n := fewest(); n < 2 {
		t.Errorf("only %d pods were serving at one time", n)
	}
}

// watchServing follows the pods of a namespace from a version on. The function
// that it returns ends that and tells how few of them ever were ready and
// staying.
func watchServing(t *testing.T, e *env, version string, pods []corev1.Pod) func() int {
	t.Helper()
	w, err := e.client.CoreV1().Pods(e.namespace).Watch(t.Context(), metav1.ListOptions{ResourceVersion: version})
	if err != nil {
		t.Fatal(err)
	}
	serving := map[types.UID]bool{}
	note := func(p *corev1.Pod) {
		delete(serving, p.UID)
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue && p.DeletionTimestamp == nil {
				serving[p.UID] = true
			}
		}
	}
	for i := range pods {
		note(&pods[i])
	}
	fewest := len(serving)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ev := range w.ResultChan() {
			if p, ok := ev.Object.(*corev1.Pod); ok {
				note(p)
				fewest = min(fewest, len(serving))
			}
		}
	}()
	return func() int { w.Stop(); <-ended; return fewest }
}
