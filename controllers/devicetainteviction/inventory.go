package devicetainteviction

import (
	"iter"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	"github.com/proa-dev/proa/internal/devicetaint"
)

// rules are those whose taints evict.
type rules []*resourcev1.DeviceTaintRule

// inventory is what is known of devices: who publishes them, and which rules
// evict from them.
type inventory struct {
	mu    sync.RWMutex
	pools map[poolID]pool
	rules map[string]*resourcev1.DeviceTaintRule // with the effect NoExecute, by name
}

type poolID struct{ driver, name string }

// pool is the slices of a pool by name. Those of an older generation than the
// newest one are on their way out.
type pool map[string]*resourcev1.ResourceSlice

func newInventory() *inventory {
	return &inventory{pools: map[poolID]pool{}, rules: map[string]*resourcev1.DeviceTaintRule{}}
}

func poolOf(s *resourcev1.ResourceSlice) poolID { return poolID{s.Spec.Driver, s.Spec.Pool.Name} }

// devices yields those of the newest generation.
func (p pool) devices() iter.Seq[*resourcev1.Device] {
	return func(yield func(*resourcev1.Device) bool) {
		newest := int64(math.MinInt64)
		for _, s := range p {
			newest = max(newest, s.Spec.Pool.Generation)
		}
		for _, s := range p {
			if s.Spec.Pool.Generation != newest {
				continue
			}
			for i := range s.Spec.Devices {
				if !yield(&s.Spec.Devices[i]) {
					return
				}
			}
		}
	}
}

// evicting returns the taints that evict, by device.
func (p pool) evicting() map[string][]resourcev1.DeviceTaint {
	found := map[string][]resourcev1.DeviceTaint{}
	for d := range p.devices() {
		for _, t := range d.Taints {
			if t.Effect == resourcev1.DeviceTaintEffectNoExecute {
				found[d.Name] = append(found[d.Name], t)
			}
		}
	}
	return found
}

// setSlice replaces a slice, or adds or removes one where the other is nil, and
// returns the devices whose taints evict otherwise than before.
func (v *inventory) setSlice(old, s *resourcev1.ResourceSlice) (changed map[poolID][]string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	changed = map[poolID][]string{}
	if old != nil && (s == nil || poolOf(old) != poolOf(s)) {
		v.changePool(poolOf(old), changed, func(p pool) { delete(p, old.Name) })
	}
	if s != nil {
		v.changePool(poolOf(s), changed, func(p pool) { p[s.Name] = s })
	}
	return changed
}

func (v *inventory) changePool(id poolID, changed map[poolID][]string, change func(pool)) {
	p := v.pools[id]
	if p == nil {
		p = pool{}
		v.pools[id] = p
	}
	before := p.evicting()
	change(p)
	after := p.evicting()
	if len(p) == 0 {
		delete(v.pools, id)
	}
	for device, taints := range after {
		if !equality.Semantic.DeepEqual(before[device], taints) {
			changed[id] = append(changed[id], device)
		}
		delete(before, device)
	}
	for device := range before {
		changed[id] = append(changed[id], device)
	}
	if len(changed[id]) == 0 {
		delete(changed, id)
	}
}

// setRule replaces a rule, or adds or removes one where the other is nil, and
// returns those of both that evict.
func (v *inventory) setRule(old, r *resourcev1.DeviceTaintRule) (concerned rules) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if evicts(old) {
		delete(v.rules, old.Name)
		concerned = append(concerned, old)
	}
	if evicts(r) {
		v.rules[r.Name] = r
		concerned = append(concerned, r)
	}
	return concerned
}

func evicts(r *resourcev1.DeviceTaintRule) bool {
	return r != nil && r.Spec.Taint.Effect == resourcev1.DeviceTaintEffectNoExecute
}

// evicting returns the rules that evict.
func (v *inventory) evicting() rules {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return slices.Collect(maps.Values(v.rules))
}

// selected counts the devices that are published and that a rule selects.
func (v *inventory) selected(r *resourcev1.DeviceTaintRule) (n int) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	for id, p := range v.pools {
		for d := range p.devices() {
			if devicetaint.Selects(r, id.driver, id.name, d.Name) {
				n++
			}
		}
	}
	return n
}

// eviction says when a pod must go, and because of which rules; taints that a
// driver publishes have none.
type eviction struct {
	at    time.Time
	rules rules
}

// add joins what is known of another taint: the earliest one counts.
func (e *eviction) add(at time.Time, because *resourcev1.DeviceTaintRule) *eviction {
	if e == nil {
		e = &eviction{at: at}
	}
	if at.Before(e.at) {
		e.at = at
	}
	if because != nil && !slices.Contains(e.rules, because) {
		e.rules = append(e.rules, because)
	}
	return e
}

// claims finds a claim of a namespace by name, nil when there is none.
type claims func(name string) *resourcev1.ResourceClaim

// evictionOf says when a pod must go if these rules evict; nil: it may stay.
func (v *inventory) evictionOf(pod *corev1.Pod, find claims, rules rules) (e *eviction) {
	if pod.Spec.NodeName == "" {
		return nil
	}
	v.mu.RLock()
	defer v.mu.RUnlock()
	for name, mustOwn := range resourceclaim.PodClaims(pod) {
		claim := find(name)
		if claim == nil || claim.Status.Allocation == nil || mustOwn && resourceclaim.IsForPod(pod, claim, false) != nil ||
			!resourceclaim.IsReservedForPod(pod, claim, false) {
			continue // perhaps that of a pod which had its name
		}
		for i := range claim.Status.Allocation.Devices.Results {
			e = v.judge(e, &claim.Status.Allocation.Devices.Results[i], rules)
		}
	}
	return e
}

// judge adds what the taints of an allocated device mean.
func (v *inventory) judge(e *eviction, r *resourcev1.DeviceRequestAllocationResult, rules rules) *eviction {
	for d := range v.pools[poolID{r.Driver, r.Pool}].devices() {
		if d.Name != r.Device {
			continue
		}
		for _, t := range d.Taints {
			if at, ok := due(t, r.Tolerations); ok && t.Effect == resourcev1.DeviceTaintEffectNoExecute {
				e = e.add(at, nil)
			}
		}
		break
	}
	for _, rule := range rules {
		if !devicetaint.Selects(rule, r.Driver, r.Pool, r.Device) {
			continue
		}
		if at, ok := due(rule.Spec.Taint, r.Tolerations); ok {
			e = e.add(at, rule)
		}
	}
	return e
}

// due says when a taint evicts, or that it is tolerated for ever. Of several
// tolerations the shortest counts. One without an effect is for all effects, as
// the API has it, and has no limit; upstream's controller overlooks it.
func due(t resourcev1.DeviceTaint, tolerations []resourcev1.DeviceToleration) (at time.Time, ok bool) {
	t.Effect = resourcev1.DeviceTaintEffectNoExecute
	seconds, tolerated := int64(math.MaxInt64), false
	for _, toleration := range tolerations {
		if !resourceclaim.ToleratesTaint(toleration, t) {
			continue
		}
		if toleration.TolerationSeconds == nil || toleration.Effect == "" {
			return time.Time{}, false
		}
		seconds, tolerated = min(seconds, max(*toleration.TolerationSeconds, 0)), true
	}
	if t.TimeAdded != nil {
		at = t.TimeAdded.Time
	}
	if tolerated {
		const longest = math.MaxInt64 / int64(time.Second)
		at = at.Add(time.Duration(min(seconds, longest)) * time.Second)
	}
	return at, true
}
