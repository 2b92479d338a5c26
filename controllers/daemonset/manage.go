package daemonset

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/proa-dev/proa/controllers/internal/owner"
	"github.com/proa-dev/proa/controllers/internal/pods"
)

// burst bounds how many pods one step creates, and how many it deletes.
const burst = 250

// generationLabel holds the number of a pod's template: how updated pods were
// told before templates had hashes.
const generationLabel = "pod-template-generation"

// step is what to do next.
type step struct {
	create []string // names of nodes
	delete []*corev1.Pod
}

// perNode brings each node to one pod, or to none if it should not run any.
func (p *pass) perNode() step {
	var s step
	known := make(map[string]bool, len(p.nodes))
	for _, node := range p.nodes {
		known[node.Name] = true
		have := p.pods[node.Name]
		run, goOn := p.placement.on(node)
		switch {
		case run && len(have) == 0:
			s.create = append(s.create, node.Name)
		case goOn:
			p.keep(node.Name, have, run, &s)
		default:
			s.delete = append(s.delete, staying(have)...)
		}
	}
	// A pod for a node that is gone will never be bound, so nothing else
	// deletes it.
	for _, name := range slices.Sorted(maps.Keys(p.pods)) {
		for _, pod := range p.pods[name] {
			if !known[name] && pod.Spec.NodeName == "" {
				s.delete = append(s.delete, pod)
			}
		}
	}
	return s
}

// staying leaves out pods that are terminating.
func staying(list []*corev1.Pod) []*corev1.Pod {
	return slices.DeleteFunc(slices.Clone(list), func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
}

// keep replaces pods that have ended and deletes those that are too many.
func (p *pass) keep(node string, have []*corev1.Pod, run bool, s *step) {
	var alive []*corev1.Pod
	for _, pod := range staying(have) {
		switch pod.Status.Phase {
		case corev1.PodFailed:
			if p.mayReplace(node) {
				p.events.Eventf(p.set, corev1.EventTypeWarning, "FailedDaemonPod",
					"Found failed daemon pod %s/%s on node %s, will try to kill it", pod.Namespace, pod.Name, node)
				s.delete = append(s.delete, pod)
			}
		case corev1.PodSucceeded:
			p.events.Eventf(p.set, corev1.EventTypeNormal, "SucceededDaemonPod",
				"Found succeeded daemon pod %s/%s on node %s, will try to delete it", pod.Namespace, pod.Name, node)
			s.delete = append(s.delete, pod)
		default:
			alive = append(alive, pod)
		}
	}
	slices.SortFunc(alive, compareAge)
	switch surges := p.surges(); {
	case len(alive) == 0 && surges && run:
		// Without a surge the old pod must be gone first.
		s.create = append(s.create, node)
	case len(alive) > 1 && !surges:
		s.delete = append(s.delete, alive[1:]...)
	case len(alive) > 1:
		p.keepTwo(alive, s)
	}
}

// keepTwo leaves an updated pod and an old one on a node, the oldest of each,
// and the old one only while it is ready and its successor not available.
func (p *pass) keepTwo(alive []*corev1.Pod, s *step) {
	var updated, old *corev1.Pod
	for _, pod := range alive {
		of := &old
		if pod.Labels[appsv1.ControllerRevisionHashLabelKey] == p.hash {
			of = &updated
		}
		if *of == nil {
			*of = pod
		} else {
			s.delete = append(s.delete, pod)
		}
	}
	if updated != nil && old != nil && (!pods.Ready(old) || p.available(updated)) {
		s.delete = append(s.delete, old)
	}
}

// mayReplace reports whether it is time to replace a failed pod of a node. If
// not, it notes when it will be.
func (p *pass) mayReplace(node string) bool {
	key := fmt.Sprintf("%s/%d/%s", p.set.UID, p.set.Status.ObservedGeneration, node)
	if p.failed.IsInBackOffSinceUpdate(key, p.now) {
		p.lookAgain(p.failed.Get(key))
		return false
	}
	p.failed.Next(key, p.now)
	return true
}

func (p *pass) available(pod *corev1.Pod) bool {
	ok, wait := pods.Available(pod, p.set.Spec.MinReadySeconds, p.now)
	p.lookAgain(wait)
	return ok
}

// updated reports whether a pod is of the set's template.
func (p *pass) updated(pod *corev1.Pod) bool {
	if p.hash != "" && pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] == p.hash {
		return true
	}
	n, ok := generation(p.set)
	return ok && pod.Labels[generationLabel] == n
}

// generation returns the number of the set's template.
func generation(d *appsv1.DaemonSet) (string, bool) {
	n, err := strconv.ParseInt(d.Annotations[appsv1.DeprecatedTemplateGeneration], 10, 64)
	return strconv.FormatInt(n, 10), err == nil
}

// apply creates and deletes pods; the watch events of those call for the next
// pass.
func (p *pass) apply(ctx context.Context, s step) error {
	s.create, s.delete = s.create[:min(len(s.create), burst)], s.delete[:min(len(s.delete), burst)]
	gone := make([]types.UID, len(s.delete))
	for i, pod := range s.delete {
		gone[i] = pod.UID
	}
	uid := p.set.UID
	p.expect.Expect(uid, len(s.create), gone)

	template := p.template()
	ref := owner.Ref(p.set, kind)
	done, err := pods.SlowStart(len(s.create), func(i int) error {
		pod := pods.FromTemplate(template, p.set, ref)
		pod.Spec.Affinity = aimAt(pod.Spec.Affinity, s.create[i])
		return p.controller.pods.Create(ctx, p.set, pod)
	})
	if missing := len(s.create) - done; missing > 0 {
		p.expect.Created(uid, missing)
	}
	if pods.NamespaceTerminating(err) {
		err = nil // never going to work: stay quiet until the set goes too
	}
	if deleteErr := p.delete(ctx, s.delete); err == nil {
		err = deleteErr
	}
	return err
}

func (p *pass) delete(ctx context.Context, list []*corev1.Pod) error {
	var wg sync.WaitGroup
	errs := make(chan error, len(list))
	for _, pod := range list {
		wg.Go(func() {
			if err := p.controller.pods.Delete(ctx, p.set, pod); err != nil {
				p.expect.Deleted(p.set.UID, pod.UID) // no event will come of it
				if !apierrors.IsNotFound(err) {
					errs <- err
				}
			}
		})
	}
	wg.Wait()
	if len(errs) > 0 {
		return <-errs
	}
	return nil
}

// template is the set's, with what every pod of it gets.
func (p *pass) template() *corev1.PodTemplateSpec {
	t := p.set.Spec.Template.DeepCopy()
	t.Spec.Tolerations = tolerations(&t.Spec)
	if t.Labels == nil {
		t.Labels = map[string]string{}
	}
	if n, ok := generation(p.set); ok {
		t.Labels[generationLabel] = n
	}
	if p.hash != "" {
		t.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] = p.hash
	}
	return t
}

// compareAge puts pods that are bound first, and of those the oldest.
func compareAge(a, b *corev1.Pod) int {
	if boundA, boundB := a.Spec.NodeName != "", b.Spec.NodeName != ""; boundA != boundB {
		if boundA {
			return -1
		}
		return 1
	}
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), compareNames(a.Name, b.Name))
}

func compareNames(a, b string) int { return cmp.Compare(a, b) }
