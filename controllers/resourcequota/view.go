package resourcequota

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/proa-dev/proa/controllers/internal/loop"
	"github.com/proa-dev/proa/internal/deviceclass"
)

// view is what is measured by, as the cache shows it while ctx lives. What
// cannot be read is not there: it is looked at again.
type view struct {
	ctx context.Context
	*controller
}

func (v view) DeviceClasses() []*resourcev1.DeviceClass {
	var list resourcev1.DeviceClassList
	v.read(&list)
	return pointers(list.Items)
}

func (v view) ResourceClaims(namespace string) []*resourcev1.ResourceClaim {
	var list resourcev1.ResourceClaimList
	v.read(&list, client.InNamespace(namespace))
	return pointers(list.Items)
}

func (v view) Pod(namespace, name string) *corev1.Pod {
	pod := &corev1.Pod{}
	if err := v.env.Cluster.Client().Get(v.ctx, types.NamespacedName{Namespace: namespace, Name: name}, pod, client.UnsafeDisableDeepCopy); err != nil {
		return nil
	}
	return pod
}

func (v view) read(list client.ObjectList, options ...client.ListOption) {
	if err := v.env.Cluster.Client().List(v.ctx, list, append(options, client.UnsafeDisableDeepCopy)...); err != nil && v.ctx.Err() == nil {
		v.env.Logger.Warn("read what devices are measured by", "err", err)
	}
}

func pointers[T any](items []T) []*T {
	out := make([]*T, len(items))
	for i := range items {
		out[i] = &items[i]
	}
	return out
}

// watchClasses counts anew under the names of the extended resources that devices
// begin or cease to stand for.
func (c *controller) watchClasses() source.Source {
	count := func(_ context.Context, q loop.Queue, class *resourcev1.DeviceClass) {
		c.mu.Lock()
		defer c.mu.Unlock()
		for key, t := range c.quotas {
			for name := range deviceclass.Names(class) {
				if _, bounds := t.hard[corev1.DefaultResourceRequestsPrefix+name]; bounds {
					q.Add(loop.Request{NamespacedName: key})
				}
			}
		}
	}
	return loop.Watch(c.env.Cluster, &resourcev1.DeviceClass{}, loop.On[*resourcev1.DeviceClass]{
		Created: count,
		Updated: func(ctx context.Context, q loop.Queue, old, class *resourcev1.DeviceClass) {
			if !ptr.Equal(old.Spec.ExtendedResourceName, class.Spec.ExtendedResourceName) {
				count(ctx, q, old)
				count(ctx, q, class)
			}
		},
		Deleted: count,
	})
}
