package volumeprotection

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/proa-dev/proa/controllers/internal/index"
)

// noteUse keeps the condition that tells since when no pod uses a bound claim.
func (c *controller) noteUse(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	var pods corev1.PodList
	if err := c.env.Cluster.Client().List(ctx, &pods, index.By(claim.Namespace, index.PodClaim, claim.Name)...); err != nil {
		return err
	}
	want := corev1.PersistentVolumeClaimCondition{
		Type: corev1.PersistentVolumeClaimUnused, Status: corev1.ConditionTrue,
		Reason: "NoPodsUsingPVC", Message: "No pods are currently referencing this PVC",
	}
	if slices.ContainsFunc(pods.Items, func(p corev1.Pod) bool { return !ended(&p) && names(&p, claim) }) {
		want.Status, want.Reason, want.Message = corev1.ConditionFalse, "PodUsingPVC", "A pod is currently referencing this PVC"
	}
	at := slices.IndexFunc(claim.Status.Conditions, func(have corev1.PersistentVolumeClaimCondition) bool { return have.Type == want.Type })
	if at >= 0 && (claim.Status.Conditions[at].Status == corev1.ConditionTrue) == (want.Status == corev1.ConditionTrue) {
		return nil
	}
	want.LastTransitionTime = metav1.NewTime(c.env.Clock.Now())
	if at >= 0 {
		claim.Status.Conditions[at] = want
	} else {
		claim.Status.Conditions = append(claim.Status.Conditions, want)
	}
	return c.env.Cluster.Client().Status().Update(ctx, claim)
}
