package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/proa-dev/proa/api"
)

// Node is the kind of nodes.
func Node() *api.Kind {
	return &api.Kind{
		GVK:         gvk("Node"),
		Resource:    "nodes",
		ShortNames:  []string{"no"},
		New:         api.Maker[corev1.Node](),
		NewList:     api.ListMaker[corev1.NodeList](),
		StoragePath: "minions",

		Default: api.On(func(n *corev1.Node) {
			if n.Status.Allocatable == nil && n.Status.Capacity != nil {
				n.Status.Allocatable = n.Status.Capacity.DeepCopy()
			}
		}),
		// A node is created with the status that its kubelet knows.
		PrepareUpdate: api.OnUpdate(func(n, old *corev1.Node) {
			n.Status = old.Status
		}),
		Status: &api.Status{
			PrepareUpdate: api.OnUpdate(func(n, old *corev1.Node) { n.Spec = old.Spec }),
		},
		Subresources: []api.Subresource{{
			Name: "proxy", GVK: gvk("NodeProxyOptions"), Verbs: []string{"create", "delete", "get", "patch", "update"},
		}},
		Fields: api.FieldsOf(func(n *corev1.Node) fields.Set {
			unschedulable := "false"
			if n.Spec.Unschedulable {
				unschedulable = "true"
			}
			return fields.Set{"spec.unschedulable": unschedulable}
		}),
		FieldNames: []string{"spec.unschedulable"},
		ResetFields: map[string][]string{
			"": {"status"}, "status": {"spec"},
		},
	}
}
