// Package index names the cache's indexes that controllers read by.
package index

import (
	"context"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/internal/podrefs"
)

const (
	// Controller finds pods, ReplicaSets, ControllerRevisions, Jobs and resource
	// claims by the UID of their controller.
	Controller = "metadata.controllerUID"
	// Orphan is Controller's value for objects without a controller.
	Orphan = "none"
	// PodNode finds pods by the node that they are bound to.
	PodNode = "spec.nodeName"
	// PodClaim finds pods by the volume claims that they name.
	PodClaim = "spec.volumes.claimName"
	// PodResourceClaim finds pods by the resource claims that they use.
	PodResourceClaim = "resourceClaimName"
	// PodClaimTemplate finds pods by the templates of resource claims that they
	// name.
	PodClaimTemplate = "spec.resourceClaims.resourceClaimTemplateName"
	// VolumeClaim finds volumes by the claim that they are for, "namespace/name",
	// or Orphan.
	VolumeClaim = "spec.claimRef"
)

// Install adds every index. Once for a cache, before it starts.
func Install(ctx context.Context, c cache.Cache) error {
	for _, x := range []struct {
		obj   client.Object
		field string
		fn    client.IndexerFunc
	}{
		{&corev1.Pod{}, Controller, controllerUID},
		{&appsv1.ReplicaSet{}, Controller, controllerUID},
		{&appsv1.ControllerRevision{}, Controller, controllerUID},
		{&batchv1.Job{}, Controller, controllerUID},
		{&resourcev1.ResourceClaim{}, Controller, controllerUID},
		{&corev1.Pod{}, PodNode, podNode},
		{&corev1.Pod{}, PodClaim, podClaims},
		{&corev1.Pod{}, PodResourceClaim, podResourceClaims},
		{&corev1.Pod{}, PodClaimTemplate, podClaimTemplates},
		{&corev1.PersistentVolume{}, VolumeClaim, volumeClaim},
	} {
		if err := c.IndexField(ctx, x.obj, x.field, x.fn); err != nil {
			return fmt.Errorf("index %T by %s: %w", x.obj, x.field, err)
		}
	}
	return nil
}

func controllerUID(obj client.Object) []string {
	if ref := metav1.GetControllerOfNoCopy(obj); ref != nil {
		return []string{string(ref.UID)}
	}
	return []string{Orphan}
}

func podNode(obj client.Object) []string {
	if pod, ok := obj.(*corev1.Pod); ok && pod.Spec.NodeName != "" {
		return []string{pod.Spec.NodeName}
	}
	return nil
}

func podClaims(obj client.Object) []string {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return nil
	}
	return slices.Collect(podrefs.Claims(pod))
}

func podResourceClaims(obj client.Object) []string {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return nil
	}
	return slices.Collect(podrefs.ResourceClaims(pod))
}

func podClaimTemplates(obj client.Object) []string {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return nil
	}
	var names []string
	for _, c := range pod.Spec.ResourceClaims {
		if c.ResourceClaimTemplateName != nil {
			names = append(names, *c.ResourceClaimTemplateName)
		}
	}
	return names
}

func volumeClaim(obj client.Object) []string {
	v, ok := obj.(*corev1.PersistentVolume)
	if !ok {
		return nil
	}
	if ref := v.Spec.ClaimRef; ref != nil {
		return []string{ref.Namespace + "/" + ref.Name}
	}
	return []string{Orphan}
}

// By selects the objects of a namespace by one index, shared with the cache:
// never mutate them.
func By(namespace, field, value string) []client.ListOption {
	return []client.ListOption{
		client.InNamespace(namespace),
		client.MatchingFields{field: value},
		client.UnsafeDisableDeepCopy,
	}
}
