package api

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// TestExtendedResources has two devices of a node given to pods: by the name of an extended
// resource, and by a claim from a template.
func TestExtendedResources(t *testing.T) {
	ns, ctx := namespace(t), t.Context()
	devices(t, ns, resourcev1.Device{Name: "gpu-0"}, resourcev1.Device{Name: "gpu-1"})
	gpu := corev1.ResourceName(ns + ".example.com/gpu")
	claims := world.kube.ResourceV1().ResourceClaims(ns)
	get[*resourcev1.ResourceClaimTemplate](t)(world.kube.ResourceV1().ResourceClaimTemplates(ns).Create(ctx, &resourcev1.ResourceClaimTemplate{
		ObjectMeta: metav1.ObjectMeta{Name: "one"},
		Spec: resourcev1.ResourceClaimTemplateSpec{Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{
			Name: "r", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: ns},
		}}}}},
	}, metav1.CreateOptions{}))
	wants := func(name corev1.ResourceName) corev1.PodSpec {
		c := cpu("100m")
		c[0].Resources.Limits = corev1.ResourceList{name: resource.MustParse("1")}
		c[0].Resources.Requests = nil
		return on(ns, corev1.PodSpec{Containers: c})
	}
	claimed := on(ns, corev1.PodSpec{Containers: cpu("100m"), ResourceClaims: []corev1.PodResourceClaim{{Name: "gpu", ResourceClaimTemplateName: ptr.To("one")}}})

	schedule(t, ns, "extended", wants(gpu))
	unschedulable(t, ns, "extended", "Insufficient "+string(gpu))
	get[*resourcev1.DeviceClass](t)(world.kube.ResourceV1().DeviceClasses().Patch(ctx, ns, types.MergePatchType,
		[]byte(`{"spec":{"extendedResourceName":"`+string(gpu)+`"}}`), metav1.PatchOptions{}))
	bound(t, ns, "extended")
	pod := get[*corev1.Pod](t)(world.kube.CoreV1().Pods(ns).Get(ctx, "extended", metav1.GetOptions{}))
	status := pod.Status.ExtendedResourceClaimStatus
	if status == nil || !strings.HasPrefix(status.ResourceClaimName, "extended-extended-resources-") || len(status.RequestMappings) != 1 ||
		status.RequestMappings[0] != (corev1.ContainerExtendedResourceRequest{ContainerName: "c", ResourceName: string(gpu), RequestName: "container-0-request-0"}) {
		t.Fatalf("status: %+v", status)
	}
	claim := get[*resourcev1.ResourceClaim](t)(claims.Get(ctx, status.ResourceClaimName, metav1.GetOptions{}))
	if claim.Status.Allocation == nil || len(claim.Status.ReservedFor) != 1 || claim.Status.ReservedFor[0].UID != pod.UID || !metav1.IsControlledBy(claim, pod) {
		t.Errorf("claim: %+v", claim)
	}

	schedule(t, ns, "claimed", claimed)
	bound(t, ns, "claimed")
	schedule(t, ns, "late", wants(corev1.ResourceName(resourcev1.ResourceDeviceClassPrefix+ns)))
	unschedulable(t, ns, "late", "cannot allocate all claims")

	// What a pod that has ended used is free, although the pod is still there.
	get[*corev1.Pod](t)(world.kube.CoreV1().Pods(ns).Patch(ctx, "extended", types.MergePatchType, []byte(`{"status":{"phase":"Succeeded"}}`), metav1.PatchOptions{}, "status"))
	bound(t, ns, "late")
	eventually(t, func() (bool, any) {
		_, err := claims.Get(ctx, claim.Name, metav1.GetOptions{})
		return apierrors.IsNotFound(err), err
	})
}
