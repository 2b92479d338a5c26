package apps

import (
	appsv1 "k8s.io/api/apps/v1"

	"github.com/proa-dev/proa/api"
)

// ControllerRevision is the kind of snapshots that controllers keep of their
// objects' templates.
func ControllerRevision() *api.Kind {
	return &api.Kind{
		GVK:         gvk("ControllerRevision"),
		Resource:    "controllerrevisions",
		Namespaced:  true,
		New:         api.Maker[appsv1.ControllerRevision](),
		NewList:     api.ListMaker[appsv1.ControllerRevisionList](),
		StoragePath: "controllerrevisions",
		Columns:     revisionColumns(),

		Validate:       api.Check(validateControllerRevision),
		ValidateUpdate: api.CheckUpdate(validateControllerRevisionUpdate),
	}
}
