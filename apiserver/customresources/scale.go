package customresources

import (
	"fmt"
	"math"
	"strings"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api"
)

// parts are the names in a simple JSON path (".spec.replicas").
func parts(path string) []string { return strings.Split(strings.TrimPrefix(path, "."), ".") }

// scaleOf serves the scale subresource. all are the versions of the kind by name.
func (v *version) scaleOf(all map[string]*version) *api.Scale {
	if v.scale == nil {
		return nil
	}
	others := map[string][]string{}
	for name, other := range all {
		if other == v {
			continue
		}
		others[name] = nil
		if other.scale != nil {
			others[name] = parts(other.scale.SpecReplicasPath)
		}
	}
	count := func(u *unstructured.Unstructured, path string) int32 {
		n, _, err := unstructured.NestedInt64(u.Object, parts(path)...)
		if err != nil { // validated, but for objects older than the subresource
			return 0
		}
		return int32(min(max(n, 0), math.MaxInt32))
	}
	return &api.Scale{
		ReplicasPath: parts(v.scale.SpecReplicasPath), OtherPaths: others,
		Get: func(o api.Object) *autoscalingv1.Scale {
			u := o.(*unstructured.Unstructured)
			s := &autoscalingv1.Scale{}
			s.Spec.Replicas = count(u, v.scale.SpecReplicasPath)
			s.Status.Replicas = count(u, v.scale.StatusReplicasPath)
			if path := v.scale.LabelSelectorPath; path != nil {
				if text, _, err := unstructured.NestedString(u.Object, parts(*path)...); err == nil {
					s.Status.Selector = text
				}
			}
			return s
		},
		Unset: func(o api.Object) bool {
			_, found, err := unstructured.NestedInt64(o.(*unstructured.Unstructured).Object, parts(v.scale.SpecReplicasPath)...)
			return err == nil && !found
		},
		Set: func(o api.Object, n int32) {
			u := o.(*unstructured.Unstructured)
			path := parts(v.scale.SpecReplicasPath)
			if err := unstructured.SetNestedField(u.Object, int64(n), path...); err == nil {
				return
			}
			// Something else is in the way; validation refuses it with its reason.
			u.Object[path[0]] = map[string]any{}
			_ = unstructured.SetNestedField(u.Object, int64(n), path...)
		},
	}
}

// checkScale checks what the scale subresource reads.
func (v *version) checkScale(u *unstructured.Unstructured, spec bool) (errs field.ErrorList) {
	if v.scale == nil {
		return nil
	}
	paths := []string{v.scale.StatusReplicasPath}
	if spec {
		paths = []string{v.scale.SpecReplicasPath, v.scale.StatusReplicasPath}
	}
	for _, path := range paths {
		switch n, _, err := unstructured.NestedInt64(u.Object, parts(path)...); {
		case err != nil:
			errs = append(errs, field.Invalid(field.NewPath(path), n, err.Error()))
		case n < 0:
			errs = append(errs, field.Invalid(field.NewPath(path), n, "should be a non-negative integer"))
		case n > math.MaxInt32:
			errs = append(errs, field.Invalid(field.NewPath(path), n, fmt.Sprintf("should be less than or equal to %v", math.MaxInt32)))
		}
	}
	if path := v.scale.LabelSelectorPath; path != nil {
		if text, _, err := unstructured.NestedString(u.Object, parts(*path)...); err != nil {
			errs = append(errs, field.Invalid(field.NewPath(*path), text, err.Error()))
		}
	}
	return errs
}
