package disruption

import (
	"context"
	"fmt"
	"math"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/api"
)

// unscalableError says that pods have owners of a kind that has no size.
type unscalableError struct{ err error }

func (e *unscalableError) Error() string { return e.err.Error() }
func (e *unscalableError) Unwrap() error { return e.err }

// scaled is an object with a number of pods.
type scaled struct {
	uid      types.UID
	replicas int32
}

// expected adds up the sizes of all controllers of a budget's pods. Pods
// without a controller do not count.
func (c *controller) expected(ctx context.Context, b *policyv1.PodDisruptionBudget, covered []*corev1.Pod) (int32, error) {
	asked := map[types.UID]bool{}
	sizes := map[types.UID]int32{}
	unmanaged := false
	for _, p := range covered {
		ref := metav1.GetControllerOfNoCopy(p)
		if ref == nil {
			unmanaged = true
			continue
		}
		if asked[ref.UID] {
			continue
		}
		asked[ref.UID] = true
		s, err := c.controllerOf(ctx, p.Namespace, ref)
		if err != nil {
			return 0, err
		}
		if s == nil {
			return 0, fmt.Errorf("found no controllers for pod %q", p.Name)
		}
		sizes[s.uid] = s.replicas
	}
	if unmanaged {
		c.events.Eventf(b, corev1.EventTypeWarning, "UnmanagedPods", "Pods selected by this PodDisruptionBudget (selector: %v) were found "+
			"to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. "+
			"To account for these pods please set \".spec.minAvailable\" "+
			"field of the PDB to an integer value.", b.Spec.Selector)
	}
	sum := int64(0)
	for _, n := range sizes {
		sum += int64(n)
	}
	return int32(min(sum, math.MaxInt32)), nil
}

// controllerOf returns the object that sets how many pods there are: that which
// ref names, or the Deployment above it. Nil if it is gone.
func (c *controller) controllerOf(ctx context.Context, namespace string, ref *metav1.OwnerReference) (*scaled, error) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return nil, &unscalableError{err}
	}
	switch (schema.GroupKind{Group: gv.Group, Kind: ref.Kind}) {
	case corev1.SchemeGroupVersion.WithKind("ReplicationController").GroupKind():
		rc := &corev1.ReplicationController{}
		if ok, err := c.get(ctx, namespace, ref, rc); !ok {
			return nil, err
		}
		return size(rc, rc.Spec.Replicas), nil
	case appsv1.SchemeGroupVersion.WithKind("StatefulSet").GroupKind():
		s := &appsv1.StatefulSet{}
		if ok, err := c.get(ctx, namespace, ref, s); !ok {
			return nil, err
		}
		return size(s, s.Spec.Replicas), nil
	case appsv1.SchemeGroupVersion.WithKind("ReplicaSet").GroupKind():
		rs := &appsv1.ReplicaSet{}
		if ok, err := c.get(ctx, namespace, ref, rs); !ok {
			return nil, err
		}
		if up := metav1.GetControllerOfNoCopy(rs); up != nil && up.Kind == "Deployment" {
			d := &appsv1.Deployment{}
			if ok, err := c.get(ctx, namespace, up, d); !ok {
				return nil, err
			}
			return size(d, d.Spec.Replicas), nil
		}
		return size(rs, rs.Spec.Replicas), nil
	}
	return c.scaleOf(ctx, namespace, ref, gv)
}

// size of an object; one that says nothing has one pod.
func size(o client.Object, replicas *int32) *scaled {
	if replicas == nil {
		return &scaled{o.GetUID(), 1}
	}
	return &scaled{o.GetUID(), *replicas}
}

// get reads the object that ref names from the cache. It is false for one that
// is gone, or another of that name.
func (c *controller) get(ctx context.Context, namespace string, ref *metav1.OwnerReference, o client.Object) (bool, error) {
	err := c.env.Cluster.Client().Get(ctx, types.NamespacedName{Namespace: namespace, Name: ref.Name}, o)
	return err == nil && o.GetUID() == ref.UID, client.IgnoreNotFound(err)
}

// scaleOf asks for the scale of an object of any other kind.
func (c *controller) scaleOf(ctx context.Context, namespace string, ref *metav1.OwnerReference, gv schema.GroupVersion) (*scaled, error) {
	k := c.kind(schema.GroupKind{Group: gv.Group, Kind: ref.Kind}, gv.Version)
	if k == nil {
		return nil, &unscalableError{&apimeta.NoKindMatchError{
			GroupKind: schema.GroupKind{Group: gv.Group, Kind: ref.Kind}, SearchedVersions: []string{gv.Version},
		}}
	}
	if k.Scale == nil {
		return nil, &unscalableError{fmt.Errorf("%s does not implement the scale subresource", k.GR())}
	}
	o, scale := k.New(), &autoscalingv1.Scale{}
	o.GetObjectKind().SetGroupVersionKind(k.GVK)
	o.SetNamespace(namespace)
	o.SetName(ref.Name)
	err := c.env.Cluster.Client().SubResource("scale").Get(ctx, o, scale)
	if apierrors.IsNotFound(err) || (err == nil && scale.UID != ref.UID) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("scale of %s %s: %w", k.GVK.Kind, ref.Name, err)
	}
	return &scaled{scale.UID, scale.Spec.Replicas}, nil
}

// kind returns a kind in a version, or in any if that is not served.
func (c *controller) kind(gk schema.GroupKind, version string) *api.Kind {
	var found *api.Kind
	for _, k := range c.kinds() {
		if k.GVK.GroupKind() == gk && !k.Virtual && (found == nil || k.GVK.Version == version) {
			found = k
		}
	}
	return found
}
