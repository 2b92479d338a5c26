package resourceclaim

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// free takes the pods off a claim that will not use it any more. After the last
// one its devices are free, and the claim goes if it was made for a pod that is
// done.
func (c *controller) free(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	claim := &resourcev1.ResourceClaim{}
	if err := c.env.Cluster.Client().Get(ctx, key, claim); err != nil {
		return 0, client.IgnoreNotFound(err)
	}
	var users []resourcev1.ResourceClaimConsumerReference
	for _, r := range claim.Status.ReservedFor {
		uses, err := c.uses(ctx, claim.Namespace, r)
		if err != nil {
			return 0, err
		}
		if uses {
			users = append(users, r)
		}
	}
	protected := slices.Contains(claim.Finalizers, resourcev1.Finalizer)
	fewer := len(users) < len(claim.Status.ReservedFor)
	unused := protected && claim.DeletionTimestamp != nil && len(users) == 0
	if fewer || unused && claim.Status.Allocation != nil {
		claim.Status.ReservedFor = users
		if len(users) == 0 && protected {
			claim.Status.Allocation = nil
		}
		if err := c.env.Cluster.Client().SubResource("status").Update(ctx, claim); err != nil {
			return 0, err
		}
	}
	if protected && claim.Status.Allocation == nil && (fewer || unused) {
		claim.Finalizers = slices.DeleteFunc(claim.Finalizers, func(f string) bool { return f == resourcev1.Finalizer })
		if err := c.env.Cluster.Client().Update(ctx, claim); err != nil {
			return 0, client.IgnoreNotFound(err)
		}
	}
	if len(users) > 0 {
		return 0, nil
	}
	return 0, c.remove(ctx, claim)
}

// uses says whether a claim stays reserved for somebody. A pod that the cache
// does not show may be newer than the cache.
func (c *controller) uses(ctx context.Context, namespace string, r resourcev1.ResourceClaimConsumerReference) (bool, error) {
	if r.APIGroup != "" || r.Resource != "pods" {
		return true, nil // who knows
	}
	pod, name := &corev1.Pod{}, types.NamespacedName{Namespace: namespace, Name: r.Name}
	err := c.env.Cluster.Client().Get(ctx, name, pod)
	if apierrors.IsNotFound(err) || err == nil && pod.UID != r.UID {
		err = c.env.Cluster.Reader().Get(ctx, name, pod)
	}
	if err != nil {
		return false, client.IgnoreNotFound(err)
	}
	return pod.UID == r.UID && !done(pod), nil
}

// remove deletes a claim that was made for a pod which is done, or gave its name
// to another. Claims of pods that are gone are garbage, and collected as such.
func (c *controller) remove(ctx context.Context, claim *resourcev1.ResourceClaim) error {
	owner := metav1.GetControllerOfNoCopy(claim)
	if claim.DeletionTimestamp != nil || owner == nil || owner.APIVersion != "v1" || owner.Kind != "Pod" {
		return nil
	}
	pod := &corev1.Pod{}
	if err := c.env.Cluster.Client().Get(ctx, types.NamespacedName{Namespace: claim.Namespace, Name: owner.Name}, pod); err != nil {
		return client.IgnoreNotFound(err)
	}
	if pod.UID == owner.UID && !done(pod) {
		return nil
	}
	err := c.env.Cluster.Client().Delete(ctx, claim, client.Preconditions{UID: &claim.UID})
	if client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("delete unused generated claim %s/%s: %w", claim.Namespace, claim.Name, err)
	}
	return nil
}
