package evict

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	helpers "k8s.io/component-helpers/resource"

	"github.com/proa-dev/proa/kubelet/node"
	"github.com/proa-dev/proa/kubelet/pods"
	"github.com/proa-dev/proa/kubelet/status"
)

// candidate is a pod that may be ended.
type candidate struct {
	pod     *corev1.Pod
	use     Use
	request int64
}

// before ranks pods: first those that use more than they asked for, then the
// least important, then the greatest use above the request. Nobody asks for
// process numbers.
func before(a, b candidate, of corev1.ResourceName) int {
	if of != "pids" {
		if x, y := a.use.Total > a.request, b.use.Total > b.request; x != y {
			if x {
				return -1
			}
			return 1
		}
	}
	return cmp.Or(cmp.Compare(priority(a.pod), priority(b.pod)), cmp.Compare(b.use.Total-b.request, a.use.Total-a.request))
}

func priority(pod *corev1.Pod) int32 {
	if pod.Spec.Priority == nil {
		return 0
	}
	return *pod.Spec.Priority
}

// evict ends one pod: the next look tells whether that was enough.
func (e *Evictor) evict(ctx context.Context, signal node.Signal, level node.Level) {
	of := signal.Resource()
	var all []candidate
	for _, p := range e.cfg.Pods() {
		if !mayEnd(p) {
			continue
		}
		request := helpers.PodRequests(p, helpers.PodResourcesOptions{})[of]
		all = append(all, candidate{pod: p, use: e.cfg.Use(ctx, p, of), request: request.Value()})
	}
	if ctx.Err() != nil {
		return
	}
	if len(all) == 0 {
		e.cfg.Logger.Warn("the node is short and no pod can be evicted", "resource", of, "available", level.Available)
		return
	}
	slices.SortStableFunc(all, func(a, b candidate) int { return before(a, b, of) })
	victim := all[0]
	e.cfg.Logger.Warn("pod evicted", "pod", victim.pod.Namespace+"/"+victim.pod.Name, "signal", signal, "available", level.Available)
	verdict := status.Verdict{Phase: corev1.PodFailed, Reason: pods.ReasonEvicted, Message: message(signal, e.cfg.Thresholds[signal], level, victim), Disrupted: true}
	e.end(victim.pod, verdict, signal)
}

// mayEnd says whether a pod can be evicted.
func mayEnd(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && p.Status.Phase != corev1.PodFailed && p.Status.Phase != corev1.PodSucceeded && !pods.IsCritical(p)
}

// end evicts a pod, which has a second left.
func (e *Evictor) end(pod *corev1.Pod, verdict status.Verdict, signal node.Signal) {
	grace := int64(1)
	if err := e.cfg.Evict(pod.UID, verdict, &grace); err != nil {
		e.cfg.Logger.Warn("pod not evicted", "err", err)
	} else if e.cfg.Evicted != nil {
		e.cfg.Evicted(signal)
	}
}

// message says why, in upstream's words.
func message(signal node.Signal, threshold node.Threshold, level node.Level, victim candidate) string {
	of := signal.Resource()
	format := resource.BinarySI
	if of == "pids" {
		format = resource.DecimalSI
	}
	least := threshold.Of(level.Capacity)
	text := fmt.Sprintf("The node was low on resource: %s. Threshold quantity: %s, available: %s. ", of, least.String(),
		resource.NewQuantity(level.Available, format).String())
	if of != corev1.ResourceMemory && of != corev1.ResourceEphemeralStorage {
		return text
	}
	exceeds := func(kind, name string, used int64, request resource.Quantity) {
		text += fmt.Sprintf("%s %s was using %s, request is %s, has larger consumption of %s. ", kind, name,
			resource.NewQuantity(used, resource.BinarySI).String(), request.String(), of)
	}
	if own := victim.pod.Spec.Resources; own != nil && of == corev1.ResourceMemory {
		if request, ok := own.Requests[of]; ok {
			exceeds("Pod", victim.pod.Name, victim.use.Total, request)
		}
	}
	for _, c := range slices.Concat(victim.pod.Spec.Containers, victim.pod.Spec.InitContainers) {
		used, seen := victim.use.Containers[c.Name]
		request := c.Resources.Requests[of]
		if seen && request.CmpInt64(used) < 0 {
			exceeds("Container", c.Name, used, request)
		}
	}
	return text
}
