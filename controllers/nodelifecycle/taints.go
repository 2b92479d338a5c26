package nodelifecycle

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/node/topology"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// managed are the keys whose NoSchedule taints follow from a node's state.
var managed = []string{
	corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable, corev1.TaintNodeUnschedulable,
	corev1.TaintNodeMemoryPressure, corev1.TaintNodeDiskPressure, corev1.TaintNodePIDPressure, corev1.TaintNodeNetworkUnavailable,
}

// pressures are the conditions that keep new pods away when they are true.
var pressures = map[corev1.NodeConditionType]string{
	corev1.NodeMemoryPressure:     corev1.TaintNodeMemoryPressure,
	corev1.NodeDiskPressure:       corev1.TaintNodeDiskPressure,
	corev1.NodePIDPressure:        corev1.TaintNodePIDPressure,
	corev1.NodeNetworkUnavailable: corev1.TaintNodeNetworkUnavailable,
}

// downTaint is the key that says how a node is down; empty when it is up.
func downTaint(n *corev1.Node) string {
	r := ready(n)
	switch {
	case r == nil || r.Status == corev1.ConditionUnknown:
		return corev1.TaintNodeUnreachable
	case r.Status == corev1.ConditionFalse:
		return corev1.TaintNodeNotReady
	}
	return ""
}

// noSchedule are the keys that keep new pods off a node.
func noSchedule(n *corev1.Node) []string {
	var keys []string
	if ready(n) != nil {
		if key := downTaint(n); key != "" {
			keys = append(keys, key)
		}
	}
	for _, c := range n.Status.Conditions {
		if key := pressures[c.Type]; key != "" && c.Status == corev1.ConditionTrue {
			keys = append(keys, key)
		}
	}
	if n.Spec.Unschedulable {
		keys = append(keys, corev1.TaintNodeUnschedulable)
	}
	return keys
}

// taint brings the node's taints, and the labels that old manifests select by,
// to what its state asks for. after is when to ask again for one that must
// wait.
func (c *controller) taint(ctx context.Context, n *corev1.Node) (after time.Duration, err error) {
	want := map[corev1.Taint]bool{}
	for _, key := range noSchedule(n) {
		want[corev1.Taint{Key: key, Effect: corev1.TaintEffectNoSchedule}] = true
	}
	leaving := false
	if key := downTaint(n); key != "" && ready(n) != nil {
		ok := false
		switch {
		case c.zones.allBlind():
		case evicting(n):
			ok = true // at most the key changes
		default:
			ok, after = c.zones.admit(n)
			if !ok && after == 0 {
				after = c.cfg.Period
			}
		}
		if leaving = ok; ok {
			want[corev1.Taint{Key: key, Effect: corev1.TaintEffectNoExecute}] = true
		}
	}
	taints := apply(n.Spec.Taints, want, metav1.NewTime(c.env.Clock.Now()))
	labels := oldLabels(n)
	if len(labels) == 0 && sameTaints(taints, n.Spec.Taints) {
		return after, nil
	}
	if taints == nil {
		taints = []corev1.Taint{}
	}
	data, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": n.ResourceVersion, "uid": n.UID, "labels": labels},
		"spec":     map[string]any{"taints": taints},
	})
	if err != nil {
		return 0, fmt.Errorf("encode taints: %w", err)
	}
	target := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Name}}
	if err := c.env.Cluster.Client().Patch(ctx, target, client.RawPatch(types.MergePatchType, data)); err != nil {
		return after, err
	}
	if leaving && !evicting(n) {
		c.evictions.WithLabelValues(topology.GetZoneKey(n)).Inc()
	}
	return after, nil
}

// ours reports whether a taint is one that this controller sets and removes.
func ours(t corev1.Taint) bool {
	switch t.Effect {
	case corev1.TaintEffectNoSchedule:
		return slices.Contains(managed, t.Key)
	case corev1.TaintEffectNoExecute:
		return t.Key == corev1.TaintNodeNotReady || t.Key == corev1.TaintNodeUnreachable
	}
	return false
}

// evicting reports whether a node is tainted so that its pods leave.
func evicting(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool {
		return t.Effect == corev1.TaintEffectNoExecute && ours(t)
	})
}

// apply returns taints with ours replaced by the wanted ones. Those that stay
// keep their time, which tolerationSeconds are counted from.
func apply(have []corev1.Taint, want map[corev1.Taint]bool, now metav1.Time) []corev1.Taint {
	var out []corev1.Taint
	for _, t := range have {
		id := corev1.Taint{Key: t.Key, Effect: t.Effect}
		if !ours(t) || want[id] {
			out = append(out, t)
			delete(want, id)
		}
	}
	var added []corev1.Taint
	for t := range want {
		t.TimeAdded = &now
		added = append(added, t)
	}
	slices.SortFunc(added, func(a, b corev1.Taint) int {
		if a.Key+string(a.Effect) < b.Key+string(b.Effect) {
			return -1
		}
		return 1
	})
	return append(out, added...)
}

func sameTaints(a, b []corev1.Taint) bool {
	return slices.EqualFunc(a, b, func(x, y corev1.Taint) bool { return x.Key == y.Key && x.Effect == y.Effect })
}

// oldLabels are the beta labels that a node lacks or that differ from what
// they stand for.
func oldLabels(n *corev1.Node) map[string]string {
	out := map[string]string{}
	for old, label := range map[string]string{
		"beta.kubernetes.io/os": corev1.LabelOSStable, "beta.kubernetes.io/arch": corev1.LabelArchStable,
	} {
		if v, ok := n.Labels[label]; ok && n.Labels[old] != v {
			out[old] = v
		}
	}
	return out
}
