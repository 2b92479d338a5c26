package pods_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/proa-dev/proa/kubelet/internal/fakecri"
)

// Extended resources that the node has none of are no reason to refuse a pod
// that a claim gives devices for them.
func TestResourcesOfClaims(t *testing.T) {
	const gpu = "deviceclass.resource.kubernetes.io/gpu"
	for name, c := range map[string]struct {
		mapped string // container
		phase  corev1.PodPhase
	}{
		"claimed":             {"c", corev1.PodRunning},
		"claimed for another": {"other", corev1.PodFailed},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, &fakecri.Runtime{}, func(b *bench) {
				p := pod("c")
				p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{gpu: resource.MustParse("1")}
				p.Status.ExtendedResourceClaimStatus = &corev1.PodExtendedResourceClaimStatus{
					ResourceClaimName: "claim",
					RequestMappings:   []corev1.ContainerExtendedResourceRequest{{ContainerName: c.mapped, ResourceName: gpu, RequestName: "r"}},
				}
				b.manager.Update(p)
				time.Sleep(time.Second)
				if s := b.last(); s.Phase != c.phase {
					t.Errorf("status = %s %s: %s", s.Phase, s.Reason, s.Message)
				}
			})
		})
	}
}
