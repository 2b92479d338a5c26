// Package devices allocates devices for resource claims (resource.k8s.io). It
// knows the claims, the devices that nodes offer, and what was promised to
// claims but is not written yet; the choice of devices is made by the allocator
// that upstream publishes.
//
// Devices is not safe for concurrent use.
package devices

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/dynamic-resource-allocation/cel"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	"k8s.io/dynamic-resource-allocation/structured"
	"k8s.io/utils/ptr"

	_ "github.com/proa-dev/proa/internal/expressions" // selectors compute within bounds
	"github.com/proa-dev/proa/scheduler/core"
)

// expressions is how many compiled ones are kept.
const expressions = 1000

// Devices implements core.Devices.
type Devices struct {
	ctx     context.Context // of the allocator's searches
	claims  map[types.NamespacedName]*resourcev1.ResourceClaim
	offers  map[string]offer // by the name of the slice
	rules   map[string]*resourcev1.DeviceTaintRule
	limits  map[string]Limits // by the name of the scheduler
	classes map[string]*resourcev1.DeviceClass
	// resources are the extended ones that classes stand for.
	resources map[corev1.ResourceName]*resourcev1.DeviceClass
	// extended are the claims that were made for extended resources, by pod.
	extended map[owner]*resourcev1.ResourceClaim
	pending  map[types.UID]*resourcev1.AllocationResult
	cache    *cel.Cache
}

// New returns Devices that knows of none. Searches end with ctx.
func New(ctx context.Context) *Devices {
	return &Devices{
		ctx:      ctx,
		claims:   map[types.NamespacedName]*resourcev1.ResourceClaim{},
		offers:   map[string]offer{},
		rules:    map[string]*resourcev1.DeviceTaintRule{},
		limits:   map[string]Limits{},
		classes:  map[string]*resourcev1.DeviceClass{},
		extended: map[owner]*resourcev1.ResourceClaim{},
		pending:  map[types.UID]*resourcev1.AllocationResult{},
		cache:    cel.NewCache(expressions, cel.Features{EnableConsumableCapacity: true}),
	}
}

// features are those that are on in upstream 1.37. FractionalCapacityRange is so
// where nobody has to be compatible with 1.36; validation counts as it does.
func features() structured.Features {
	return structured.Features{
		AdminAccess: true, PrioritizedList: true, PartitionableDevices: true, DeviceTaints: true, ConsumableCapacity: true,
		DeviceBindingAndStatus: true, FractionalCapacityRange: true,
	}
}

func keyOf(c *resourcev1.ResourceClaim) types.NamespacedName {
	return types.NamespacedName{Namespace: c.Namespace, Name: c.Name}
}

// SetClaim adds or replaces a claim.
func (d *Devices) SetClaim(c *resourcev1.ResourceClaim) {
	d.claims[keyOf(c)] = c
	if pod, ok := ownerOf(c); ok {
		d.extended[pod] = c
	}
	if c.Status.Allocation != nil {
		delete(d.pending, c.UID)
	}
}

// RemoveClaim forgets a claim.
func (d *Devices) RemoveClaim(c *resourcev1.ResourceClaim) {
	delete(d.claims, keyOf(c))
	if pod, ok := ownerOf(c); ok && d.extended[pod] != nil && d.extended[pod].UID == c.UID {
		delete(d.extended, pod)
	}
	delete(d.pending, c.UID)
}

// SetClass adds or replaces a device class. It says whether other extended
// resources are backed by devices than before.
func (d *Devices) SetClass(c *resourcev1.DeviceClass) (remapped bool) {
	d.classes[c.Name] = c
	return d.remap()
}

// RemoveClass forgets it.
func (d *Devices) RemoveClass(name string) (remapped bool) {
	delete(d.classes, name)
	return d.remap()
}

// List implements structured.DeviceClassLister.
func (d *Devices) List() ([]*resourcev1.DeviceClass, error) {
	return slices.Collect(maps.Values(d.classes)), nil
}

// Get implements structured.DeviceClassLister.
func (d *Devices) Get(name string) (*resourcev1.DeviceClass, error) {
	if c, ok := d.classes[name]; ok {
		return c, nil
	}
	return nil, apierrors.NewNotFound(resourcev1.Resource("deviceclass"), name)
}

// view is one pod's claims.
type view struct {
	devices   *Devices
	pod       *corev1.Pod
	claims    []*resourcev1.ResourceClaim
	selectors []*nodeaffinity.NodeSelector // of those that are allocated
	missing   []*resourcev1.ResourceClaim  // the others
	extended  *extended                    // nil for none
	spoiled   []*resourcev1.ResourceClaim  // allocated, but in vain
	allocator structured.Allocator
	reasons   map[string]string // of nodes that were checked
	ranks     map[string]int64  // of those, for claims that prefer some devices
	err       error             // that ends the attempt
	taken     *structured.AllocatedState
	places    *places // of all devices, when somebody asks
}

// For implements core.Devices.
func (d *Devices) For(pod *corev1.Pod) (core.DeviceView, string) {
	v, refusal := d.view(pod)
	if v == nil {
		return nil, refusal
	}
	return v, ""
}

func (d *Devices) view(pod *corev1.Pod) (*view, string) {
	v := &view{devices: d, pod: pod}
	claims, refusal := d.claimsOf(pod)
	for _, claim := range claims {
		if refusal == "" {
			refusal = v.add(claim)
		}
	}
	if refusal != "" {
		return nil, refusal
	}
	v.extended = d.extendedOf(pod)
	if len(v.claims) == 0 && v.extended == nil {
		return nil, ""
	}
	if len(v.missing) > 0 || v.extended != nil {
		var err error
		v.taken = d.taken()
		if v.allocator, err = structured.NewAllocator(d.ctx, features(), *v.taken, d, d.tainted(), d.cache); err != nil {
			return nil, err.Error()
		}
	}
	return v, ""
}

// Lacks says that some claim of the pod is yet to be made: it need not try.
func (d *Devices) Lacks(pod *corev1.Pod) bool {
	_, refusal := d.claimsOf(pod)
	return refusal != ""
}

// claimsOf returns the claims that a pod names, or why there are not all.
func (d *Devices) claimsOf(pod *corev1.Pod) (claims []*resourcev1.ResourceClaim, refusal string) {
	for i := range pod.Spec.ResourceClaims {
		name, mustOwn, err := resourceclaim.Name(pod, &pod.Spec.ResourceClaims[i])
		if err != nil {
			return nil, err.Error()
		}
		if name == nil {
			continue // none was made for it, on purpose
		}
		claim, ok := d.claims[types.NamespacedName{Namespace: pod.Namespace, Name: *name}]
		switch {
		case !ok:
			return nil, fmt.Sprintf("resourceclaim.resource.k8s.io %q not found", *name)
		case claim.DeletionTimestamp != nil:
			return nil, fmt.Sprintf("resourceclaim %q is being deleted", claim.Name)
		}
		if mustOwn {
			if err := resourceclaim.IsForPod(pod, claim, false); err != nil {
				return nil, err.Error()
			}
		}
		claims = append(claims, claim)
	}
	return claims, ""
}

func (v *view) add(claim *resourcev1.ResourceClaim) (refusal string) {
	v.claims = append(v.claims, claim)
	if a := claim.Status.Allocation; a != nil {
		if !resourceclaim.CanBeReserved(claim) && !resourceclaim.IsReservedForPod(v.pod, claim, false) {
			return "resourceclaim in use"
		}
		if a.NodeSelector != nil {
			selector, err := nodeaffinity.NewNodeSelector(a.NodeSelector)
			if err != nil {
				return err.Error()
			}
			v.selectors = append(v.selectors, selector)
		}
		if v.devices.spoiled(v.pod, claim) {
			v.spoiled = append(v.spoiled, claim)
		}
		return ""
	}
	if v.devices.pending[claim.UID] != nil {
		return fmt.Sprintf("resource claim %s/%s is in the process of being allocated", claim.Namespace, claim.Name)
	}
	for _, r := range claim.Spec.Devices.Requests {
		switch {
		case r.Exactly != nil:
			refusal = v.checkClass(r.Exactly.DeviceClassName, r.Name)
		case len(r.FirstAvailable) > 0:
			for _, sub := range r.FirstAvailable {
				if refusal == "" {
					refusal = v.checkClass(sub.DeviceClassName, r.Name+"/"+sub.Name)
				}
			}
		default:
			refusal = fmt.Sprintf("resource claim %s/%s, request %s: unknown request type", claim.Namespace, claim.Name, r.Name)
		}
		if refusal != "" {
			return refusal
		}
	}
	v.missing = append(v.missing, claim)
	return ""
}

func (v *view) checkClass(class, request string) string {
	if _, ok := v.devices.classes[class]; !ok {
		return fmt.Sprintf("request %s: device class %s does not exist", request, class)
	}
	return ""
}

// taken are the devices that claims have, or are to have.
func (d *Devices) taken() *structured.AllocatedState {
	state := &structured.AllocatedState{
		AllocatedDevices:         sets.New[structured.DeviceID](),
		AllocatedSharedDeviceIDs: sets.New[structured.SharedDeviceID](),
		AggregatedCapacity:       structured.NewConsumedCapacityCollection(),
	}
	note := func(a *resourcev1.AllocationResult) {
		for _, r := range a.Devices.Results {
			if ptr.Deref(r.AdminAccess, false) {
				continue // looks at the device, does not take it
			}
			id := structured.MakeDeviceID(r.Driver, r.Pool, r.Device)
			if r.ShareID == nil {
				state.AllocatedDevices.Insert(id)
				continue
			}
			state.AllocatedSharedDeviceIDs.Insert(structured.MakeSharedDeviceID(id, r.ShareID))
			if r.ConsumedCapacity != nil {
				state.AggregatedCapacity.Insert(structured.NewDeviceConsumedCapacity(id, r.ConsumedCapacity))
			}
		}
	}
	for _, c := range d.claims {
		if c.Status.Allocation != nil {
			note(c.Status.Allocation)
		}
	}
	for _, a := range d.pending {
		note(a)
	}
	return state
}

// Err implements core.DeviceView.
func (v *view) Err() error { return v.err }

// Check implements core.DeviceView. Nodes are looked at once: those that fail
// are asked again why.
func (v *view) Check(node *corev1.Node) string {
	if v.err != nil {
		return v.err.Error()
	}
	reason, known := v.reasons[node.Name]
	if !known {
		reason = v.check(node)
		if v.reasons == nil {
			v.reasons = map[string]string{}
		}
		v.reasons[node.Name] = reason
	}
	return reason
}

func (v *view) check(node *corev1.Node) string {
	const unavailable = "resourceclaim not available on the node"
	if v.extended != nil && v.extended.stale != nil {
		return "cannot schedule extended resource claim"
	}
	for _, s := range v.selectors {
		if !s.Match(node) {
			return unavailable
		}
	}
	if len(v.spoiled) > 0 {
		return unavailable
	}
	granted, reason := v.allocate(node)
	if reason == "" {
		v.rank(node.Name, granted)
	}
	return reason
}

// allocate finds devices on a node for all claims that have none, the one for
// extended resources last.
func (v *view) allocate(node *corev1.Node) ([]Reservation, string) {
	claims := v.missing
	var mappings []corev1.ContainerExtendedResourceRequest
	if v.extended != nil {
		claim, of := v.claimOn(node)
		if claim != nil {
			claims, mappings = append(slices.Clone(claims), claim), of
		}
	}
	if len(claims) == 0 {
		return nil, ""
	}
	ctx := v.devices.ctx
	if limit := v.devices.limitsOf(v.pod).Filter; limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	results, err := v.allocator.Allocate(ctx, node, claims)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		v.err = fmt.Errorf("node %s: timed out trying to allocate devices", node.Name)
		return nil, v.err.Error()
	case errors.Is(err, structured.ErrFailedAllocationOnNode):
		return nil, err.Error()
	case err != nil:
		v.err = err
		return nil, err.Error()
	case len(results) != len(claims):
		return nil, "cannot allocate all claims"
	}
	out := make([]Reservation, len(claims))
	for i := range claims {
		out[i] = Reservation{Claim: claims[i], Allocation: &results[i]}
	}
	out[len(out)-1].Mappings = mappings
	return out, ""
}

// Plan is what must be written before a pod with resource claims is bound.
type Plan struct {
	Claims []Reservation
}

// Reservation reserves a claim for the pod, after allocating it if need be.
type Reservation struct {
	Claim      *resourcev1.ResourceClaim
	Allocation *resourcev1.AllocationResult
	// Mappings say which container gets what of a claim for extended resources,
	// which is yet to be made. Others have none.
	Mappings []corev1.ContainerExtendedResourceRequest
}

// Plan says how the claims of a pod are met on the node that was chosen, and
// keeps the devices from other pods. nil means that nothing is to be written,
// unless a reason says that the node cannot meet them after all.
func (d *Devices) Plan(pod *corev1.Pod, node *corev1.Node) (plan *Plan, reason string) {
	v, reason := d.view(pod)
	if v == nil {
		return nil, reason
	}
	granted, reason := v.allocate(node)
	if reason != "" {
		return nil, reason
	}
	for _, r := range granted {
		d.pending[r.Claim.UID] = r.Allocation
	}
	for _, c := range v.claims {
		if !slices.Contains(v.missing, c) && !resourceclaim.IsReservedForPod(pod, c, false) {
			granted = append(granted, Reservation{Claim: c})
		}
	}
	if len(granted) == 0 {
		return nil, ""
	}
	return &Plan{Claims: granted}, ""
}

// Withdraw takes the promises of a plan back that were not written.
func (d *Devices) Withdraw(p *Plan) {
	for _, r := range p.Claims {
		if d.pending[r.Claim.UID] == r.Allocation {
			delete(d.pending, r.Claim.UID)
		}
	}
}

// Idle returns an allocated claim of the pod that does not suit any of the
// nodes, or is spoiled, and that nobody else uses: freed, it may be allocated
// elsewhere.
func (d *Devices) Idle(pod *corev1.Pod) *resourcev1.ResourceClaim {
	v, _ := d.view(pod)
	if v == nil {
		return nil
	}
	candidates := v.spoiled
	if len(candidates) == 0 {
		candidates = slices.DeleteFunc(v.claims, func(c *resourcev1.ResourceClaim) bool {
			return c.Status.Allocation == nil || c.Status.Allocation.NodeSelector == nil
		})
	}
	for _, c := range candidates {
		if users := c.Status.ReservedFor; len(users) == 0 || len(users) == 1 && users[0].UID == pod.UID {
			return c
		}
	}
	return nil
}
