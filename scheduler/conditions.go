package scheduler

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/scheduler/devices"
)

const (
	preBindDevices = `running PreBind plugin "DynamicResources": `

	waitSuccess = "success"
	waitFailed  = "failed"
	waitTimeout = "timeout"
)

// awaited are the resource claims of a parked pod whose devices have to be
// ready; none before the pod's reservations are written, and none afterwards.
type awaited struct {
	claims   []types.NamespacedName
	since    time.Time
	deadline time.Time
}

// doing is what a parked pod waits for, as reports begin.
func (p *parked) doing() string {
	if len(p.plan.Claims()) == 0 {
		return preBindDevices
	}
	return preBind
}

// await begins to wait for the devices of a parked pod.
func (s *Scheduler) await(p *parked) {
	now := time.Now()
	p.devices.since = now
	p.devices.claims, p.devices.deadline = s.devices.Awaited(p.pod.Object, p.claims, now)
	if len(p.devices.claims) > 0 {
		s.recorder(p.pod.Object).Eventf(p.pod.Object, corev1.EventTypeNormal, "BindingConditionsPending",
			"waiting for binding conditions for device on node %s", p.plan.Node)
	}
	s.wakeUp() // there is a deadline
}

// devicesReady says whether a parked pod need not wait for devices any longer.
// It gives up when they will never be ready.
func (s *Scheduler) devicesReady(uid types.UID, p *parked) bool {
	ready := true
	for _, name := range p.devices.claims {
		ok, err := s.devices.Ready(name)
		if err != nil {
			s.waited(p, waitFailed)
			s.giveUp(uid, p, preBindDevices+err.Error())
			return false
		}
		ready = ready && ok
	}
	if ready {
		s.waited(p, waitSuccess)
		p.devices = awaited{} // what happens to them later is not the scheduler's
	}
	return ready
}

// followDevices moves the parked pods on that wait for a claim.
func (s *Scheduler) followDevices(claim *resourcev1.ResourceClaim) {
	name := types.NamespacedName{Namespace: claim.Namespace, Name: claim.Name}
	for uid, p := range s.parked {
		if slices.Contains(p.devices.claims, name) {
			s.unpark(uid, p)
		}
	}
}

// missDevices gives up on the parked pods that wait for a claim that is gone.
func (s *Scheduler) missDevices(claim *resourcev1.ResourceClaim) {
	name := types.NamespacedName{Namespace: claim.Namespace, Name: claim.Name}
	for uid, p := range s.parked {
		if slices.Contains(p.devices.claims, name) {
			s.giveUp(uid, p, preBindDevices+fmt.Sprintf("resourceclaim.resource.k8s.io %q not found", claim.Name))
		}
	}
}

// due says when a parked pod has waited too long, and for what.
func (s *Scheduler) due(p *parked) (deadline time.Time, devices bool) {
	end := p.devices.deadline
	if end.IsZero() || !s.snapshot.ClaimsBound(p.plan) && p.deadline.Before(end) {
		return p.deadline, false
	}
	return end, true
}

// tooLate gives up on a parked pod.
func (s *Scheduler) tooLate(uid types.UID, p *parked, devices bool) {
	if !devices {
		s.giveUp(uid, p, preBind+context.DeadlineExceeded.Error())
		return
	}
	late := p.devices.claims[0]
	for _, name := range p.devices.claims {
		if ok, _ := s.devices.Ready(name); !ok {
			late = name
			break
		}
	}
	s.waited(p, waitTimeout)
	s.giveUp(uid, p, preBindDevices+"device binding timeout: claim="+late.Name)
}

// waited counts how the wait for devices ended.
func (s *Scheduler) waited(p *parked, status string) {
	profile, took := p.pod.Profile().Name, time.Since(p.devices.since).Seconds()
	for _, name := range p.devices.claims {
		for driver, n := range s.devices.Drivers(name) {
			s.counts.waits.WithLabelValues(profile, driver, status).Observe(took)
			s.counts.conditional.WithLabelValues(profile, driver, status).Add(float64(n))
		}
	}
}

// unreserve takes a pod off the claims that it was to use, so that others may
// give them back.
func (s *Scheduler) unreserve(ctx context.Context, pod *corev1.Pod, plan *devices.Plan) {
	s.mu.Lock()
	claims := s.devices.Reserved(pod)
	s.mu.Unlock()
	if plan != nil { // not all of which the cache may know
		s.abandon(ctx, plan)
		for _, r := range plan.Claims {
			if r.Mappings == nil && !slices.ContainsFunc(claims, func(c *resourcev1.ResourceClaim) bool { return c.UID == r.Claim.UID }) {
				claims = append(claims, r.Claim)
			}
		}
	}
	for _, c := range claims {
		body := fmt.Appendf(nil, `{"metadata":{"uid":%q},"status":{"reservedFor":[{"$patch":"delete","uid":%q}]}}`, c.UID, pod.UID)
		bare := &resourcev1.ResourceClaim{}
		bare.Namespace, bare.Name = c.Namespace, c.Name
		err := s.cluster.Client().SubResource("status").Patch(ctx, bare, ctrl.RawPatch(types.StrategicMergePatchType, body))
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) && ctx.Err() == nil {
			s.logger.Warn("withdraw reservation of claim", "claim", c.Namespace+"/"+c.Name, "pod", ctrlKey(pod), "error", err)
		}
	}
}
