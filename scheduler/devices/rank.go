package devices

import (
	"slices"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
)

// Score implements core.DeviceView.
func (v *view) Score(node string) int64 { return v.ranks[node] }

// rank notes how much of what they prefer the pod's claims get on a node.
func (v *view) rank(node string, granted []Reservation) {
	if !slices.ContainsFunc(v.claims, choosy) {
		return
	}
	var sum int64
	for _, c := range v.claims {
		if c.Status.Allocation != nil {
			sum += rank(c, c.Status.Allocation)
		}
	}
	for _, r := range granted {
		sum += rank(r.Claim, r.Allocation)
	}
	if v.ranks == nil {
		v.ranks = map[string]int64{}
	}
	v.ranks[node] = sum
}

// choosy says whether a claim has requests with alternatives.
func choosy(c *resourcev1.ResourceClaim) bool {
	return slices.ContainsFunc(c.Spec.Devices.Requests, func(r resourcev1.DeviceRequest) bool { return len(r.FirstAvailable) > 0 })
}

// rank is the higher the earlier the alternatives come that were taken.
func rank(c *resourcev1.ResourceClaim, a *resourcev1.AllocationResult) (sum int64) {
	for _, r := range c.Spec.Devices.Requests {
		for i, sub := range r.FirstAvailable {
			name := resourceclaim.CreateSubRequestRef(r.Name, sub.Name)
			if slices.ContainsFunc(a.Devices.Results, func(d resourcev1.DeviceRequestAllocationResult) bool { return d.Request == name }) {
				sum += int64(resourcev1.FirstAvailableDeviceRequestMaxSize - i)
			}
		}
	}
	return sum
}
