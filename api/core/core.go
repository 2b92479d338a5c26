// Package core holds the kinds of the core group, v1: one file a kind.
package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/core/quota"
)

// Kinds lists the kinds of the group.
func Kinds() []*api.Kind {
	return []*api.Kind{
		Binding(),
		ComponentStatus(),
		ConfigMap(),
		Endpoints(),
		Event(),
		quota.LimitRange(),
		Namespace(),
		Node(),
		PersistentVolume(),
		PersistentVolumeClaim(),
		Pod(),
		PodTemplate(),
		ReplicationController(),
		quota.ResourceQuota(),
		Secret(),
		Service(),
		ServiceAccount(),
	}
}

func gvk(kind string) schema.GroupVersionKind {
	return corev1.SchemeGroupVersion.WithKind(kind)
}
