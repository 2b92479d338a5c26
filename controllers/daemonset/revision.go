package daemonset

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/controllers/internal/history"
	"github.com/proa-dev/proa/controllers/internal/owner"
	"github.com/proa-dev/proa/controllers/internal/pods"
)

const hashLabel = appsv1.DefaultDaemonSetUniqueLabelKey

// findRevisions finds the revision of the set's template, or makes it, and
// returns the others, oldest first.
func (p *pass) findRevisions(ctx context.Context) (old []*history.Revision, err error) {
	patch, err := history.Patch(&p.set.Spec.Template)
	if err != nil {
		return nil, err
	}
	all, err := history.List(ctx, p.claim)
	if err != nil {
		return nil, err
	}
	current, old := split(all, patch)
	if len(current) != 1 || history.Next(old) > current[0].Revision {
		// The cache may lack what we made a moment ago, and the number of a
		// new revision must be the highest.
		if all, err = history.ListFresh(ctx, p.claim); err != nil {
			return nil, err
		}
		current, old = split(all, patch)
	}
	next := history.Next(old)
	var cur *history.Revision
	if len(current) == 0 {
		cur, err = p.createRevision(ctx, patch, next)
	} else {
		cur, err = p.onlyOne(ctx, current)
	}
	if err != nil {
		return nil, err
	}
	p.hash = cur.Labels[hashLabel]
	if cur.Revision < next {
		_, err = history.Renumber(ctx, p.env.Cluster, cur, next)
	}
	return old, err
}

func split(all []*history.Revision, patch []byte) (current, old []*history.Revision) {
	for _, r := range all {
		if history.Has(r, patch) {
			current = append(current, r)
		} else {
			old = append(old, r)
		}
	}
	return current, old
}

// label gives a revision the label that pods are told by. Its name will do: a
// hash could be taken.
func (p *pass) label(ctx context.Context, r *history.Revision) (*history.Revision, error) {
	out := r.DeepCopy()
	if out.Labels == nil {
		out.Labels = map[string]string{}
	}
	out.Labels[hashLabel] = out.Name
	return out, p.env.Cluster.Client().Update(ctx, out)
}

// createRevision writes a new revision. When its name is taken by another one,
// the collision count changes the next.
func (p *pass) createRevision(ctx context.Context, patch []byte, number int64) (*history.Revision, error) {
	hash := pods.TemplateHash(&p.set.Spec.Template, p.set.Status.CollisionCount)
	created, taken, err := history.Create(ctx, p.env.Cluster, &history.Revision{
		ObjectMeta: metav1.ObjectMeta{
			Namespace:       p.set.Namespace,
			Name:            p.set.Name + "-" + hash,
			Labels:          history.Labels(p.set.Spec.Template.Labels, hashLabel, hash),
			Annotations:     maps.Clone(p.set.Annotations),
			OwnerReferences: []metav1.OwnerReference{owner.Ref(p.set, kind)},
		},
		Data:     runtime.RawExtension{Raw: patch},
		Revision: number,
	})
	switch {
	case err != nil:
		return nil, err
	case created != nil:
		return created, nil
	case history.Has(taken, patch):
		return taken, nil
	}
	return nil, p.collided(ctx, taken.Name)
}

// collided raises the collision count, unless that happened already and our
// view of the set is old. It always returns an error: the set is looked at again.
func (p *pass) collided(ctx context.Context, name string) error {
	d := &appsv1.DaemonSet{}
	if err := p.env.Cluster.Reader().Get(ctx, client.ObjectKeyFromObject(p.set), d); err != nil {
		return err
	}
	if apiequality.Semantic.DeepEqual(d.Status.CollisionCount, p.set.Status.CollisionCount) {
		count := int32(1)
		if d.Status.CollisionCount != nil {
			count += *d.Status.CollisionCount
		}
		d.Status.CollisionCount = &count
		if err := p.env.Cluster.Client().Status().Update(ctx, d); err != nil {
			return err
		}
	}
	return apierrors.NewConflict(appsv1.Resource("controllerrevisions"), name, errors.New("another template has its hash"))
}

// onlyOne leaves the newest of several revisions of one template, and makes the
// pods of the others its own.
func (p *pass) onlyOne(ctx context.Context, equal []*history.Revision) (*history.Revision, error) {
	keep := slices.MaxFunc(equal, history.Compare)
	if keep.Labels[hashLabel] == "" {
		labelled, err := p.label(ctx, keep)
		if err != nil {
			return nil, err
		}
		equal = append(slices.DeleteFunc(slices.Clone(equal), func(r *history.Revision) bool { return r == keep }), labelled)
		keep = labelled
	}
	for _, r := range equal {
		if r == keep {
			continue
		}
		for _, pod := range p.all {
			if pod.Labels[hashLabel] != r.Labels[hashLabel] {
				continue
			}
			if err := p.relabel(ctx, pod, keep.Labels[hashLabel]); err != nil {
				return nil, err
			}
		}
		if err := history.Delete(ctx, p.env.Cluster, r); err != nil {
			return nil, err
		}
	}
	return keep, nil
}

// relabel makes a pod one of another revision of the same template. The UID in
// the patch is a precondition.
func (p *pass) relabel(ctx context.Context, pod *corev1.Pod, hash string) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID, "labels": map[string]any{hashLabel: hash}}})
	if err != nil {
		return fmt.Errorf("encode label: %w", err)
	}
	target := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name}}
	return client.IgnoreNotFound(p.env.Cluster.Client().Patch(ctx, target, client.RawPatch(types.MergePatchType, patch)))
}

// truncate deletes the oldest revisions that no pod is of, beyond
// spec.revisionHistoryLimit.
func (p *pass) truncate(ctx context.Context, old []*history.Revision) error {
	limit := math.MaxInt
	if n := p.set.Spec.RevisionHistoryLimit; n != nil {
		limit = int(*n)
	}
	surplus := len(old) - limit
	live := map[string]bool{}
	for _, pod := range p.all {
		live[pod.Labels[hashLabel]] = true
	}
	for _, r := range old {
		if surplus <= 0 {
			return nil
		}
		if h := r.Labels[hashLabel]; h != "" && live[h] {
			continue
		}
		if err := history.Delete(ctx, p.env.Cluster, r); err != nil {
			return err
		}
		surplus--
	}
	return nil
}
