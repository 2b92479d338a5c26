package core

import (
	"cmp"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	resourcehelpers "k8s.io/component-helpers/resource"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
)

// Pod is what the core needs to know of a pod, computed once from its object.
type Pod struct {
	// Object is shared with the cache and never mutated.
	Object *corev1.Pod
	// Priority is spec.priority, zero when unset.
	Priority int32

	rules    *Profile // of a pod that waits
	needs    needs
	ports    []hostPort
	affinity *podTerms
	keys     *classKeys
}

// Profile is what the pod is placed by.
func (p *Pod) Profile() *Profile { return p.rules }

// UID identifies the pod for as long as it lives.
func (p *Pod) UID() types.UID { return p.Object.UID }

// needs are summed requests. The nonzero pair counts something for containers
// that request nothing, so that those spread too; it is for scores only.
type needs struct {
	cpu, memory, ephemeral int64
	scalars                []scalar
	nonzeroCPU             int64
	nonzeroMemory          int64
}

// scalar is a request for an extended resource or huge pages.
type scalar struct {
	name     corev1.ResourceName
	quantity int64
}

// hostPort is one port claimed on the node's own address.
type hostPort struct {
	ip       string
	protocol corev1.Protocol
	port     int32
}

const anyAddress = "0.0.0.0"

// What a container that requests nothing is taken to need, for scores.
const (
	assumedMilliCPU = 100
	assumedMemory   = 200 << 20
)

// NewPod reads obj, which must stay unchanged. A pod that is to be placed has a
// profile; one that has its node needs none.
func NewPod(obj *corev1.Pod, rules *Profile) *Pod {
	return &Pod{
		rules:    rules,
		Object:   obj,
		Priority: corev1helpers.PodPriority(obj),
		needs:    needsOf(obj),
		ports:    hostPortsOf(obj),
		affinity: termsOf(obj),
	}
}

func needsOf(obj *corev1.Pod) needs {
	opts := resourcehelpers.PodResourcesOptions{
		UseStatusResources: true,
		InPlacePodLevelResourcesVerticalScalingEnabled: true,
	}
	var n needs
	for name, q := range resourcehelpers.PodRequests(obj, opts) {
		switch name {
		case corev1.ResourceCPU:
			n.cpu = clamp(q.MilliValue())
		case corev1.ResourceMemory:
			n.memory = clamp(q.Value())
		case corev1.ResourceEphemeralStorage:
			n.ephemeral = clamp(q.Value())
		default:
			if v := clamp(q.Value()); v > 0 {
				n.scalars = append(n.scalars, scalar{name, v})
			}
		}
	}
	slices.SortFunc(n.scalars, func(a, b scalar) int { return cmp.Compare(a.name, b.name) })
	n.nonzeroCPU, n.nonzeroMemory = n.cpu, n.memory
	if n.cpu == 0 || n.memory == 0 || silentContainer(obj) {
		opts.NonMissingContainerRequests = corev1.ResourceList{
			corev1.ResourceCPU:    *resource.NewMilliQuantity(assumedMilliCPU, resource.DecimalSI),
			corev1.ResourceMemory: *resource.NewQuantity(assumedMemory, resource.DecimalSI),
		}
		list := resourcehelpers.PodRequests(obj, opts)
		n.nonzeroCPU, n.nonzeroMemory = clamp(list.Cpu().MilliValue()), clamp(list.Memory().Value())
	}
	return n
}

// maxQuantity is more than any machine has. Sums of what is clamped to it do
// not overflow, whatever pods and nodes claim.
const maxQuantity = 1 << 53

func clamp(v int64) int64 { return min(max(v, 0), maxQuantity) }

// silentContainer says whether any container leaves cpu or memory out.
func silentContainer(obj *corev1.Pod) bool {
	silent := func(c *corev1.Container) bool {
		_, cpu := c.Resources.Requests[corev1.ResourceCPU]
		_, memory := c.Resources.Requests[corev1.ResourceMemory]
		return !cpu || !memory
	}
	for i := range obj.Spec.Containers {
		if silent(&obj.Spec.Containers[i]) {
			return true
		}
	}
	for i := range obj.Spec.InitContainers {
		if silent(&obj.Spec.InitContainers[i]) {
			return true
		}
	}
	return false
}

func (n *needs) equal(o *needs) bool {
	return n.cpu == o.cpu && n.memory == o.memory && n.ephemeral == o.ephemeral &&
		n.nonzeroCPU == o.nonzeroCPU && n.nonzeroMemory == o.nonzeroMemory && slices.Equal(n.scalars, o.scalars)
}

func hostPortsOf(obj *corev1.Pod) []hostPort {
	var out []hostPort
	add := func(c *corev1.Container) {
		for _, p := range c.Ports {
			if p.HostPort <= 0 {
				continue
			}
			out = append(out, hostPort{
				ip:       cmp.Or(p.HostIP, anyAddress),
				protocol: cmp.Or(p.Protocol, corev1.ProtocolTCP),
				port:     p.HostPort,
			})
		}
	}
	for i := range obj.Spec.Containers {
		add(&obj.Spec.Containers[i])
	}
	for i := range obj.Spec.InitContainers { // sidecars hold their ports for as long as the pod runs
		c := &obj.Spec.InitContainers[i]
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			add(c)
		}
	}
	return out
}

func (p hostPort) conflicts(o hostPort) bool {
	return p.port == o.port && p.protocol == o.protocol &&
		(p.ip == o.ip || p.ip == anyAddress || o.ip == anyAddress)
}

// SameFootprint says whether p and o weigh the same on a node and count the
// same for other pods: replacing one by the other changes no decision.
func (p *Pod) SameFootprint(o *Pod) bool {
	a, b := p.Object, o.Object
	return p.Priority == o.Priority && p.needs.equal(&o.needs) && slices.Equal(p.ports, o.ports) &&
		(a.DeletionTimestamp == nil) == (b.DeletionTimestamp == nil) && maps.Equal(a.Labels, b.Labels)
}
