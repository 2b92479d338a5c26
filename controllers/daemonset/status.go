package daemonset

import (
	"context"
	"fmt"
	"slices"

	apiequality "k8s.io/apimachinery/pkg/api/equality"

	"github.com/proa-dev/proa/controllers/internal/pods"
)

// writeStatus tells how far the set is. processed says that this pass has acted
// on the generation, and not only counted.
func (p *pass) writeStatus(ctx context.Context, processed bool) error {
	s := *p.set.Status.DeepCopy()
	s.DesiredNumberScheduled, s.CurrentNumberScheduled, s.NumberMisscheduled = 0, 0, 0
	s.NumberReady, s.UpdatedNumberScheduled, s.NumberAvailable = 0, 0, 0
	for _, node := range p.nodes {
		have := p.pods[node.Name]
		run, _ := p.placement.on(node)
		switch {
		case !run && len(have) > 0:
			s.NumberMisscheduled++
		case run:
			s.DesiredNumberScheduled++
		}
		if !run || len(have) == 0 {
			continue
		}
		s.CurrentNumberScheduled++
		oldest := slices.MinFunc(have, compareAge)
		if pods.Ready(oldest) {
			s.NumberReady++
			if p.available(oldest) {
				s.NumberAvailable++
			}
		}
		if p.updated(oldest) {
			s.UpdatedNumberScheduled++
		}
	}
	s.NumberUnavailable = s.DesiredNumberScheduled - s.NumberAvailable
	if processed {
		s.ObservedGeneration = max(s.ObservedGeneration, p.set.Generation)
	}
	if apiequality.Semantic.DeepEqual(p.set.Status, s) {
		return nil
	}
	out := p.set.DeepCopy()
	out.Status = s
	if err := p.env.Cluster.Client().Status().Update(ctx, out); err != nil {
		return fmt.Errorf("store status: %w", err)
	}
	return nil
}
