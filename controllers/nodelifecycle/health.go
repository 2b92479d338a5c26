package nodelifecycle

import (
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
)

// health remembers when each node last showed that it lives. Safe for
// concurrent use.
type health struct {
	clock clock.PassiveClock
	mu    sync.Mutex
	nodes map[string]*signs
}

// signs are the last signs of life. What counts is that they change.
type signs struct {
	at        time.Time
	heartbeat metav1.Time
	renewed   metav1.MicroTime
}

func newHealth(c clock.PassiveClock) *health {
	return &health{clock: c, nodes: map[string]*signs{}}
}

func (h *health) of(name string) *signs {
	s := h.nodes[name]
	if s == nil {
		s = &signs{at: h.clock.Now()}
		h.nodes[name] = s
	}
	return s
}

// status takes in a node's status.
func (h *health) status(n *corev1.Node) {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := ready(n)
	s, known := h.nodes[n.Name]
	if !known {
		s = h.of(n.Name)
		if r == nil {
			// It has been silent since it exists, which may be long.
			s.at = n.CreationTimestamp.Time
		}
	}
	if r != nil && !r.LastHeartbeatTime.Equal(&s.heartbeat) {
		s.heartbeat = r.LastHeartbeatTime
		s.at = h.clock.Now()
	}
}

// lease takes in a node's Lease.
func (h *health) lease(l *coordinationv1.Lease) {
	if l.Spec.RenewTime == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.nodes[l.Name]; s != nil && s.renewed.Before(l.Spec.RenewTime) {
		s.renewed = *l.Spec.RenewTime
		s.at = h.clock.Now()
	}
}

// seen is when a node last showed that it lives.
func (h *health) seen(n *corev1.Node) time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.of(n.Name).at
}

// reset gives every node its full time again.
func (h *health) reset() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.nodes {
		s.at = h.clock.Now()
	}
}

func (h *health) forget(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.nodes, name)
}

func condition(n *corev1.Node, t corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range n.Status.Conditions {
		if n.Status.Conditions[i].Type == t {
			return &n.Status.Conditions[i]
		}
	}
	return nil
}

func ready(n *corev1.Node) *corev1.NodeCondition { return condition(n, corev1.NodeReady) }

// giveUp sets all that only the kubelet can know to Unknown, and reports
// whether that changed anything.
func giveUp(n *corev1.Node, now metav1.Time) bool {
	changed := false
	for _, t := range []corev1.NodeConditionType{
		corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure,
	} {
		c := condition(n, t)
		switch {
		case c == nil:
			n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{
				Type: t, Status: corev1.ConditionUnknown, Reason: "NodeStatusNeverUpdated",
				Message: "Kubelet never posted node status.", LastHeartbeatTime: n.CreationTimestamp, LastTransitionTime: now,
			})
		case c.Status != corev1.ConditionUnknown:
			c.Status, c.Reason, c.Message = corev1.ConditionUnknown, "NodeStatusUnknown", "Kubelet stopped posting node status."
			c.LastTransitionTime = now
		default:
			continue
		}
		changed = true
	}
	return changed
}
