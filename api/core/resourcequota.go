package core

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/proa-dev/proa/api"
)

// ResourceQuota is the kind of quotas.
func ResourceQuota() *api.Kind {
	return &api.Kind{
		GVK:         gvk("ResourceQuota"),
		Resource:    "resourcequotas",
		ShortNames:  []string{"quota"},
		Namespaced:  true,
		New:         api.Maker[corev1.ResourceQuota](),
		NewList:     api.ListMaker[corev1.ResourceQuotaList](),
		StoragePath: "resourcequotas",

		PrepareCreate: api.On(func(q *corev1.ResourceQuota) { q.Status = corev1.ResourceQuotaStatus{} }),
		PrepareUpdate: api.OnUpdate(func(q, old *corev1.ResourceQuota) { q.Status = old.Status }),
		Status: &api.Status{
			PrepareUpdate: api.OnUpdate(func(q, old *corev1.ResourceQuota) { q.Spec = old.Spec }),
		},
		ResetFields: map[string][]string{
			"": {"status"}, "status": {"spec"},
		},
	}
}
