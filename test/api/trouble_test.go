package api

import (
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// A quota that is hit in mid-rollout is told in the words of the quota, does
// not cost the pods that serve, is not tried in a hot loop, and when there is
// room the rollout goes on by itself.
func TestQuotaInMidRollout(t *testing.T) {
	a, ctx := newApps(t), t.Context()
	quotas := world.kube.CoreV1().ResourceQuotas(a.ns)
	get[*corev1.ResourceQuota](t)(quotas.Create(ctx, &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "q"}, Spec: corev1.ResourceQuotaSpec{Hard: quotaList("pods=3")},
	}, metav1.CreateOptions{}))
	counted(t, a.ns, "q", "pods=0")
	a.deploy(3, func(d *appsv1.Deployment) {
		d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: ptr.To(intstr.FromInt32(1)), MaxUnavailable: ptr.To(intstr.FromInt32(0))}
	})
	a.done()
	counted(t, a.ns, "q", "pods=3")
	a.image("v2")
	began := time.Now()
	const words = "is forbidden: exceeded quota: q, requested: pods=1, used: pods=3, limited: pods=3"
	eventually(t, func() (bool, any) {
		d := get[*appsv1.Deployment](t)(a.Deployments(a.ns).Get(ctx, "web", metav1.GetOptions{}))
		for _, c := range d.Status.Conditions {
			if c.Type == appsv1.DeploymentReplicaFailure && c.Status == corev1.ConditionTrue && c.Reason == "FailedCreate" && strings.Contains(c.Message, words) {
				return d.Status.AvailableReplicas == 3, d.Status
			}
		}
		return false, d.Status
	})
	// Each attempt comes after twice the time, which began with 5 ms: the eighth
	// is 635 ms behind the first, and a loop that does not wait is there at once.
	attempts := int32(0)
	eventually(t, func() (bool, any) {
		attempts = 0
		for _, e := range get[*corev1.EventList](t)(world.kube.CoreV1().Events(a.ns).List(ctx, metav1.ListOptions{})).Items {
			if e.Reason == "FailedCreate" && strings.HasPrefix(e.Message, "Error creating: pods ") && strings.Contains(e.Message, words) {
				attempts += e.Count
			}
		}
		return attempts >= 8, attempts
	})
	if took := time.Since(began); took < 300*time.Millisecond {
		t.Errorf("%d attempts in %s", attempts, took)
	}
	get[*corev1.ResourceQuota](t)(quotas.Patch(ctx, "q", types.MergePatchType, []byte(`{"spec":{"hard":{"pods":"4"}}}`), metav1.PatchOptions{}))
	d := a.done()
	for _, c := range d.Status.Conditions {
		if c.Type == appsv1.DeploymentReplicaFailure {
			t.Errorf("afterwards: %+v", c)
		}
	}
}

// A Deployment whose ReplicaSet is deleted under it makes it anew: with other
// pods, or with the same if they were left.
func TestReplicaSetDeletedUnderItsDeployment(t *testing.T) {
	a, ctx := newApps(t), t.Context()
	a.deploy(3, nil)
	a.done()
	uids := func() map[types.UID]bool {
		out := map[types.UID]bool{}
		for _, p := range a.pods() {
			if p.DeletionTimestamp == nil {
				out[p.UID] = true
			}
		}
		return out
	}
	for _, c := range []struct {
		policy metav1.DeletionPropagation
		stay   int
	}{{metav1.DeletePropagationBackground, 0}, {metav1.DeletePropagationForeground, 0}, {metav1.DeletePropagationOrphan, 3}} {
		before, set := uids(), a.sets()["v1"]
		must(t, a.ReplicaSets(a.ns).Delete(ctx, set.Name, metav1.DeleteOptions{PropagationPolicy: &c.policy}))
		eventually(t, func() (bool, any) {
			now := a.sets()["v1"]
			if now == nil || now.UID == set.UID || now.Name != set.Name || now.Status.AvailableReplicas != 3 {
				return false, now
			}
			stay, after := 0, uids()
			for uid := range after {
				if before[uid] {
					stay++
				}
			}
			return stay == c.stay && len(after) == 3, after
		})
		if d := a.done(); d.Annotations["deployment.kubernetes.io/revision"] != "1" {
			t.Errorf("%s: revision %s", c.policy, d.Annotations["deployment.kubernetes.io/revision"])
		}
	}
}
