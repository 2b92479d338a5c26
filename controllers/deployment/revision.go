package deployment

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/proa-dev/proa/controllers/internal/owner"
	"github.com/proa-dev/proa/controllers/internal/pods"
)

// Annotations of Deployments and their ReplicaSets. kubectl reads them.
const (
	revisionAnnotation = "deployment.kubernetes.io/revision"
	historyAnnotation  = "deployment.kubernetes.io/revision-history"
	desiredAnnotation  = "deployment.kubernetes.io/desired-replicas"
	maxAnnotation      = "deployment.kubernetes.io/max-replicas"
	rollbackAnnotation = appsv1.DeprecatedRollbackTo
)

// historyLimit bounds the revision-history annotation, in bytes.
const historyLimit = 2000

// notCopied are the annotations that a ReplicaSet does not take from its
// Deployment.
var notCopied = []string{
	corev1.LastAppliedConfigAnnotation, revisionAnnotation, historyAnnotation,
	desiredAnnotation, maxAnnotation, rollbackAnnotation,
}

// split tells the new ReplicaSet from the old ones and keeps revisions right.
// The new one is nil when there is none and create is false.
func (r *rollout) split(ctx context.Context, create bool) (*appsv1.ReplicaSet, []*appsv1.ReplicaSet, error) {
	current := findNew(r.d, r.sets)
	var old []*appsv1.ReplicaSet
	for _, rs := range r.sets {
		if current == nil || rs.UID != current.UID {
			old = append(old, rs)
		}
	}
	var last int64
	for _, rs := range old {
		last = max(last, revisionOf(rs))
	}
	revision := strconv.FormatInt(last+1, 10)
	var err error
	switch {
	case current != nil:
		// Kept, so that a second look in this pass starts from what was written.
		i := slices.Index(r.sets, current)
		if current, err = r.refresh(ctx, current, revision); err == nil {
			r.sets[i] = current
		}
	case create:
		current, err = r.createSet(ctx, old, revision)
	}
	return current, old, err
}

// findNew returns the oldest ReplicaSet with the Deployment's template, so
// that everybody agrees should there be several.
func findNew(d *appsv1.Deployment, sets []*appsv1.ReplicaSet) *appsv1.ReplicaSet {
	for _, rs := range slices.SortedFunc(slices.Values(sets), compareAge) {
		if sameTemplate(&rs.Spec.Template, &d.Spec.Template) {
			return rs
		}
	}
	return nil
}

// sameTemplate compares templates without the hash label that ReplicaSets add.
func sameTemplate(a, b *corev1.PodTemplateSpec) bool {
	a, b = a.DeepCopy(), b.DeepCopy()
	delete(a.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	delete(b.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	return apiequality.Semantic.DeepEqual(a, b)
}

func compareAge(a, b *appsv1.ReplicaSet) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
}

func compareRevisions(a, b *appsv1.ReplicaSet) int {
	return cmp.Or(cmp.Compare(revisionOf(a), revisionOf(b)), compareAge(a, b))
}

func revisionOf(rs *appsv1.ReplicaSet) int64 {
	n, err := strconv.ParseInt(rs.Annotations[revisionAnnotation], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// refresh brings what the new ReplicaSet takes from its Deployment up to date.
func (r *rollout) refresh(ctx context.Context, rs *appsv1.ReplicaSet, revision string) (*appsv1.ReplicaSet, error) {
	rs = rs.DeepCopy()
	changed := annotate(r.d, rs, revision, true)
	if changed || rs.Spec.MinReadySeconds != r.d.Spec.MinReadySeconds {
		rs.Spec.MinReadySeconds = r.d.Spec.MinReadySeconds
		return rs, r.env.Cluster.Client().Update(ctx, rs)
	}
	changed = setRevision(r.d, rs.Annotations[revisionAnnotation])
	if hasDeadline(r.d) && condition(&r.d.Status, appsv1.DeploymentProgressing) == nil {
		// Adopted, or the controller stopped right after creating it.
		setCondition(&r.d.Status, r.condition(appsv1.DeploymentProgressing, corev1.ConditionTrue,
			"FoundNewReplicaSet", fmt.Sprintf("Found new replica set %q", rs.Name)))
		changed = true
	}
	if changed {
		return rs, r.updateStatus(ctx)
	}
	return rs, nil
}

// createSet creates the ReplicaSet of the current template.
func (r *rollout) createSet(ctx context.Context, old []*appsv1.ReplicaSet, revision string) (*appsv1.ReplicaSet, error) {
	rs := newSet(r.d)
	size := newSetSize(r.d, append(slices.Clone(old), rs), rs)
	rs.Spec.Replicas = &size
	annotate(r.d, rs, revision, false)
	name := rs.Name

	err := r.env.Cluster.Client().Create(ctx, rs)
	existed := false
	switch {
	case apierrors.IsAlreadyExists(err):
		// Ours from a moment ago, or a hash that two templates share.
		if rs, err = r.existing(ctx, name, err); err != nil {
			return nil, err
		}
		existed = true
	case pods.NamespaceTerminating(err):
		return nil, err
	case err != nil:
		return nil, r.creationFailed(ctx, name, err)
	}
	if !existed && size > 0 {
		r.events.Eventf(r.d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled up replica set %s from 0 to %d", rs.Name, size)
	}
	changed := setRevision(r.d, revision)
	if !existed && hasDeadline(r.d) {
		setCondition(&r.d.Status, r.condition(appsv1.DeploymentProgressing, corev1.ConditionTrue,
			"NewReplicaSetCreated", fmt.Sprintf("Created new replica set %q", rs.Name)))
		changed = true
	}
	if changed {
		err = r.updateStatus(ctx)
	}
	return rs, err
}

// existing returns the ReplicaSet of a name if it is what we wanted to create.
// If not, the hash collides: the collision count changes the next one.
func (r *rollout) existing(ctx context.Context, name string, exists error) (*appsv1.ReplicaSet, error) {
	rs := &appsv1.ReplicaSet{}
	key := types.NamespacedName{Namespace: r.d.Namespace, Name: name}
	if err := r.env.Cluster.Reader().Get(ctx, key, rs); err != nil {
		return nil, err
	}
	ref := metav1.GetControllerOfNoCopy(rs)
	if ref != nil && ref.UID == r.d.UID && sameTemplate(&rs.Spec.Template, &r.d.Spec.Template) {
		return rs, nil
	}
	count := int32(1)
	if r.d.Status.CollisionCount != nil {
		count += *r.d.Status.CollisionCount
	}
	r.d.Status.CollisionCount = &count
	if err := r.updateStatus(ctx); err != nil {
		return nil, err
	}
	return nil, exists
}

func (r *rollout) creationFailed(ctx context.Context, name string, err error) error {
	msg := fmt.Sprintf("Failed to create new replica set %q: %v", name, err)
	if hasDeadline(r.d) {
		setCondition(&r.d.Status, r.condition(appsv1.DeploymentProgressing, corev1.ConditionFalse, "ReplicaSetCreateError", msg))
		if werr := r.updateStatus(ctx); werr != nil {
			r.env.Logger.Debug("telling that a ReplicaSet could not be created", "err", werr)
		}
	}
	r.events.Event(r.d, corev1.EventTypeWarning, "ReplicaSetCreateError", msg)
	return err
}

// newSet makes the ReplicaSet of a Deployment's template, without a size.
func newSet(d *appsv1.Deployment) *appsv1.ReplicaSet {
	hash := pods.TemplateHash(&d.Spec.Template, d.Status.CollisionCount)
	template := *d.Spec.Template.DeepCopy()
	template.Labels = withHash(template.Labels, hash)
	selector := d.Spec.Selector.DeepCopy()
	selector.MatchLabels = withHash(selector.MatchLabels, hash)
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Name:            setName(d.Name, hash),
			Namespace:       d.Namespace,
			OwnerReferences: []metav1.OwnerReference{owner.Ref(d, kind)},
			Labels:          maps.Clone(template.Labels),
		},
		Spec: appsv1.ReplicaSetSpec{
			Replicas:        new(int32),
			MinReadySeconds: d.Spec.MinReadySeconds,
			Selector:        selector,
			Template:        template,
		},
	}
}

func withHash(l map[string]string, hash string) map[string]string {
	out := make(map[string]string, len(l)+1)
	maps.Copy(out, l)
	out[appsv1.DefaultDeploymentUniqueLabelKey] = hash
	return out
}

// setName joins name and hash within the length of a name, with room left for
// what pods' names append.
func setName(deployment, hash string) string {
	const suffix = 6
	if limit := validation.DNS1123SubdomainMaxLength - suffix - len(hash) - 1; len(deployment) > limit {
		deployment = deployment[:limit]
	}
	return deployment + "-" + hash
}

// annotate gives rs the Deployment's annotations and its revision, and moves
// the revision it had into its history. It reports whether rs changed.
func annotate(d *appsv1.Deployment, rs *appsv1.ReplicaSet, revision string, exists bool) bool {
	changed := false
	if rs.Annotations == nil {
		rs.Annotations = map[string]string{}
	}
	for k, v := range d.Annotations {
		if have, ok := rs.Annotations[k]; (ok && have == v) || slices.Contains(notCopied, k) {
			continue
		}
		rs.Annotations[k] = v
		changed = true
	}
	before, had := rs.Annotations[revisionAnnotation]
	beforeN, err := strconv.ParseInt(before, 10, 64)
	if err != nil && before != "" {
		return false // not a number: somebody else's business
	}
	if n, _ := strconv.ParseInt(revision, 10, 64); beforeN < n {
		rs.Annotations[revisionAnnotation] = revision
		changed = true
		if had {
			rs.Annotations[historyAnnotation] = appendHistory(rs.Annotations[historyAnnotation], before)
		}
	}
	if !exists && setSizes(rs, *d.Spec.Replicas, *d.Spec.Replicas+maxSurge(d)) {
		changed = true
	}
	return changed
}

// appendHistory drops the oldest revisions when the list grows too long.
func appendHistory(history, revision string) string {
	if history == "" {
		return revision
	}
	history += "," + revision
	for len(history) > historyLimit {
		_, rest, ok := strings.Cut(history, ",")
		if !ok {
			return ""
		}
		history = rest
	}
	return history
}

// setSizes notes the size of the Deployment on rs: what a later change of the
// size is proportioned by.
func setSizes(rs *appsv1.ReplicaSet, desired, most int32) bool {
	if rs.Annotations == nil {
		rs.Annotations = map[string]string{}
	}
	d, m := strconv.Itoa(int(desired)), strconv.Itoa(int(most))
	changed := rs.Annotations[desiredAnnotation] != d || rs.Annotations[maxAnnotation] != m
	rs.Annotations[desiredAnnotation], rs.Annotations[maxAnnotation] = d, m
	return changed
}

func setRevision(d *appsv1.Deployment, revision string) bool {
	if d.Annotations[revisionAnnotation] == revision {
		return false
	}
	if d.Annotations == nil {
		d.Annotations = map[string]string{}
	}
	d.Annotations[revisionAnnotation] = revision
	return true
}
