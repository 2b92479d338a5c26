package statefulset

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
)

// count fills in the status from the pods.
func (p *pass) count() {
	collisions := p.collisions
	p.status = appsv1.StatefulSetStatus{
		ObservedGeneration: p.set.Generation,
		CurrentRevision:    p.current.name,
		UpdateRevision:     p.update.name,
		CollisionCount:     &collisions,
		Conditions:         p.set.Status.Conditions,
	}
	for pod := range p.pods() {
		p.status.Replicas++
		if runningAndReady(pod) {
			p.status.ReadyReplicas++
			if p.available(pod) {
				p.status.AvailableReplicas++
			}
		}
		if terminating(pod) {
			continue
		}
		if revisionOf(pod) == p.current.name {
			p.status.CurrentReplicas++
		}
		if revisionOf(pod) == p.update.name {
			p.status.UpdatedReplicas++
		}
	}
}

// writeStatus tells how far the set is. When every pod is of the update
// revision and ready, that revision becomes the current one.
func (p *pass) writeStatus(ctx context.Context) error {
	s, want := &p.status, *p.set.Spec.Replicas
	if s.UpdatedReplicas == want && s.ReadyReplicas == want && s.Replicas == want {
		s.CurrentReplicas, s.CurrentRevision = s.UpdatedReplicas, s.UpdateRevision
	}
	s.ObservedGeneration = max(s.ObservedGeneration, p.set.Status.ObservedGeneration)
	if apiequality.Semantic.DeepEqual(p.set.Status, *s) {
		return nil
	}
	out := p.set.DeepCopy()
	out.Status = *s
	return p.env.Cluster.Client().Status().Update(ctx, out)
}
