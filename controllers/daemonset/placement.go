package daemonset

import (
	"slices"

	"github.com/go-logr/logr"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	schedulinghelp "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// placement says which nodes the pods of a set may be on. It is the same for
// all nodes: made once a pass.
type placement struct {
	node        string
	tolerations []corev1.Toleration
	affinity    nodeaffinity.RequiredNodeAffinity
}

func newPlacement(d *appsv1.DaemonSet) *placement {
	spec := &d.Spec.Template.Spec
	return &placement{
		node: spec.NodeName, tolerations: tolerations(spec),
		affinity: nodeaffinity.NewRequiredNodeAffinity(spec.NodeSelector, spec.Affinity),
	}
}

// on reports whether a node should run a pod, and whether a pod that runs there
// may go on.
func (p *placement) on(node *corev1.Node) (run, goOn bool) {
	if p.node != "" && p.node != node.Name {
		return false, false
	}
	// As upstream, an affinity that cannot be parsed matches nothing.
	if ok, err := p.affinity.Match(node); err != nil || !ok {
		return false, false
	}
	if p.tolerates(node, corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute) {
		return true, true
	}
	return false, p.tolerates(node, corev1.TaintEffectNoExecute)
}

func (p *placement) tolerates(node *corev1.Node, effects ...corev1.TaintEffect) bool {
	_, found := schedulinghelp.FindMatchingUntoleratedTaint(logr.Discard(), node.Spec.Taints, p.tolerations,
		func(t *corev1.Taint) bool { return slices.Contains(effects, t.Effect) }, false)
	return !found
}

// tolerations are those of a template and those that each pod of a DaemonSet
// has, so that it stays on its node through all that ails it.
func tolerations(spec *corev1.PodSpec) []corev1.Toleration {
	type taint struct {
		key    string
		effect corev1.TaintEffect
	}
	ours := []taint{
		{corev1.TaintNodeNotReady, corev1.TaintEffectNoExecute},
		{corev1.TaintNodeUnreachable, corev1.TaintEffectNoExecute},
		{corev1.TaintNodeDiskPressure, corev1.TaintEffectNoSchedule},
		{corev1.TaintNodeMemoryPressure, corev1.TaintEffectNoSchedule},
		{corev1.TaintNodePIDPressure, corev1.TaintEffectNoSchedule},
		{corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule},
	}
	if spec.HostNetwork {
		ours = append(ours, taint{corev1.TaintNodeNetworkUnavailable, corev1.TaintEffectNoSchedule})
	}
	all := slices.Clone(spec.Tolerations)
	for _, t := range ours {
		want := corev1.Toleration{Key: t.key, Operator: corev1.TolerationOpExists, Effect: t.effect}
		found := false
		for i := range all {
			if want.MatchToleration(&all[i]) {
				all[i], found = want, true // without an end
			}
		}
		if !found {
			all = append(all, want)
		}
	}
	return all
}

// aimAt makes the affinity of a template select one node by name. The other
// required terms are met already: the node was chosen by them.
func aimAt(a *corev1.Affinity, node string) *corev1.Affinity {
	out := a.DeepCopy()
	if out == nil {
		out = &corev1.Affinity{}
	}
	if out.NodeAffinity == nil {
		out.NodeAffinity = &corev1.NodeAffinity{}
	}
	out.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{{
			Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{node},
		}}}},
	}
	return out
}

// meantFor returns the node that a pod is bound to or made for; empty if none
// can be told.
func meantFor(pod *corev1.Pod) string {
	if pod.Spec.NodeName != "" {
		return pod.Spec.NodeName
	}
	a := pod.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return ""
	}
	for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		for _, f := range term.MatchFields {
			if f.Key == metav1.ObjectNameField && f.Operator == corev1.NodeSelectorOpIn {
				if len(f.Values) != 1 {
					return ""
				}
				return f.Values[0]
			}
		}
	}
	return ""
}
