package admission

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/nodedeclaredfeatures"

	"github.com/proa-dev/proa/internal/target"
)

// NodeDeclaredFeatureValidator refuses to change a pod in a way that its node
// does not declare to understand: nothing would come of it.
type NodeDeclaredFeatureValidator struct{ lookup Lookup }

var _ Validator = (*NodeDeclaredFeatureValidator)(nil)

// NewNodeDeclaredFeatureValidator returns the plugin.
func NewNodeDeclaredFeatureValidator(lookup Lookup) *NodeDeclaredFeatureValidator {
	return &NodeDeclaredFeatureValidator{lookup}
}

// Name implements Plugin.
func (*NodeDeclaredFeatureValidator) Name() string { return "NodeDeclaredFeatureValidator" }

// Validate implements Validator.
func (p *NodeDeclaredFeatureValidator) Validate(ctx context.Context, a *Attributes) error {
	if a.Operation != Update || (a.Subresource != "" && a.Subresource != "resize") || a.GVR.GroupResource() != corev1.Resource("pods") {
		return nil
	}
	pod, ok := a.Object.(*corev1.Pod)
	old, was := a.OldObject.(*corev1.Pod)
	if !ok || !was || pod.Spec.NodeName == "" || pod.Generation == old.Generation {
		return nil
	}
	all := nodedeclaredfeatures.DefaultFramework
	want, err := all.InferForPodUpdate(&nodedeclaredfeatures.PodInfo{Spec: &old.Spec, Status: &old.Status},
		&nodedeclaredfeatures.PodInfo{Spec: &pod.Spec, Status: &pod.Status}, target.Version())
	if err != nil {
		return Forbidden(a, fmt.Errorf("failed to infer pod capability requirements: %w", err))
	}
	if want.IsEmpty() {
		return nil
	}
	obj, ok := p.lookup.Get(ctx, corev1.Resource("nodes"), "", pod.Spec.NodeName)
	node, is := obj.(*corev1.Node)
	if !ok || !is {
		return Forbidden(a, fmt.Errorf("node %q not found", pod.Spec.NodeName))
	}
	match, err := all.MatchNode(want, node)
	if err != nil {
		return Forbidden(a, fmt.Errorf("failed to match pod requirements against node %q: %w", node.Name, err))
	}
	if !match.IsMatch {
		return Forbidden(a, fmt.Errorf("pod update requires features %s which are not available on node %q",
			strings.Join(match.UnsatisfiedRequirements, ", "), node.Name))
	}
	return nil
}
