package quotas

import (
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/proa-dev/proa/apiserver/admission"
)

// view is what quotas see of the cluster.
type view struct{ source admission.Source }

func (v view) DeviceClasses() []*resourcev1.DeviceClass {
	return list[*resourcev1.DeviceClass](v.source, resourcev1.Resource("deviceclasses"), "")
}

func (v view) ResourceClaims(namespace string) []*resourcev1.ResourceClaim {
	return list[*resourcev1.ResourceClaim](v.source, resourcev1.Resource("resourceclaims"), namespace)
}

func (v view) Pod(namespace, name string) *corev1.Pod {
	obj, _ := v.source.Get(corev1.Resource("pods"), namespace, name)
	pod, _ := obj.(*corev1.Pod)
	return pod
}

func list[T any](source admission.Source, gr schema.GroupResource, namespace string) []T {
	var out []T
	for _, obj := range source.List(gr, namespace) {
		if o, ok := obj.(T); ok {
			out = append(out, o)
		}
	}
	return out
}
