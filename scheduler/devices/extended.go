package devices

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	resourcehelpers "k8s.io/component-helpers/resource"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/internal/deviceclass"
)

// A pod may ask for devices by the name of an extended resource. On a node that
// has none of that resource itself they are given to the pod through one claim of
// its own, which is made when the pod has a node: what it asks for depends on
// what else the node has.

// Backs says whether devices of some class stand for a resource.
func (d *Devices) Backs(name corev1.ResourceName) bool { return d.resources[name] != nil }

// remap says whether other resources are backed than before.
func (d *Devices) remap() bool {
	was := d.resources
	d.resources = deviceclass.Resources(maps.Values(d.classes))
	return !maps.EqualFunc(was, d.resources, func(a, b *resourcev1.DeviceClass) bool { return a.Name == b.Name })
}

// extended is what a pod asks for by the names of extended resources that
// devices stand for.
type extended struct {
	resources []corev1.ResourceName
	// stale is a claim from an attempt that came to nothing. Its devices may not
	// suit any more, so it has to go before there is another.
	stale *resourcev1.ResourceClaim
}

// extendedOf returns what a pod asks for, nil when that is nothing.
func (d *Devices) extendedOf(pod *corev1.Pod) *extended {
	var e extended
	for name, q := range resourcehelpers.PodRequests(pod, resourcehelpers.PodResourcesOptions{}) {
		if d.Backs(name) && !q.IsZero() {
			e.resources = append(e.resources, name)
		}
	}
	if len(e.resources) == 0 {
		return nil
	}
	slices.Sort(e.resources)
	e.stale = d.extended[owner{pod.Namespace, pod.UID}]
	return &e
}

// owner is a pod. Whoever writes a claim may name any UID in it: those of other
// namespaces are none of its business.
type owner struct {
	namespace string
	uid       types.UID
}

// ownerOf returns the pod that a claim was made for by the scheduler.
func ownerOf(c *resourcev1.ResourceClaim) (owner, bool) {
	ref := metav1.GetControllerOfNoCopy(c)
	if ref == nil || c.Annotations[resourcev1.ExtendedResourceClaimAnnotation] != "true" {
		return owner{}, false
	}
	return owner{c.Namespace, ref.UID}, true
}

// claimOn is the claim that the pod would need on a node, and what of it each
// container gets; nil when the node has all the resources itself.
func (v *view) claimOn(node *corev1.Node) (*resourcev1.ResourceClaim, []corev1.ContainerExtendedResourceRequest) {
	var requests []resourcev1.DeviceRequest
	var mappings []corev1.ContainerExtendedResourceRequest
	for _, name := range v.extended.resources {
		if q := node.Status.Allocatable[name]; q.Sign() > 0 {
			continue
		}
		r, m := requestsFor(v.pod, name, v.devices.resources[name].Name)
		requests, mappings = append(requests, r...), append(mappings, m...)
	}
	if len(requests) == 0 {
		return nil, nil
	}
	slices.SortFunc(requests, func(a, b resourcev1.DeviceRequest) int { return strings.Compare(a.Name, b.Name) })
	return &resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: v.pod.Namespace, GenerateName: v.pod.Name + "-extended-resources-",
			UID:         "of-" + v.pod.UID, // until it has one
			Annotations: map[string]string{resourcev1.ExtendedResourceClaimAnnotation: "true"},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "v1", Kind: "Pod", Name: v.pod.Name, UID: v.pod.UID, Controller: ptr.To(true),
			}},
		},
		Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: requests}},
	}, mappings
}

// requestsFor asks for the devices of one resource. Containers that run side by
// side have devices of their own. Init containers that end before others start
// use what those are going to have; what they need beyond that they share.
func requestsFor(pod *corev1.Pod, name corev1.ResourceName, class string) (requests []resourcev1.DeviceRequest, mappings []corev1.ContainerExtendedResourceRequest) {
	all := slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers)
	brief := func(i int) bool {
		p := all[i].RestartPolicy
		return i < len(pod.Spec.InitContainers) && (p == nil || *p != corev1.ContainerRestartPolicyAlways)
	}
	own := make([]*resourcev1.DeviceRequest, len(all))
	give := func(i int, r *resourcev1.DeviceRequest) {
		mappings = append(mappings, corev1.ContainerExtendedResourceRequest{
			ContainerName: all[i].Name, ResourceName: string(name), RequestName: r.Name,
		})
	}
	for i := range all {
		if n := asks(&all[i], name); n > 0 && !brief(i) {
			own[i] = request(i, &all[i], name, class, n)
			give(i, own[i])
		}
	}
	var shared *resourcev1.DeviceRequest
	var sharing []int // mappings, whose request is known at the end
	for i := range pod.Spec.InitContainers {
		n := asks(&all[i], name)
		if n == 0 || !brief(i) {
			continue
		}
		for _, r := range own[i:] {
			if r != nil && n > 0 {
				give(i, r)
				n -= r.Exactly.Count
			}
		}
		if n <= 0 {
			continue
		}
		more := request(i, &all[i], name, class, n)
		sharing = append(sharing, len(mappings))
		give(i, more)
		if shared == nil || shared.Exactly.Count < n {
			shared = more
		}
	}
	if shared != nil {
		requests = append(requests, *shared)
	}
	for _, i := range sharing {
		mappings[i].RequestName = shared.Name
	}
	for _, r := range own {
		if r != nil {
			requests = append(requests, *r)
		}
	}
	return requests, mappings
}

// asks is how many devices a container wants: there are no parts of one.
func asks(c *corev1.Container, name corev1.ResourceName) int64 {
	q := c.Resources.Requests[name]
	return q.Value()
}

// request is named after the container's place in the pod, and the resource's
// among all that the container requests.
func request(i int, c *corev1.Container, name corev1.ResourceName, class string, n int64) *resourcev1.DeviceRequest {
	at, _ := slices.BinarySearch(slices.Sorted(maps.Keys(c.Resources.Requests)), name)
	return &resourcev1.DeviceRequest{
		Name: fmt.Sprintf("container-%d-request-%d", i, at),
		Exactly: &resourcev1.ExactDeviceRequest{
			DeviceClassName: class, AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: n,
		},
	}
}

// Made says that the claim of a reservation, which a plan only proposed, exists.
func (d *Devices) Made(r *Reservation, claim *resourcev1.ResourceClaim) {
	delete(d.pending, r.Claim.UID)
	d.pending[claim.UID] = r.Allocation
	r.Claim = claim
}

// Stale returns the claim for a pod's extended resources that is left from an
// attempt that came to nothing.
func (d *Devices) Stale(pod *corev1.Pod) *resourcev1.ResourceClaim {
	if e := d.extendedOf(pod); e != nil {
		return e.stale
	}
	return nil
}
