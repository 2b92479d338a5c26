package core

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/proa-dev/proa/api"
)

// ConfigMap is the kind of config maps.
func ConfigMap() *api.Kind {
	return &api.Kind{
		GVK:         gvk("ConfigMap"),
		Resource:    "configmaps",
		ShortNames:  []string{"cm"},
		Namespaced:  true,
		New:         api.Maker[corev1.ConfigMap](),
		NewList:     api.ListMaker[corev1.ConfigMapList](),
		StoragePath: "configmaps",
	}
}
