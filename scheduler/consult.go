package scheduler

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/proa-dev/proa/scheduler/core"
	"github.com/proa-dev/proa/scheduler/extender"
	"github.com/proa-dev/proa/scheduler/queue"
)

// interested says whether any extender has to do with the pod.
func (s *Scheduler) interested(obj *corev1.Pod) bool {
	return slices.ContainsFunc(s.extenders, func(e *extender.Extender) bool { return e.Wants(obj) })
}

func (s *Scheduler) preemptionInterested(obj *corev1.Pod) bool {
	return slices.ContainsFunc(s.extenders, func(e *extender.Extender) bool { return e.Preempts() && e.Wants(obj) })
}

// consult decides about a pod together with extenders. They are asked without
// the lock, and what they chose must still hold afterwards.
func (s *Scheduler) consult(ctx context.Context, it *queue.Item) step {
	pod, nodes, _ := s.look(it, func(pod *core.Pod) ([]core.Feasible, *core.Diagnosis) { return s.snapshot.Nominee(pod), nil })
	if len(nodes) > 0 {
		if kept, _, err := s.filter(ctx, pod.Object, nodes); err == nil && len(kept) > 0 {
			return s.conclude(it, kept, nil, nil, nil)
		}
	}
	pod, nodes, why := s.look(it, s.snapshot.Feasible)
	if pod == nil {
		return step{}
	}
	var rejected []core.Rejected
	var err error
	if why == nil {
		nodes, rejected, err = s.filter(ctx, pod.Object, nodes)
	}
	if err == nil && len(nodes) > 1 {
		s.prioritize(ctx, pod.Object, nodes)
	}
	return s.conclude(it, nodes, why, rejected, err)
}

// look asks the snapshot about a pod that is away; without the pod it is not
// wanted any more.
func (s *Scheduler) look(it *queue.Item, ask func(*core.Pod) ([]core.Feasible, *core.Diagnosis)) (*core.Pod, []core.Feasible, *core.Diagnosis) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a, ok := s.away[it.Pod.UID()]; !ok || a.item != it {
		s.asked = nil
		return nil, nil, nil
	}
	nodes, why := ask(it.Pod)
	return it.Pod, nodes, why
}

func (s *Scheduler) conclude(it *queue.Item, nodes []core.Feasible, why *core.Diagnosis, rejected []core.Rejected, err error) step {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.back(it)
	if !ok {
		return step{}
	}
	now := time.Now()
	pod := it.Pod
	if err != nil {
		return s.fail(it, err, now)
	}
	if why == nil && len(nodes) == 0 {
		why = s.snapshot.Reject(pod, rejected)
	}
	if why != nil {
		next := s.reject(it, why, now)
		s.catchUp(a)
		return next
	}
	slices.SortStableFunc(nodes, func(a, b core.Feasible) int { return int(b.Score - a.Score) })
	for _, n := range nodes {
		if s.snapshot.Passes(pod, n.Node.Name) {
			return s.assign(it, n.Node.Name, now)
		}
	}
	s.queue.Add(pod, now) // all of them changed meanwhile
	return step{}
}

func (s *Scheduler) filter(ctx context.Context, obj *corev1.Pod, nodes []core.Feasible) (kept []core.Feasible, rejected []core.Rejected, err error) {
	for _, e := range s.extenders {
		if len(nodes) == 0 {
			break
		}
		if !e.Wants(obj) {
			continue
		}
		kept, why, err := e.Filter(ctx, obj, nodes)
		switch {
		case err != nil && e.Ignorable():
			s.logger.Info("extender fails and is ignored", "extender", e.Name(), "error", err)
			continue
		case err != nil:
			return nil, nil, fmt.Errorf("extender %s: %w", e.Name(), err)
		}
		nodes, rejected = kept, append(rejected, why...)
	}
	return nodes, rejected, nil
}

// prioritize adds the extenders' scores. One that fails has none.
func (s *Scheduler) prioritize(ctx context.Context, obj *corev1.Pod, nodes []core.Feasible) {
	for _, e := range s.extenders {
		if !e.Wants(obj) {
			continue
		}
		scores, err := e.Prioritize(ctx, obj, nodes)
		if err != nil {
			s.logger.Info("extender gives no scores", "extender", e.Name(), "error", err)
			continue
		}
		for i := range nodes {
			nodes[i].Score += scores[nodes[i].Node.Name]
		}
	}
}

// consultWays lets extenders judge the ways to make room for a pod.
func (s *Scheduler) consultWays(ctx context.Context, it *queue.Item, why *core.Diagnosis, ways []*core.Preemption) step {
	s.mu.Lock()
	pod := it.Pod
	s.mu.Unlock()
	var err error
	for _, e := range s.extenders {
		if len(ways) == 0 {
			break
		}
		if !e.Preempts() || !e.Wants(pod.Object) {
			continue
		}
		var kept []*core.Preemption
		if kept, err = e.Preempt(ctx, pod.Object, ways); err == nil {
			ways = kept
		} else if e.Ignorable() {
			err = nil
		} else {
			break
		}
	}
	return s.concludeWays(it, why, ways, err)
}

func (s *Scheduler) concludeWays(it *queue.Item, why *core.Diagnosis, ways []*core.Preemption, err error) step {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.back(it)
	if !ok {
		return step{}
	}
	if err != nil || len(ways) == 0 {
		reason := "no candidate node for preemption"
		if err != nil {
			reason = err.Error()
		}
		next := s.setAside(it, why.Failed, why.Message()+" preemption: "+reason, time.Now())
		s.catchUp(a)
		return next
	}
	return s.clear(it, why, s.snapshot.Choose(it.Pod, ways))
}
