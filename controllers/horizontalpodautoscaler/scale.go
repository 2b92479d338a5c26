package horizontalpodautoscaler

import (
	"context"
	"errors"
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// scales reads and writes the scale of whatever has one.
type scales struct{ client client.Client }

// target is a workload and its scale.
type target struct {
	gvk   schema.GroupVersionKind
	scale *autoscalingv1.Scale
}

// get finds a target. A kind of several versions may have a scale in one alone.
func (s scales) get(ctx context.Context, namespace string, ref *autoscalingv2.CrossVersionObjectReference) (*target, error) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return nil, err
	}
	mappings, err := s.client.RESTMapper().RESTMappings(schema.GroupKind{Group: gv.Group, Kind: ref.Kind})
	if err != nil {
		return nil, err
	}
	var first error
	for _, m := range mappings {
		t := &target{gvk: m.GroupVersionKind}
		if err = s.read(ctx, t, namespace, ref.Name); err == nil {
			return t, nil
		}
		if first == nil {
			first = err
		}
	}
	if first == nil {
		first = errors.New("unrecognized resource")
	}
	return nil, first
}

// read reads the scale; t is as it was if that fails.
func (s scales) read(ctx context.Context, t *target, namespace, name string) error {
	obj, typed := s.object(t.gvk, namespace, name)
	if typed {
		scale := &autoscalingv1.Scale{}
		if err := s.client.SubResource("scale").Get(ctx, obj, scale); err != nil {
			return err
		}
		t.scale = scale
		return nil
	}
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(autoscalingv1.SchemeGroupVersion.WithKind("Scale"))
	if err := s.client.SubResource("scale").Get(ctx, obj, u); err != nil {
		return err
	}
	scale := &autoscalingv1.Scale{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, scale); err != nil {
		return fmt.Errorf("decode scale: %w", err)
	}
	t.scale = scale
	return nil
}

// object names an object, in the Go type of its kind if there is one.
func (s scales) object(gvk schema.GroupVersionKind, namespace, name string) (obj client.Object, typed bool) {
	if o, err := s.client.Scheme().New(gvk); err == nil {
		obj, typed = o.(client.Object)
	}
	if !typed {
		u := &unstructured.Unstructured{}
		u.SetGroupVersionKind(gvk)
		obj = u
	}
	obj.SetNamespace(namespace)
	obj.SetName(name)
	return obj, typed
}

// set writes a number of replicas. Only that is ours: if the target has
// changed otherwise, the number is written into what it is now.
func (s scales) set(ctx context.Context, t *target, replicas int32) error {
	return retry.RetryOnConflict(retry.DefaultRetry, func() error {
		namespace, name := t.scale.Namespace, t.scale.Name
		t.scale.Spec.Replicas = replicas
		obj, typed := s.object(t.gvk, namespace, name)
		err := s.write(ctx, obj, typed, t.scale.DeepCopy())
		if apierrors.IsConflict(err) {
			if err := s.read(ctx, t, namespace, name); err != nil {
				return err
			}
		}
		return err
	})
}

func (s scales) write(ctx context.Context, obj client.Object, typed bool, scale *autoscalingv1.Scale) error {
	if typed {
		return s.client.SubResource("scale").Update(ctx, obj, client.WithSubResourceBody(scale))
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(scale)
	if err != nil {
		return fmt.Errorf("encode scale: %w", err)
	}
	u := &unstructured.Unstructured{Object: content}
	u.SetGroupVersionKind(autoscalingv1.SchemeGroupVersion.WithKind("Scale"))
	return s.client.SubResource("scale").Update(ctx, obj, client.WithSubResourceBody(u))
}
