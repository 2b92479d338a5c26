package daemonset

import (
	"fmt"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// limits are how far a rollout may go at a time.
type limits struct{ desired, surge, unavailable int }

// surges reports whether a node may have two pods during a rollout.
func (p *pass) surges() bool {
	n, err := scaled(p.rolling().MaxSurge, 1)
	return err == nil && n > 0
}

func (p *pass) rolling() appsv1.RollingUpdateDaemonSet {
	u := p.set.Spec.UpdateStrategy
	if u.Type != appsv1.RollingUpdateDaemonSetStrategyType || u.RollingUpdate == nil {
		return appsv1.RollingUpdateDaemonSet{}
	}
	return *u.RollingUpdate
}

// scaled resolves a number or percentage, rounded up. Unset is zero.
func scaled(v *intstr.IntOrString, total int) (int, error) {
	return intstr.GetScaledValueFromIntOrPercent(intstr.ValueOrDefault(v, intstr.FromInt32(0)), total, true)
}

func (p *pass) limits() (l limits, err error) {
	for _, node := range p.nodes {
		if run, _ := p.placement.on(node); run {
			l.desired++
		}
	}
	if l.unavailable, err = scaled(p.rolling().MaxUnavailable, l.desired); err != nil {
		return l, fmt.Errorf("invalid value for MaxUnavailable: %w", err)
	}
	if l.surge, err = scaled(p.rolling().MaxSurge, l.desired); err != nil {
		return l, fmt.Errorf("invalid value for MaxSurge: %w", err)
	}
	if l.desired > 0 && l.unavailable == 0 && l.surge == 0 {
		l.unavailable = 1 // or nothing would ever move
	}
	return l, nil
}

// rollout says which old pods go next, or where updated ones come beside them.
func (p *pass) rollout() (step, error) {
	l, err := p.limits()
	if err != nil {
		return step{}, err
	}
	if l.surge > 0 {
		return p.surge(l), nil
	}
	return p.replace(l), nil
}

// places are the nodes that the rollout concerns: those that should run a pod
// and those that have one.
func (p *pass) places() []string {
	names := maps.Clone(p.pods)
	for _, node := range p.nodes {
		if run, _ := p.placement.on(node); run {
			names[node.Name] = p.pods[node.Name]
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// pair returns the updated and the old pod of a node, without terminating ones.
// It is not ok with more than one of either: the node is put in order first.
func (p *pass) pair(node string) (updated, old *corev1.Pod, ok bool) {
	for _, pod := range staying(p.pods[node]) {
		of := &old
		if p.updated(pod) {
			of = &updated
		}
		if *of != nil {
			return nil, nil, false
		}
		*of = pod
	}
	return updated, old, true
}

// replace deletes old pods: all that are not available, for they are no loss,
// and of the others as many as may be unavailable besides.
func (p *pass) replace(l limits) step {
	var broken, good []*corev1.Pod
	unavailable := 0
	for _, node := range p.places() {
		updated, old, ok := p.pair(node)
		switch {
		case !ok, (updated == nil) == (old == nil):
			unavailable++ // about to be created, or put in order
		case updated != nil:
			if !p.available(updated) {
				unavailable++
			}
		case !p.available(old):
			broken = append(broken, old)
			unavailable++
		default:
			good = append(good, old)
		}
	}
	budget := max(0, l.unavailable-unavailable)
	return step{delete: append(broken, good[:min(budget, len(good))]...)}
}

// surge creates updated pods beside old ones: at once beside those that are not
// available, and beside as many others as may be too many at a time. An old pod
// goes when the updated one is available.
//
// On a node that should run no pod any more, an available old pod stays until
// enough others are available: with a surge nothing may ever be missing.
func (p *pass) surge(l limits) step {
	var s step
	var candidates []string
	var leaving []*corev1.Pod
	surging, available := 0, 0
	runs := map[string]bool{}
	for _, node := range p.nodes {
		runs[node.Name], _ = p.placement.on(node)
	}
	for _, node := range p.places() {
		updated, old, ok := p.pair(node)
		if !ok {
			surging++
			continue
		}
		oldServes, updatedServes := old != nil && p.available(old), updated != nil && p.available(updated)
		if oldServes || (old == nil && updatedServes) {
			available++
		}
		switch {
		case old == nil:
		case updated == nil && oldServes && !runs[node]:
			leaving = append(leaving, old)
		case updated == nil && oldServes:
			candidates = append(candidates, node)
		case updated == nil && !runs[node]:
			s.delete = append(s.delete, old)
		case updated == nil:
			s.create = append(s.create, node)
		case !updatedServes:
			surging++
		default:
			s.delete = append(s.delete, old)
		}
	}
	s.delete = append(s.delete, leaving[:min(max(0, available-l.desired), len(leaving))]...)
	s.create = append(s.create, candidates[:min(max(0, l.surge-surging), len(candidates))]...)
	return s
}
