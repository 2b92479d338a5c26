// Package owned tells a control loop of the pods that its objects own, and of
// orphans that they could adopt.
package owned

import (
	"context"
	"log/slog"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/source"

	proa "github.com/proa-dev/proa/client"
	"github.com/proa-dev/proa/controllers/internal/expect"
	"github.com/proa-dev/proa/controllers/internal/loop"
	"github.com/proa-dev/proa/controllers/internal/pods"
)

// Pods is what a loop wants to know of the pods of one kind of owner.
type Pods struct {
	Cluster proa.Cluster
	Logger  *slog.Logger
	// Kind is the kind of the owners.
	Kind schema.GroupVersionKind
	// Expect is ticked off for each pod that appears or goes.
	Expect *expect.Tracker
	// Adopters names the owners of a namespace that could adopt an orphan with
	// these labels.
	Adopters func(namespace string, l labels.Set) []string
}

// Watch queues the owners of pods that change in a way that counts.
func (p *Pods) Watch() source.Source {
	return loop.Watch(p.Cluster, &corev1.Pod{}, loop.On[*corev1.Pod]{
		Created: p.created, Updated: p.updated, Deleted: p.deleted,
	})
}

// ofOurs returns the reference to the pod's controller if it is of our kind.
func (p *Pods) ofOurs(pod *corev1.Pod) *metav1.OwnerReference {
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil {
		return nil
	}
	if gv, err := schema.ParseGroupVersion(ref.APIVersion); err != nil || ref.Kind != p.Kind.Kind || gv.Group != p.Kind.Group {
		return nil
	}
	return ref
}

func (p *Pods) created(ctx context.Context, q loop.Queue, pod *corev1.Pod) {
	ref := p.ofOurs(pod)
	if ref != nil {
		p.Expect.Created(ref.UID, 1)
	}
	if pod.DeletionTimestamp != nil {
		// A pod may be seen first when it is terminating.
		p.deleted(ctx, q, pod)
		return
	}
	if ref != nil {
		q.Add(loop.Key(pod.Namespace, ref.Name))
		return
	}
	if metav1.GetControllerOfNoCopy(pod) == nil {
		p.addMatching(q, pod)
	}
}

func (p *Pods) updated(ctx context.Context, q loop.Queue, old, pod *corev1.Pod) {
	if old.ResourceVersion == pod.ResourceVersion {
		return // a resync
	}
	oldRef, ref := p.ofOurs(old), p.ofOurs(pod)
	if pod.DeletionTimestamp != nil {
		// It counts as gone from here on: its replacement need not wait for
		// the kubelet.
		p.deleted(ctx, q, pod)
		if oldRef != nil && (ref == nil || oldRef.UID != ref.UID) {
			p.deleted(ctx, q, old)
		}
		return
	}
	if oldRef != nil && (ref == nil || oldRef.UID != ref.UID) {
		q.Add(loop.Key(old.Namespace, oldRef.Name))
	}
	if ref != nil {
		if counts(old) != counts(pod) || !labels.Equals(old.Labels, pod.Labels) || oldRef == nil || oldRef.UID != ref.UID {
			q.Add(loop.Key(pod.Namespace, ref.Name))
		}
		return
	}
	if metav1.GetControllerOfNoCopy(pod) != nil {
		return
	}
	if metav1.GetControllerOfNoCopy(old) != nil || !labels.Equals(old.Labels, pod.Labels) {
		p.addMatching(q, pod)
	}
}

// standing is what of a pod's status makes a difference to its owner. A pod's
// way to readiness takes many writes, and an owner may have thousands of pods.
type standing struct {
	finished, ready, serving bool
	since                    metav1.Time
}

func counts(p *corev1.Pod) standing {
	s := standing{finished: pods.Finished(p)}
	if c := pods.Condition(&p.Status, corev1.PodReady); c != nil {
		s.ready, s.since = c.Status == corev1.ConditionTrue, c.LastTransitionTime
		s.serving = s.ready && p.Status.Phase == corev1.PodRunning
	}
	return s
}

func (p *Pods) deleted(_ context.Context, q loop.Queue, pod *corev1.Pod) {
	if ref := p.ofOurs(pod); ref != nil {
		p.Expect.Deleted(ref.UID, pod.UID)
		q.Add(loop.Key(pod.Namespace, ref.Name))
	}
}

// addMatching queues every owner that could adopt an orphan.
func (p *Pods) addMatching(q loop.Queue, pod *corev1.Pod) {
	if len(pod.Labels) == 0 {
		return
	}
	for _, name := range p.Adopters(pod.Namespace, pod.Labels) {
		q.Add(loop.Key(pod.Namespace, name))
	}
}
