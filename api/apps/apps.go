// Package apps holds the kinds of the group apps, v1: one file a kind.
package apps

import (
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/proa-dev/proa/api"
)

// Kinds lists the kinds of the group.
func Kinds() []*api.Kind {
	return []*api.Kind{
		ControllerRevision(),
		DaemonSet(),
		Deployment(),
		ReplicaSet(),
		StatefulSet(),
	}
}

func gvk(kind string) schema.GroupVersionKind {
	return appsv1.SchemeGroupVersion.WithKind(kind)
}

func setDefault[T any](p **T, v T) {
	if *p == nil {
		*p = &v
	}
}
