package devices

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
)

// Score implements core.DeviceView.
func (v *view) Score(node *corev1.Node) int64 { return v.scores[node.Name] }

// note keeps the score of a node that a search was successful on.
func (v *view) note(node *corev1.Node, granted []Reservation) {
	var score int64
	for i := range granted {
		score += preference(&granted[i])
	}
	if score == 0 {
		return
	}
	if v.scores == nil {
		v.scores = map[string]int64{}
	}
	v.scores[node.Name] = score
}

// preference is the higher, the more a claim has got of what it names first.
func preference(r *Reservation) (score int64) {
	for _, request := range r.Claim.Spec.Devices.Requests {
		for i, sub := range request.FirstAvailable {
			name := resourceclaim.CreateSubRequestRef(request.Name, sub.Name)
			if slices.ContainsFunc(r.Allocation.Devices.Results, func(d resourcev1.DeviceRequestAllocationResult) bool { return d.Request == name }) {
				score += int64(resourcev1.FirstAvailableDeviceRequestMaxSize - i)
			}
		}
	}
	return score
}
