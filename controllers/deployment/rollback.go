package deployment

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// rollbackTo reads the revision that the annotation of extensions/v1beta1 asks
// to go back to; 0 is the one before the current. What is no number asks for
// nothing.
func rollbackTo(d *appsv1.Deployment) (revision int64, asked bool) {
	revision, err := strconv.ParseInt(d.Annotations[rollbackAnnotation], 10, 64)
	return revision, err == nil
}

// rollBack gives the Deployment the template of an earlier revision. Whatever
// comes of it, the annotation goes: it asks once.
func (r *rollout) rollBack(ctx context.Context, revision int64) error {
	current, old, err := r.split(ctx, true)
	if err != nil {
		return err
	}
	all := append(slices.Clone(old), current)
	if revision == 0 {
		if revision = lastRevision(all); revision == 0 {
			return r.endRollback(ctx, corev1.EventTypeWarning, "DeploymentRollbackRevisionNotFound", "Unable to find last revision.")
		}
	}
	i := slices.IndexFunc(all, func(rs *appsv1.ReplicaSet) bool { return revisionOf(rs) == revision })
	if i < 0 {
		return r.endRollback(ctx, corev1.EventTypeWarning, "DeploymentRollbackRevisionNotFound", "Unable to find the revision to rollback to.")
	}
	if sameTemplate(&r.d.Spec.Template, &all[i].Spec.Template) {
		return r.endRollback(ctx, corev1.EventTypeWarning, "DeploymentRollbackTemplateUnchanged",
			fmt.Sprintf("The rollback revision contains the same template as current deployment %q", r.d.Name))
	}
	r.take(all[i])
	return r.endRollback(ctx, corev1.EventTypeNormal, "DeploymentRollback",
		fmt.Sprintf("Rolled back deployment %q to revision %d", r.d.Name, revision))
}

// lastRevision is the one before the newest, or 0.
func lastRevision(sets []*appsv1.ReplicaSet) int64 {
	var newest, second int64
	for _, rs := range sets {
		switch n := revisionOf(rs); {
		case n >= newest:
			newest, second = n, newest
		case n > second:
			second = n
		}
	}
	return second
}

// take makes the template of rs the Deployment's, with the annotations that rs
// once had from it, such as the cause of the change: they would be written over
// by those of today.
func (r *rollout) take(rs *appsv1.ReplicaSet) {
	template := rs.Spec.Template.DeepCopy()
	delete(template.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	r.d.Spec.Template = *template
	own := func(key, _ string) bool { return !slices.Contains(notCopied, key) }
	maps.DeleteFunc(r.d.Annotations, own)
	for key, value := range rs.Annotations {
		if own(key, value) {
			r.d.Annotations[key] = value
		}
	}
}

// endRollback writes the Deployment without the annotation, and says how the
// rollback went. What did go back is only told once it is written.
func (r *rollout) endRollback(ctx context.Context, kind, reason, message string) error {
	delete(r.d.Annotations, rollbackAnnotation)
	if err := r.env.Cluster.Client().Update(ctx, r.d); err != nil {
		return err
	}
	r.events.Event(r.d, kind, reason, message)
	return nil
}
