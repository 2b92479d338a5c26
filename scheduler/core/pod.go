package core

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"

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
	if n, ok := plainNeeds(obj); ok {
		return n
	}
	opts := resourcehelpers.PodResourcesOptions{
		UseStatusResources: true,
		InPlacePodLevelResourcesVerticalScalingEnabled: true,
	}
	var n needs
	requests := resourcehelpers.PodRequests(obj, opts)
	for name, q := range requests {
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
		if resourcehelpers.IsPodLevelRequestsSet(obj) { // what the pod as a whole says is enough
			maps.DeleteFunc(opts.NonMissingContainerRequests, func(name corev1.ResourceName, _ resource.Quantity) bool {
				_, said := requests[name]
				return said
			})
		}
		list := resourcehelpers.PodRequests(obj, opts)
		n.nonzeroCPU, n.nonzeroMemory = clamp(list.Cpu().MilliValue()), clamp(list.Memory().Value())
	}
	return n
}

// plainNeeds is needsOf for nearly all pods: containers alone, with whole
// requests of the usual resources, and not resized. It makes nothing, and every
// pod that is bound anywhere comes by here.
func plainNeeds(obj *corev1.Pod) (needs, bool) {
	var n needs
	if len(obj.Spec.InitContainers) > 0 || obj.Spec.Overhead != nil || obj.Spec.Resources != nil || len(obj.Status.ContainerStatuses) > 0 {
		return n, false
	}
	for i := range obj.Spec.Containers {
		cpu, memory := int64(assumedMilliCPU), int64(assumedMemory)
		for name, q := range obj.Spec.Containers[i].Resources.Requests {
			v := q.Value()
			if q.CmpInt64(v) != 0 && name != corev1.ResourceCPU {
				return n, false // sums round once, at the end
			}
			switch name {
			case corev1.ResourceCPU:
				cpu = clamp(q.MilliValue())
				n.cpu += cpu
			case corev1.ResourceMemory:
				memory = clamp(v)
				n.memory += memory
			case corev1.ResourceEphemeralStorage:
				n.ephemeral += clamp(v)
			default:
				return n, false
			}
		}
		n.nonzeroCPU += cpu
		n.nonzeroMemory += memory
	}
	n.cpu, n.memory, n.ephemeral = clamp(n.cpu), clamp(n.memory), clamp(n.ephemeral)
	n.nonzeroCPU, n.nonzeroMemory = clamp(n.nonzeroCPU), clamp(n.nonzeroMemory)
	return n, true
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

// classKeys name what a pod shares with others.
type classKeys struct {
	placement string // what is compared with the node object alone
	class     string // placement, resources, ports and images
	pinned    []string
	isPinned  bool
	images    []string
	parts     int // images and containers that count for ImageLocality
	hard      []*spreadTerm
	soft      []*spreadTerm
	terms     string // of affinity and spreading
}

// names says whether a pinned pod names the node.
func (k *classKeys) names(node string) bool {
	_, found := slices.BinarySearch(k.pinned, node)
	return found
}

// Class is equal for pods to which MightFit and FitsNow give equal answers.
func (p *Pod) Class() string { return p.classify().class }

// classify computes the keys of a pending pod. Pods whose keys are equal get
// the same verdict and score on every node, topology aside.
func (p *Pod) classify() *classKeys {
	if p.keys != nil {
		return p.keys
	}
	k := &classKeys{}
	spec := &p.Object.Spec
	var affinity *corev1.NodeAffinity
	if spec.Affinity != nil {
		affinity = spec.Affinity.NodeAffinity
	}
	if p.rules.Filters.Has(NodeAffinity) {
		k.pinned, k.isPinned = pinnedNodes(affinity)
	}
	b := p.appendPlacement(make([]byte, 0, 256), affinity)
	k.placement = string(b)
	b = p.appendNeeds(b)
	for i := range spec.InitContainers {
		k.images = append(k.images, imageName(spec.InitContainers[i].Image))
	}
	for i := range spec.Containers {
		k.images = append(k.images, imageName(spec.Containers[i].Image))
	}
	for _, v := range spec.Volumes {
		if v.Image != nil {
			k.images = append(k.images, imageName(v.Image.Reference))
		}
	}
	k.parts = len(k.images)
	for _, image := range k.images {
		b = appendString(b, image)
	}
	k.class = string(b)
	k.hard, k.soft = spreadTermsOf(p.Object)
	k.terms = p.termKeys(k)
	p.keys = k
	return k
}

func (p *Pod) appendPlacement(b []byte, affinity *corev1.NodeAffinity) []byte {
	spec := &p.Object.Spec
	b = appendString(b, p.rules.Name)
	for _, name := range slices.Sorted(maps.Keys(spec.NodeSelector)) {
		b = appendString(appendString(b, name), spec.NodeSelector[name])
	}
	b = append(b, '|')
	for i := range spec.Tolerations {
		t := &spec.Tolerations[i]
		b = appendString(appendString(b, t.Key), t.Value)
		b = appendString(appendString(b, string(t.Operator)), string(t.Effect))
	}
	b = append(b, '|')
	if affinity != nil {
		raw, err := json.Marshal(affinity)
		if err != nil { // plain data always marshals; were it not so, share with nobody
			raw = []byte(p.Object.UID)
		}
		b = append(b, raw...)
	}
	if features := featuresOf(p.Object); !features.IsEmpty() {
		b = appendString(append(b, '|'), features.String())
	}
	return b
}

func (p *Pod) appendNeeds(b []byte) []byte {
	b = appendInts(append(b, '|'), p.needs.cpu, p.needs.memory, p.needs.ephemeral, p.needs.nonzeroCPU, p.needs.nonzeroMemory)
	for _, s := range p.needs.scalars {
		b = appendInts(appendString(b, string(s.name)), s.quantity)
	}
	b = append(b, '|')
	for _, port := range p.ports {
		b = appendInts(appendString(appendString(b, port.ip), string(port.protocol)), int64(port.port))
	}
	return append(b, '|')
}

// termKeys is equal for pods that ask the same of other pods. Whether they
// match their own terms is added by the snapshot, which knows namespaces.
func (p *Pod) termKeys(k *classKeys) string {
	var b strings.Builder
	add := func(kind byte, t *term, weight int64) {
		b.WriteByte(kind)
		b.WriteString(t.key)
		b.WriteString(strconv.FormatInt(weight, 10))
	}
	if a := p.affinity; a != nil {
		for _, t := range a.near {
			add('n', t, 0)
		}
		for _, t := range a.apart {
			add('a', t, 0)
		}
		for _, w := range a.preferred {
			add('p', w.term, w.weight)
		}
	}
	for _, t := range slices.Concat(k.hard, k.soft) {
		add('s', &t.term, 0)
		b.WriteString(t.topologyKey)
		b.Write(appendInts(nil, int64(t.maxSkew), int64(t.minDomains), bit(t.hard), bit(t.honorAffinity), bit(t.honorTaints)))
	}
	return b.String()
}

func bit(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// appendString keeps its parts apart, whatever they contain.
func appendString(b []byte, s string) []byte {
	b = strconv.AppendInt(b, int64(len(s)), 10)
	b = append(b, ':')
	return append(b, s...)
}

func appendInts(b []byte, values ...int64) []byte {
	for _, v := range values {
		b = append(strconv.AppendInt(b, v, 36), ',')
	}
	return b
}

// pinnedNodes returns the nodes that the required terms name by
// metadata.name, and whether every term does: then no other node matters,
// which is how the pods of a DaemonSet stay cheap.
func pinnedNodes(affinity *corev1.NodeAffinity) ([]string, bool) {
	if affinity == nil || affinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return nil, false
	}
	terms := affinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	var all []string
	for i := range terms {
		var names []string
		named := false
		for _, r := range terms[i].MatchFields {
			if r.Key != "metadata.name" || r.Operator != corev1.NodeSelectorOpIn {
				continue
			}
			if !named {
				named, names = true, slices.Clone(r.Values)
			} else {
				names = slices.DeleteFunc(names, func(n string) bool { return !slices.Contains(r.Values, n) })
			}
		}
		if !named {
			return nil, false
		}
		all = append(all, names...)
	}
	slices.Sort(all)
	return slices.Compact(all), len(terms) > 0
}
