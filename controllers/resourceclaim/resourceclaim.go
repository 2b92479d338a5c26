// Package resourceclaim makes the resource claims that pods want from templates,
// and gives the devices of claims back that no pod uses any more.
//
// Claims that pods name, that were made from templates, and that the scheduler
// made for extended resources are alike when they are given back; those that
// were made for a pod go when it has ended, even if the pod itself stays.
package resourceclaim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/controllers/internal/index"
	"github.com/proa-dev/proa/controllers/internal/loop"
	"github.com/proa-dev/proa/controllers/internal/pods"
)

// Name is the controller's name in logs and events.
const Name = "resourceclaim-controller"

type controller struct {
	env    loop.Env
	events record.EventRecorder

	mu sync.Mutex
	// made are claims of pods that their status may not tell of yet: the cache
	// need not show them either.
	made map[types.NamespacedName]map[string]*resourcev1.ResourceClaim
}

// New makes the controller.
func New(env loop.Env) (loop.Loop, error) {
	env = env.Named(Name)
	c := &controller{env: env, events: env.Cluster.Recorder("resource_claim"), made: map[types.NamespacedName]map[string]*resourcev1.ResourceClaim{}}
	making, err := loop.New(env, Name, 5, c.make, c.pods(), c.templates(), c.claimsOfPods())
	if err != nil {
		return loop.Loop{}, err
	}
	freeing, err := loop.New(env, Name+"-cleanup", 5, c.free, c.claims(), c.podsThatEnd())
	if err != nil {
		return loop.Loop{}, err
	}
	return loop.Join(Name, making, freeing), nil
}

// make makes the claims that a pod wants, tells the pod of them, and reserves
// for a pod that was bound by other hands what it names.
func (c *controller) make(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	pod := &corev1.Pod{}
	if err := c.env.Cluster.Client().Get(ctx, key, pod); err != nil {
		c.forget(key)
		return 0, client.IgnoreNotFound(err)
	}
	if pod.DeletionTimestamp != nil || done(pod) {
		c.forget(key)
		return 0, nil // it needs none: claims that go now go for good
	}
	names := map[string]string{}
	for i := range pod.Spec.ResourceClaims {
		of := &pod.Spec.ResourceClaims[i]
		claim, err := c.ensure(ctx, key, pod, of)
		switch {
		case pods.NamespaceTerminating(err):
			return 0, nil
		case err != nil:
			c.events.Eventf(pod, corev1.EventTypeWarning, "FailedResourceClaimCreation", "PodResourceClaim %s: %v", of.Name, err)
			return 0, fmt.Errorf("PodResourceClaim %s: %w", of.Name, err)
		case claim != nil:
			names[of.Name] = claim.Name
		}
	}
	if len(names) > 0 {
		return 0, c.tell(ctx, pod, names)
	}
	c.forget(key)
	if pod.Spec.NodeName == "" {
		return 0, nil // the scheduler reserves
	}
	return 0, c.reserve(ctx, pod)
}

func (c *controller) forget(pod types.NamespacedName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.made, pod)
}

// ensure returns a claim that the pod's status is to tell of, nil for none.
func (c *controller) ensure(ctx context.Context, key types.NamespacedName, pod *corev1.Pod, of *corev1.PodResourceClaim) (*resourcev1.ResourceClaim, error) {
	name, owned, err := resourceclaim.Name(pod, of)
	switch {
	case errors.Is(err, resourceclaim.ErrClaimNotFound):
	case err != nil:
		return nil, fmt.Errorf("checking for claim before creating it: %w", err)
	case name == nil || of.ResourceClaimTemplateName == nil:
		return nil, nil // none is wanted, or the user makes it
	default:
		claim, err := c.get(ctx, types.NamespacedName{Namespace: pod.Namespace, Name: *name})
		if err != nil || claim != nil && (!owned || resourceclaim.IsForPod(pod, claim, false) == nil) {
			return nil, err
		}
		// Deleted by accident: there is to be another.
	}
	if claim, err := c.orphan(ctx, key, pod, of.Name); claim != nil || err != nil {
		return claim, err
	}
	template := &resourcev1.ResourceClaimTemplate{}
	if err := c.env.Cluster.Client().Get(ctx, types.NamespacedName{Namespace: pod.Namespace, Name: *of.ResourceClaimTemplateName}, template); err != nil {
		return nil, fmt.Errorf("resource claim template %q: %w", *of.ResourceClaimTemplateName, err)
	}
	claim := instance(template, pod, of.Name)
	if err := c.env.Cluster.Client().Create(ctx, claim); err != nil {
		return nil, fmt.Errorf("create ResourceClaim %s: %w", claim.GenerateName, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.made[key] == nil {
		c.made[key] = map[string]*resourcev1.ResourceClaim{}
	}
	c.made[key][of.Name] = claim
	return claim, nil
}

// get looks past the cache for a claim that it does not show; nil for none.
func (c *controller) get(ctx context.Context, name types.NamespacedName) (*resourcev1.ResourceClaim, error) {
	claim := &resourcev1.ResourceClaim{}
	err := c.env.Cluster.Client().Get(ctx, name, claim)
	if apierrors.IsNotFound(err) {
		err = c.env.Cluster.Reader().Get(ctx, name, claim)
	}
	if err != nil {
		return nil, client.IgnoreNotFound(err)
	}
	return claim, nil
}

// orphan finds a claim that was made for a pod before, which was not told of it.
func (c *controller) orphan(ctx context.Context, key types.NamespacedName, pod *corev1.Pod, of string) (*resourcev1.ResourceClaim, error) {
	c.mu.Lock()
	claim := c.made[key][of]
	c.mu.Unlock()
	if claim != nil && metav1.IsControlledBy(claim, pod) && !told(pod, claim) {
		return claim, nil
	}
	var list resourcev1.ResourceClaimList
	if err := c.env.Cluster.Client().List(ctx, &list, index.By(pod.Namespace, index.Controller, string(pod.UID))...); err != nil {
		return nil, err
	}
	for i := range list.Items {
		if claim := &list.Items[i]; claim.Annotations[resourcev1.PodResourceClaimAnnotation] == of && !told(pod, claim) {
			return claim, nil
		}
	}
	return nil, nil
}

// told says that a pod's status names a claim: if it is made again all the
// same, that one is gone, whatever the cache shows.
func told(pod *corev1.Pod, claim *resourcev1.ResourceClaim) bool {
	return slices.ContainsFunc(pod.Status.ResourceClaimStatuses, func(s corev1.PodResourceClaimStatus) bool {
		return s.ResourceClaimName != nil && *s.ResourceClaimName == claim.Name
	})
}

// longestBase leaves room for a hyphen and five random characters in a name of 63.
const longestBase = 57

// instance is the claim that a template describes for a pod. Its name keeps a
// part of both names, should they be too long.
func instance(t *resourcev1.ResourceClaimTemplate, pod *corev1.Pod, of string) *resourcev1.ResourceClaim {
	base := pod.Name + "-" + of + "-"
	if n := len(base); n > longestBase {
		base = pod.Name[:len(pod.Name)*longestBase/n] + "-" + of[:len(of)*longestBase/n]
	}
	t = t.DeepCopy()
	annotations := map[string]string{}
	maps.Copy(annotations, t.Spec.Annotations)
	annotations[resourcev1.PodResourceClaimAnnotation] = of
	owner := *metav1.NewControllerRef(pod, corev1.SchemeGroupVersion.WithKind("Pod"))
	owner.BlockOwnerDeletion = nil
	return &resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, GenerateName: base, Labels: t.Spec.Labels, Annotations: annotations,
			OwnerReferences: []metav1.OwnerReference{owner},
		},
		Spec: t.Spec.Spec,
	}
}

// tell writes the names of claims into the status of this very pod.
func (c *controller) tell(ctx context.Context, pod *corev1.Pod, names map[string]string) error {
	statuses := make([]corev1.PodResourceClaimStatus, 0, len(names))
	for _, of := range slices.Sorted(maps.Keys(names)) {
		name := names[of]
		statuses = append(statuses, corev1.PodResourceClaimStatus{Name: of, ResourceClaimName: &name})
	}
	body, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID},
		"status":   map[string]any{"resourceClaimStatuses": statuses},
	})
	if err != nil {
		return fmt.Errorf("encode status: %w", err)
	}
	bare := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name}}
	err = c.env.Cluster.Client().SubResource("status").Patch(ctx, bare, client.RawPatch(types.StrategicMergePatchType, body))
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("update pod %s/%s ResourceClaimStatuses: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

// reserve is for a pod that has a node although its claims are not reserved.
func (c *controller) reserve(ctx context.Context, pod *corev1.Pod) error {
	for i := range pod.Spec.ResourceClaims {
		name, owned, err := resourceclaim.Name(pod, &pod.Spec.ResourceClaims[i])
		if err != nil || name == nil {
			continue // it was made or is on its way: that wakes the pod again
		}
		claim := &resourcev1.ResourceClaim{}
		if err := c.env.Cluster.Client().Get(ctx, types.NamespacedName{Namespace: pod.Namespace, Name: *name}, claim); err != nil {
			return client.IgnoreNotFound(err)
		}
		if owned {
			if err := resourceclaim.IsForPod(pod, claim, false); err != nil {
				return err
			}
		}
		if claim.Status.Allocation == nil || resourceclaim.IsReservedForPod(pod, claim, false) || !resourceclaim.CanBeReserved(claim) {
			continue
		}
		claim.Status.ReservedFor = append(claim.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: pod.Name, UID: pod.UID})
		if err := c.env.Cluster.Client().SubResource("status").Update(ctx, claim); err != nil {
			return fmt.Errorf("reserve claim %s/%s: %w", claim.Namespace, claim.Name, err)
		}
	}
	return nil
}

// done says that no container of a pod runs or will run.
func done(pod *corev1.Pod) bool {
	return pods.Finished(pod) || pod.DeletionTimestamp != nil && pod.Spec.NodeName == ""
}
