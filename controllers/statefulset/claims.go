package statefulset

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/controllers/internal/owner"
)

var podKind = corev1.SchemeGroupVersion.WithKind("Pod")

func claimName(template *corev1.PersistentVolumeClaim, set *appsv1.StatefulSet, ordinal int) string {
	return template.Name + "-" + set.Name + "-" + strconv.Itoa(ordinal)
}

// newClaim makes the claim of an ordinal. Its owners are right from the start
// where the pod need not exist for that.
func (p *pass) newClaim(template *corev1.PersistentVolumeClaim, ordinal int, pod *corev1.Pod) *corev1.PersistentVolumeClaim {
	claim := template.DeepCopy()
	claim.Name, claim.Namespace = claimName(template, p.set, ordinal), p.set.Namespace
	if claim.Labels == nil {
		claim.Labels = map[string]string{}
	}
	maps.Copy(claim.Labels, p.set.Spec.Selector.MatchLabels)
	if bySet, _ := p.wantedOwners(pod); bySet {
		claim.OwnerReferences = append(claim.OwnerReferences, owner.Ref(p.set, kind))
	}
	return claim
}

// getClaim reads a claim; nil if there is none.
func (p *pass) getClaim(ctx context.Context, r client.Reader, name string) (*corev1.PersistentVolumeClaim, error) {
	claim := &corev1.PersistentVolumeClaim{}
	err := r.Get(ctx, types.NamespacedName{Namespace: p.set.Namespace, Name: name}, claim)
	if err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	return claim, nil
}

// ensureClaims creates the claims of a pod that are missing. A claim that is on
// its way out is in the way: the pod waits.
func (p *pass) ensureClaims(ctx context.Context, ordinal int, pod *corev1.Pod) error {
	var errs []error
	for i := range p.set.Spec.VolumeClaimTemplates {
		t := &p.set.Spec.VolumeClaimTemplates[i]
		name := claimName(t, p.set, ordinal)
		have, err := p.getClaim(ctx, p.env.Cluster.Client(), name)
		if err == nil && have == nil {
			have, err = p.createClaim(ctx, p.newClaim(t, ordinal, pod), pod)
		} else if err != nil {
			err = fmt.Errorf("failed to retrieve PVC %s: %w", name, err)
			p.tellClaim(name, pod, err)
		}
		if have != nil && have.DeletionTimestamp != nil {
			err = fmt.Errorf("pvc %s is being deleted", name)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// createClaim returns the claim that is there when one is that the cache did
// not show.
func (p *pass) createClaim(ctx context.Context, claim *corev1.PersistentVolumeClaim, pod *corev1.Pod) (*corev1.PersistentVolumeClaim, error) {
	name := claim.Name
	err := p.env.Cluster.Client().Create(ctx, claim)
	if apierrors.IsAlreadyExists(err) {
		have, readErr := p.getClaim(ctx, p.env.Cluster.Reader(), name)
		if have != nil || readErr != nil {
			return have, readErr
		}
	} else {
		p.tellClaim(name, pod, err)
	}
	if err != nil {
		return nil, fmt.Errorf("failed to create PVC %s: %w", name, err)
	}
	return claim, nil
}

func (p *pass) tellClaim(claim string, pod *corev1.Pod, err error) {
	p.record("Create", err, fmt.Sprintf("Create Claim %s Pod %s in StatefulSet %s success", claim, pod.Name, p.set.Name),
		fmt.Sprintf("Create Claim %s for Pod %s in StatefulSet %s failed error: %v", claim, pod.Name, p.set.Name, err))
}

// policy is what becomes of claims; nil means that they are kept.
func (p *pass) policy() appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy {
	if r := p.set.Spec.PersistentVolumeClaimRetentionPolicy; r != nil {
		return *r
	}
	return appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{}
}

// wantedOwners says whose deletion takes the claims of a pod along: the pod's
// if it is condemned, since scaling down is what deletes it, else the set's.
func (p *pass) wantedOwners(pod *corev1.Pod) (bySet, byPod bool) {
	r := p.policy()
	n := p.ordinal(pod)
	byPod = r.WhenScaled == appsv1.DeletePersistentVolumeClaimRetentionPolicyType && (n < p.start || n >= p.end)
	bySet = r.WhenDeleted == appsv1.DeletePersistentVolumeClaimRetentionPolicyType && !byPod
	return bySet, byPod
}

// claimsStale reports whether a claim still belongs to a pod that was scaled
// away: it is about to go, and a new pod must not start with it.
func (p *pass) claimsStale(ctx context.Context, ordinal int, pod *corev1.Pod) (bool, error) {
	if p.policy().WhenScaled != appsv1.DeletePersistentVolumeClaimRetentionPolicyType {
		return false, nil
	}
	for i := range p.set.Spec.VolumeClaimTemplates {
		claim, err := p.getClaim(ctx, p.env.Cluster.Client(), claimName(&p.set.Spec.VolumeClaimTemplates[i], p.set, ordinal))
		if err != nil {
			return false, err
		}
		if claim != nil && namesOther(claim, pod, refTo(pod)) {
			return true, nil
		}
	}
	return false, nil
}

// ownClaims gives a pod's claims the owners that the retention policy wants,
// and reports whether any changed.
func (p *pass) ownClaims(ctx context.Context, ordinal int, pod *corev1.Pod) (bool, error) {
	changed := false
	for i := range p.set.Spec.VolumeClaimTemplates {
		claim, err := p.getClaim(ctx, p.env.Cluster.Client(), claimName(&p.set.Spec.VolumeClaimTemplates[i], p.set, ordinal))
		if err != nil {
			return changed, err
		}
		if claim == nil || p.owned(claim, pod) {
			continue
		}
		changed = true
		p.setOwners(claim, pod)
		if err := p.env.Cluster.Client().Update(ctx, claim); err != nil {
			return changed, fmt.Errorf("could not update claim %s for delete policy ownerRefs: %w", claim.Name, err)
		}
	}
	return changed, nil
}

// owned reports whether a claim's owners are as wanted, or not ours to change.
func (p *pass) owned(claim *corev1.PersistentVolumeClaim, pod *corev1.Pod) bool {
	set := metav1.NewControllerRef(p.set, kind)
	if namesOther(claim, p.set, set) || namesOther(claim, pod, refTo(pod)) {
		// Of an earlier set or pod of the name: the garbage collector has it.
		return true
	}
	hasSet, hasPod := hasOwner(claim, p.set.UID), hasOwner(claim, pod.UID)
	if p.ruledByOther(claim, pod) {
		p.events.Event(p.set, corev1.EventTypeWarning, "ConflictingController", fmt.Sprintf(
			"PersistentVolumeClaim %s has a conflicting OwnerReference that acts as a manging controller, the retention policy is ignored for this claim", claim.Name))
		return !hasSet && !hasPod
	}
	for _, ref := range claim.OwnerReferences {
		if (ref.UID == p.set.UID || ref.UID == pod.UID) && (ref.Controller == nil || !*ref.Controller) {
			return false
		}
	}
	bySet, byPod := p.wantedOwners(pod)
	return hasSet == bySet && hasPod == byPod
}

// setOwners makes a claim's owners the wanted ones. One that something else
// controls is left to that alone.
func (p *pass) setOwners(claim *corev1.PersistentVolumeClaim, pod *corev1.Pod) {
	other := p.ruledByOther(claim, pod)
	set, self := metav1.NewControllerRef(p.set, kind), refTo(pod)
	refs := slices.DeleteFunc(slices.Clone(claim.OwnerReferences), func(r metav1.OwnerReference) bool {
		return sameName(&r, set) || sameName(&r, self)
	})
	if !other {
		bySet, byPod := p.wantedOwners(pod)
		if bySet {
			refs = append(refs, *set)
		}
		if byPod {
			refs = append(refs, *self)
		}
	}
	claim.OwnerReferences = refs
}

// ruledByOther reports whether something else controls a claim that the policy
// would delete.
func (p *pass) ruledByOther(claim *corev1.PersistentVolumeClaim, pod *corev1.Pod) bool {
	const drop = appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	if r := p.policy(); r.WhenDeleted != drop && r.WhenScaled != drop {
		return false
	}
	set, self := metav1.NewControllerRef(p.set, kind), refTo(pod)
	return slices.ContainsFunc(claim.OwnerReferences, func(r metav1.OwnerReference) bool {
		return r.Controller != nil && *r.Controller && !sameName(&r, set) && !sameName(&r, self)
	})
}

func refTo(pod *corev1.Pod) *metav1.OwnerReference { return metav1.NewControllerRef(pod, podKind) }

func sameName(a, b *metav1.OwnerReference) bool {
	return a.APIVersion == b.APIVersion && a.Kind == b.Kind && a.Name == b.Name
}

// namesOther reports whether a claim is owned by another object of ref's name.
func namesOther(claim *corev1.PersistentVolumeClaim, obj metav1.Object, ref *metav1.OwnerReference) bool {
	for i := range claim.OwnerReferences {
		if sameName(&claim.OwnerReferences[i], ref) {
			return claim.OwnerReferences[i].UID != obj.GetUID()
		}
	}
	return false
}

func hasOwner(claim *corev1.PersistentVolumeClaim, uid types.UID) bool {
	return slices.ContainsFunc(claim.OwnerReferences, func(r metav1.OwnerReference) bool { return r.UID == uid })
}
