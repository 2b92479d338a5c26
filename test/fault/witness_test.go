package fault

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

// pods are those of one workload at one moment.
type pods map[types.UID]*corev1.Pod

// rule says what is wrong with the pods of a workload, if anything is. It is
// asked after every change, in order, and may remember what it saw.
type rule func(pods) error

// witness follows the pods of a namespace, which bear the label "app", apart
// from all that acts on them. What it complains of is the test's failure.
type witness struct {
	t      *testing.T
	client kubernetes.Interface
	rules  map[string]rule // by app

	pods            map[string]pods
	history         map[string][]string // the last events, by app
	nodes           map[types.UID]string
	events, relists int
}

// watchPods begins to follow. The function that it returns ends it and tells
// how much was seen.
func watchPods(t *testing.T, client kubernetes.Interface, rules map[string]rule) (stop func() (events, relists int)) {
	t.Helper()
	w := &witness{t: t, client: client, rules: rules, pods: map[string]pods{}, history: map[string][]string{}, nodes: map[types.UID]string{}}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { w.run(ctx) })
	stop = sync.OnceValues(func() (int, int) {
		cancel()
		wg.Wait()
		return w.events, w.relists
	})
	t.Cleanup(func() { stop() })
	return stop
}

// run goes on after each end of the server where it stopped. What a server did
// in its last moment may be gone from the next one's log: then the list says
// what has come of it.
func (w *witness) run(ctx context.Context) {
	version := ""
	for ctx.Err() == nil {
		var err error
		if version == "" {
			version, err = w.list(ctx)
		}
		if err == nil {
			version, err = w.follow(ctx, version)
		}
		if err != nil {
			select {
			case <-time.After(20 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}
}

func (w *witness) list(ctx context.Context) (version string, err error) {
	list, err := w.client.CoreV1().Pods("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", err
	}
	w.relists++
	clear(w.pods)
	for i := range list.Items {
		w.put(&list.Items[i])
	}
	for app := range w.rules {
		w.ask(app)
	}
	return list.ResourceVersion, nil
}

func (w *witness) follow(ctx context.Context, version string) (string, error) {
	stream, err := w.client.CoreV1().Pods("default").Watch(ctx, metav1.ListOptions{ResourceVersion: version})
	if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
		return "", nil
	}
	if err != nil {
		return version, err
	}
	defer stream.Stop()
	for e := range stream.ResultChan() {
		p, ok := e.Object.(*corev1.Pod)
		if !ok {
			return "", nil // the server cannot go on from here
		}
		version = p.ResourceVersion
		w.events++
		w.remember(e.Type, p)
		if e.Type == watch.Deleted {
			delete(w.pods[p.Labels["app"]], p.UID)
		} else {
			w.put(p)
		}
		w.ask(p.Labels["app"])
	}
	return version, nil
}

// put notes a pod. Whoever has a node keeps it.
func (w *witness) put(p *corev1.Pod) {
	app := p.Labels["app"]
	if w.pods[app] == nil {
		w.pods[app] = pods{}
	}
	w.pods[app][p.UID] = p
	if node, ok := w.nodes[p.UID]; ok && node != p.Spec.NodeName {
		w.t.Errorf("pod %s moved from node %s to %q", p.Name, node, p.Spec.NodeName)
	}
	if p.Spec.NodeName != "" {
		w.nodes[p.UID] = p.Spec.NodeName
	}
}

func (w *witness) ask(app string) {
	if r := w.rules[app]; r != nil {
		if err := r(w.pods[app]); err != nil {
			w.t.Errorf("%s: %v; the last events:\n%s", app, err, strings.Join(w.history[app], "\n"))
		}
	}
}

// remember keeps what a complaint is understood by.
func (w *witness) remember(e watch.EventType, p *corev1.Pod) {
	app := p.Labels["app"]
	line := fmt.Sprintf("%s %s %s %s: %s, serves %v, deleted %v, revision %s", time.Now().Format("05.000"), p.ResourceVersion, e, p.Name,
		p.Status.Phase, serves(p), p.DeletionTimestamp != nil, p.Labels["controller-revision-hash"]+p.Labels["pod-template-hash"])
	w.history[app] = append(w.history[app], line)
	w.history[app] = w.history[app][max(0, len(w.history[app])-20):]
}

// stays tells a pod that counts: one that has not ended and is not to end.
func stays(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed
}

// serves tells a pod that stays and is Ready.
func serves(p *corev1.Pod) bool {
	if !stays(p) {
		return false
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func (l pods) count(of func(*corev1.Pod) bool) int {
	n := 0
	for _, p := range l {
		if of(p) {
			n++
		}
	}
	return n
}

// between allows so many pods, and wants so many to serve once that many and
// one more have: the limits of a rollout, or of a budget.
func between(least, most int) rule {
	armed := false
	return func(l pods) error {
		staying, serving := l.count(stays), l.count(serves)
		armed = armed || serving > least
		if staying > most {
			return fmt.Errorf("%d pods, want at most %d", staying, most)
		}
		if armed && serving < least {
			return fmt.Errorf("%d pods serve, want at least %d", serving, least)
		}
		return nil
	}
}

// byOrdinal tells which pods of a StatefulSet are there, and whether they
// serve.
func byOrdinal(l pods) (serving map[int]bool, highest int) {
	serving, highest = map[int]bool{}, -1
	for _, p := range l {
		var n int
		if _, err := fmt.Sscanf(p.Name[strings.LastIndexByte(p.Name, '-')+1:], "%d", &n); err != nil {
			n = -2 // never served
		}
		highest = max(highest, n)
		serving[n] = serves(p)
	}
	return serving, highest
}

// oneAtATime wants of a StatefulSet of fixed size that all its pods are there
// and serve but one, once the first was made.
func oneAtATime() rule {
	return func(l pods) error {
		serving, highest := byOrdinal(l)
		missing := 0
		for n := range highest + 1 {
			if !serving[n] {
				missing++
			}
		}
		if missing > 1 {
			return fmt.Errorf("%d of %d pods are missing or do not serve: %v", missing, highest+1, serving)
		}
		return nil
	}
}

// stacked wants of a StatefulSet that is resized that no pod is missing below
// another one, and that only the last may not serve.
func stacked() rule {
	return func(l pods) error {
		serving, highest := byOrdinal(l)
		for n := range highest {
			if !serving[n] {
				return fmt.Errorf("pod %d is missing or does not serve below %d: %v", n, highest, serving)
			}
		}
		return nil
	}
}

// once wants one pod for each index of each Job: another one only after a pod
// of it has failed.
func once() rule {
	seen := map[string]*corev1.Pod{}
	failed := func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed }
	return func(l pods) error {
		for uid, p := range l {
			if last := seen[key(p)]; last != nil && last.UID == uid {
				seen[key(p)] = p
			}
		}
		for uid, p := range l {
			switch last := seen[key(p)]; {
			case last == nil || failed(last) && !failed(p):
				seen[key(p)] = p
			case last.UID != uid && !failed(p):
				return fmt.Errorf("index %s is run by %s (%s) and by %s", key(p), last.Name, last.Status.Phase, p.Name)
			}
		}
		return nil
	}
}

// key is a Job and an index.
func key(p *corev1.Pod) string {
	return p.Labels["batch.kubernetes.io/job-name"] + "/" + p.Labels["batch.kubernetes.io/job-completion-index"]
}

// oneEach wants one pod at most of a DaemonSet on each node.
func oneEach() rule {
	return func(l pods) error {
		on := map[string]string{}
		for _, p := range l {
			if !stays(p) {
				continue
			}
			node := p.Spec.NodeName
			if node == "" {
				node = p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchFields[0].Values[0]
			}
			if other, ok := on[node]; ok {
				return fmt.Errorf("node %s has %s and %s", node, other, p.Name)
			}
			on[node] = p.Name
		}
		return nil
	}
}
