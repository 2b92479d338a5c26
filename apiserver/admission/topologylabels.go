package admission

import (
	"context"

	corev1 "k8s.io/api/core/v1"
)

// PodTopologyLabels gives a pod the zone and region of its node as labels, so
// that the pod can read them of itself.
type PodTopologyLabels struct{ lookup Lookup }

var _ Mutator = (*PodTopologyLabels)(nil)

// NewPodTopologyLabels returns the plugin.
func NewPodTopologyLabels(lookup Lookup) *PodTopologyLabels {
	return &PodTopologyLabels{lookup}
}

// Name implements Plugin.
func (*PodTopologyLabels) Name() string { return "PodTopologyLabels" }

// Admit implements Mutator. The labels of a binding become the pod's.
func (p *PodTopologyLabels) Admit(ctx context.Context, a *Attributes) error {
	if a.Operation != Create || a.GVR.GroupResource() != corev1.Resource("pods") {
		return nil
	}
	switch o := a.Object.(type) {
	case *corev1.Pod:
		if a.Subresource == "" {
			p.label(ctx, o.Spec.NodeName, &o.Labels)
		}
	case *corev1.Binding:
		if o.Target.Kind == "Node" {
			p.label(ctx, o.Target.Name, &o.Labels)
		}
	}
	return nil
}

// label leaves a node that is not known alone: others see to that.
func (p *PodTopologyLabels) label(ctx context.Context, name string, labels *map[string]string) {
	obj, ok := p.lookup.Get(ctx, corev1.Resource("nodes"), "", name)
	if !ok {
		return
	}
	for _, key := range []string{corev1.LabelTopologyZone, corev1.LabelTopologyRegion} {
		v, ok := obj.GetLabels()[key]
		if !ok {
			continue
		}
		if *labels == nil {
			*labels = map[string]string{}
		}
		(*labels)[key] = v
	}
}
