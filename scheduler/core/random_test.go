package core_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/proa-dev/proa/scheduler/core"
)

var (
	writeTo   = flag.String("random-cases", "", "directory in which to write cases drawn at random, with our decisions")
	firstSeed = flag.Uint64("random-seed", 1, "of the first case")
	howMany   = flag.Int("random-count", 200, "how many cases")
)

// TestRandomCases draws small clusters at random: Schedule, with its buckets,
// must choose one of the best nodes that are found by looking at each. With
// -random-cases it writes them, for upstream's scheduler to judge.
func TestRandomCases(t *testing.T) {
	var cases []*decision
	for i := range *howMany {
		d := drawCase(*firstSeed + uint64(i))
		d.answer(t)
		d.run(t)
		cases = append(cases, d)
	}
	if *writeTo == "" {
		return
	}
	raw, err := yaml.Marshal(cases)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(*writeTo, fmt.Sprintf("random-%d.yaml", *firstSeed)), raw, 0o600); err != nil {
		t.Fatal(err)
	}
}

// answer notes our decision as what is wanted.
func (d *decision) answer(t *testing.T) {
	rules := d.profile(t)
	s := d.cluster(rules)
	p := core.NewPod(complete(&d.Pod), rules)
	list, why := s.Feasible(p)
	if why == nil {
		best := slices.MaxFunc(list, func(a, b core.Feasible) int { return int(a.Score - b.Score) })
		for _, f := range list {
			if f.Score == best.Score {
				d.Want.Nodes = append(d.Want.Nodes, f.Node.Name)
			}
		}
		slices.Sort(d.Want.Nodes)
		return
	}
	d.Want.Message = why.Message()
	var budgets []*policyv1.PodDisruptionBudget
	for i := range d.Budgets {
		budgets = append(budgets, &d.Budgets[i])
	}
	way, reason, _ := s.Preempt(p, why, budgets)
	d.Want.Preempt = &preemption{Reason: reason}
	if way != nil {
		d.Want.Preempt.Node = way.Node
		for _, v := range way.Victims {
			d.Want.Preempt.Victims = append(d.Want.Preempt.Victims, v.Object.Name)
		}
		slices.Sort(d.Want.Preempt.Victims)
	}
}

// drawing makes one random case.
type drawing struct{ *rand.Rand }

func (r drawing) chance(percent int) bool { return r.IntN(100) < percent }

func one[T any](r drawing, from ...T) T { return from[r.IntN(len(from))] }

func drawCase(seed uint64) *decision {
	r := drawing{rand.New(rand.NewPCG(seed, 7))}
	d := &decision{Name: fmt.Sprint(seed)}
	for _, name := range []string{"default", "red", "blue"} {
		d.Namespaces = append(d.Namespaces, corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: map[string]string{"team": one(r, "a", "b")},
		}})
	}
	d.Services = []corev1.Service{{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "x"}}}}
	d.ReplicaSets = []appsv1.ReplicaSet{{
		ObjectMeta: metav1.ObjectMeta{Name: "rs", Namespace: "default", UID: "rs"},
		Spec:       appsv1.ReplicaSetSpec{Selector: r.selector()},
	}}
	for i := range 2 + r.IntN(5) {
		d.Nodes = append(d.Nodes, r.node(fmt.Sprintf("n%d", i)))
	}
	crowd := one(r, 3, 10, 20)
	for i := range r.IntN(crowd) {
		p := r.pod(fmt.Sprintf("p%d", i), i)
		p.Spec.NodeName = d.Nodes[r.IntN(len(d.Nodes))].Name
		if r.chance(8) {
			p.DeletionTimestamp, p.Finalizers = &metav1.Time{Time: time.Unix(2000, 0)}, []string{"x/y"}
		}
		if r.chance(6) && p.DeletionTimestamp == nil {
			p.Status.NominatedNodeName, p.Spec.NodeName, p.Status.StartTime = p.Spec.NodeName, "", nil
			if p.Spec.Affinity != nil { // upstream forgets it where no pod on a node has any
				p.Spec.Affinity.PodAntiAffinity = nil
			}
		}
		d.Pods = append(d.Pods, p)
	}
	for i := range r.IntN(3) {
		d.Budgets = append(d.Budgets, policyv1.PodDisruptionBudget{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("b%d", i)},
			Spec:       policyv1.PodDisruptionBudgetSpec{Selector: r.selector(), MinAvailable: ptr.To(intstr.FromInt32(1))},
			Status:     policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: int32(r.IntN(3))},
		})
	}
	if len(d.Budgets) == 2 {
		d.Budgets = d.Budgets[:1] // of two for one pod the order matters, and is nowhere said
	}
	d.Pod = r.pod("pod", 99)
	d.Pod.Status.StartTime = nil
	d.Pod.Spec.Resources = nil // upstream's scores forget those of the pod itself
	if r.chance(30) {
		r.storage(d)
	}
	if r.chance(30) {
		d.Profile = json.RawMessage(one(r, profiles()...))
	}
	return d
}

func (r drawing) node(name string) corev1.Node {
	n := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{}}}
	if r.chance(85) {
		n.Labels["topology.kubernetes.io/zone"] = one(r, "z1", "z2", "z3")
	}
	if r.chance(60) {
		n.Labels["rack"] = one(r, "1", "2", "30")
	}
	if r.chance(50) {
		n.Labels["disk"] = one(r, "ssd", "hdd")
	}
	n.Status.Allocatable = corev1.ResourceList{
		"cpu": resource.MustParse(one(r, "2", "4", "8")), "memory": resource.MustParse(one(r, "4Gi", "8Gi", "7G")),
		"ephemeral-storage": resource.MustParse("10Gi"), "pods": resource.MustParse(one(r, "4", "10", "10", "110")),
	}
	if r.chance(40) {
		n.Status.Allocatable["example.com/gpu"] = resource.MustParse(one(r, "1", "2"))
	}
	if r.chance(20) {
		n.Status.Allocatable["hugepages-2Mi"] = resource.MustParse("64Mi")
	}
	n.Spec.Unschedulable = r.chance(7)
	for range r.IntN(3) {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{
			Key: one(r, "t", "u"), Value: one(r, "", "v"),
			Effect: one(r, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute),
		})
	}
	for _, image := range []string{"app:latest", "big:1"} {
		if r.chance(40) {
			n.Status.Images = append(n.Status.Images, corev1.ContainerImage{Names: []string{image}, SizeBytes: map[string]int64{"app:latest": 300 << 20, "big:1": 2 << 30}[image]})
		}
	}
	return n
}

func (r drawing) selector() *metav1.LabelSelector {
	switch r.IntN(8) {
	case 0:
		return &metav1.LabelSelector{}
	case 1:
		return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: metav1.LabelSelectorOpNotIn, Values: []string{"y"}}}}
	case 2:
		return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "tier", Operator: metav1.LabelSelectorOpExists}}}
	}
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": one(r, "x", "y")}}
}

func (r drawing) key() string {
	return one(r, "topology.kubernetes.io/zone", "topology.kubernetes.io/zone", "rack", "kubernetes.io/hostname")
}

func (r drawing) term() corev1.PodAffinityTerm {
	t := corev1.PodAffinityTerm{TopologyKey: r.key(), LabelSelector: r.selector()}
	switch r.IntN(8) {
	case 0:
		t.NamespaceSelector = &metav1.LabelSelector{}
	case 1:
		t.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": one(r, "a", "b")}}
	case 2:
		t.Namespaces = []string{one(r, "red", "blue", "default")}
	case 3:
		t.Namespaces = []string{"red"}
		t.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": one(r, "a", "b")}}
	case 4:
		t.LabelSelector = nil
	}
	return t
}

func (r drawing) nodeTerm() corev1.NodeSelectorTerm {
	e := corev1.NodeSelectorRequirement{Key: "disk", Operator: one(r, corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn), Values: []string{"ssd"}}
	switch r.IntN(6) {
	case 0:
		e = corev1.NodeSelectorRequirement{Key: "rack", Operator: one(r, corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt), Values: []string{one(r, "1", "10", "30")}}
	case 1:
		e = corev1.NodeSelectorRequirement{Key: "rack", Operator: one(r, corev1.NodeSelectorOpExists, corev1.NodeSelectorOpDoesNotExist)}
	case 2:
		return corev1.NodeSelectorTerm{MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: one(r, corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn), Values: []string{one(r, "n0", "n1", "n2")}}}}
	case 3:
		if r.chance(20) {
			return corev1.NodeSelectorTerm{}
		}
	}
	return corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{e}}
}

func (r drawing) container(name string) corev1.Container {
	c := corev1.Container{Name: name, Image: one(r, "app", "app", "big:1", "none:2"), Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{}}}
	ask := c.Resources.Requests
	if r.chance(75) {
		ask["cpu"] = resource.MustParse(one(r, "0", "100m", "500m", "1", "1500m", "3"))
	}
	if r.chance(70) {
		ask["memory"] = resource.MustParse(one(r, "0", "128Mi", "1Gi", "3G"))
	}
	if r.chance(10) {
		ask["ephemeral-storage"] = resource.MustParse(one(r, "1Gi", "6Gi"))
	}
	if r.chance(8) {
		ask["example.com/gpu"] = resource.MustParse("1")
	}
	if r.chance(3) {
		ask["hugepages-2Mi"] = resource.MustParse("32Mi")
	}
	if r.chance(10) {
		c.Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: int32(one(r, 80, 81)), HostIP: one(r, "", "0.0.0.0", "127.0.0.1", "10.0.0.1"), Protocol: one(r, corev1.ProtocolTCP, corev1.ProtocolUDP, "")}}
	}
	return c
}

func (r drawing) pod(name string, i int) corev1.Pod {
	p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Name: name, Namespace: one(r, "default", "default", "default", "red", "blue"), UID: types.UID(name), Labels: map[string]string{},
	}}
	if r.chance(80) {
		p.Labels["app"] = one(r, "x", "y")
	}
	if r.chance(30) {
		p.Labels["tier"] = one(r, "1", "2")
	}
	if r.chance(30) && p.Namespace == "default" {
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "rs", UID: "rs", Controller: ptr.To(true)}}
	}
	p.Status.StartTime = &metav1.Time{Time: time.Unix(int64(1000+i*37%101), 0)}
	if r.chance(60) {
		p.Spec.Priority = ptr.To(int32(one(r, -5, 0, 5, 10)))
	}
	if r.chance(4) {
		p.Spec.PreemptionPolicy = ptr.To(corev1.PreemptNever)
	}
	r.size(&p.Spec)
	r.wishes(&p.Spec)
	r.company(&p.Spec)
	return p
}

func (r drawing) size(spec *corev1.PodSpec) {
	for i := range 1 + r.IntN(2) {
		spec.Containers = append(spec.Containers, r.container(fmt.Sprintf("c%d", i)))
	}
	if r.chance(12) {
		for i := range 1 + r.IntN(2) {
			c := r.container(fmt.Sprintf("i%d", i))
			if r.chance(50) {
				c.RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways)
			}
			spec.InitContainers = append(spec.InitContainers, c)
		}
	}
	if r.chance(6) {
		spec.Overhead = corev1.ResourceList{"cpu": resource.MustParse("250m"), "memory": resource.MustParse("100Mi")}
	}
	if r.chance(8) {
		spec.Resources = &corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse(one(r, "1", "4"))}}
		if r.chance(50) {
			spec.Resources.Requests["memory"] = resource.MustParse("4Gi")
		}
	}
}

// wishes are what a pod asks of nodes.
func (r drawing) wishes(spec *corev1.PodSpec) {
	for range r.IntN(3) {
		t := corev1.Toleration{Key: one(r, "t", "u"), Operator: one(r, corev1.TolerationOpExists, corev1.TolerationOpEqual, ""), Effect: one(r, "", corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute)}
		if t.Operator != corev1.TolerationOpExists {
			t.Value = one(r, "", "v")
		}
		spec.Tolerations = append(spec.Tolerations, t)
	}
	if r.chance(10) {
		spec.Tolerations = append(spec.Tolerations, corev1.Toleration{Operator: corev1.TolerationOpExists})
	}
	if r.chance(8) {
		spec.NodeSelector = map[string]string{"disk": "ssd"}
	}
	if !r.chance(25) {
		return
	}
	a := &corev1.NodeAffinity{}
	if r.chance(50) {
		a.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{}
		for range 1 + r.IntN(2) {
			terms := &a.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
			*terms = append(*terms, r.nodeTerm())
		}
	}
	for range r.IntN(3) {
		a.PreferredDuringSchedulingIgnoredDuringExecution = append(a.PreferredDuringSchedulingIgnoredDuringExecution,
			corev1.PreferredSchedulingTerm{Weight: int32(1 + r.IntN(100)), Preference: r.nodeTerm()})
	}
	spec.Affinity = &corev1.Affinity{NodeAffinity: a}
}

// company is what a pod asks of other pods.
func (r drawing) company(spec *corev1.PodSpec) {
	if r.chance(35) {
		if spec.Affinity == nil {
			spec.Affinity = &corev1.Affinity{}
		}
		near, apart := &corev1.PodAffinity{}, &corev1.PodAntiAffinity{}
		weighted := func() corev1.WeightedPodAffinityTerm {
			return corev1.WeightedPodAffinityTerm{Weight: int32(1 + r.IntN(100)), PodAffinityTerm: r.term()}
		}
		for range 1 + r.IntN(2) {
			switch r.IntN(6) {
			case 0:
				near.RequiredDuringSchedulingIgnoredDuringExecution = append(near.RequiredDuringSchedulingIgnoredDuringExecution, r.term())
			case 1:
				apart.RequiredDuringSchedulingIgnoredDuringExecution = append(apart.RequiredDuringSchedulingIgnoredDuringExecution, r.term())
			case 2, 3:
				near.PreferredDuringSchedulingIgnoredDuringExecution = append(near.PreferredDuringSchedulingIgnoredDuringExecution, weighted())
			default:
				apart.PreferredDuringSchedulingIgnoredDuringExecution = append(apart.PreferredDuringSchedulingIgnoredDuringExecution, weighted())
			}
		}
		spec.Affinity.PodAffinity, spec.Affinity.PodAntiAffinity = near, apart
	}
	if !r.chance(30) {
		return
	}
	for range 1 + r.IntN(2) {
		c := corev1.TopologySpreadConstraint{
			MaxSkew: int32(1 + r.IntN(3)), TopologyKey: r.key(), LabelSelector: r.selector(),
			WhenUnsatisfiable: one(r, corev1.DoNotSchedule, corev1.ScheduleAnyway),
		}
		if r.chance(25) && c.WhenUnsatisfiable == corev1.DoNotSchedule {
			c.MinDomains = ptr.To(int32(1 + r.IntN(4)))
		}
		policies := []*corev1.NodeInclusionPolicy{nil, ptr.To(corev1.NodeInclusionPolicyHonor), ptr.To(corev1.NodeInclusionPolicyIgnore)}
		c.NodeAffinityPolicy, c.NodeTaintsPolicy = one(r, policies...), one(r, policies...)
		if r.chance(15) {
			c.MatchLabelKeys = []string{one(r, "tier", "app")}
		}
		spec.TopologySpreadConstraints = append(spec.TopologySpreadConstraints, c)
	}
}

func profiles() []string {
	return []string{
		`{"pluginConfig":[{"name":"NodeResourcesFit","args":{"scoringStrategy":{"type":"MostAllocated","resources":[{"name":"cpu","weight":3},{"name":"memory","weight":1},{"name":"example.com/gpu","weight":5}]}}}]}`,
		`{"pluginConfig":[{"name":"NodeResourcesFit","args":{"scoringStrategy":{"type":"LeastAllocated","resources":[{"name":"cpu","weight":2},{"name":"ephemeral-storage","weight":1},{"name":"example.com/gpu","weight":1}]},"ignoredResources":["example.com/gpu"]}}]}`,
		`{"pluginConfig":[{"name":"NodeResourcesFit","args":{"scoringStrategy":{"type":"RequestedToCapacityRatio","resources":[{"name":"cpu","weight":1},{"name":"memory","weight":2}],"requestedToCapacityRatio":{"shape":[{"utilization":0,"score":2},{"utilization":40,"score":10},{"utilization":100,"score":1}]}}}}]}`,
		`{"pluginConfig":[{"name":"NodeResourcesBalancedAllocation","args":{"resources":[{"name":"cpu","weight":1},{"name":"memory","weight":1},{"name":"example.com/gpu","weight":1},{"name":"ephemeral-storage","weight":1}]}}]}`,
		`{"pluginConfig":[{"name":"InterPodAffinity","args":{"hardPodAffinityWeight":50}},{"name":"NodeAffinity","args":{"addedAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{"nodeSelectorTerms":[{"matchExpressions":[{"key":"rack","operator":"NotIn","values":["2"]}]}]},"preferredDuringSchedulingIgnoredDuringExecution":[{"weight":20,"preference":{"matchExpressions":[{"key":"disk","operator":"Exists"}]}}]}}}]}`,
		`{"pluginConfig":[{"name":"InterPodAffinity","args":{"hardPodAffinityWeight":0,"ignorePreferredTermsOfExistingPods":true}}]}`,
		`{"pluginConfig":[{"name":"PodTopologySpread","args":{"defaultingType":"List","defaultConstraints":[{"maxSkew":1,"topologyKey":"topology.kubernetes.io/zone","whenUnsatisfiable":"DoNotSchedule"},{"maxSkew":2,"topologyKey":"rack","whenUnsatisfiable":"ScheduleAnyway"}]}}]}`,
		`{"plugins":{"multiPoint":{"disabled":[{"name":"PodTopologySpread"},{"name":"ImageLocality"}]}}}`,
		`{"plugins":{"score":{"disabled":[{"name":"InterPodAffinity"},{"name":"TaintToleration"}],"enabled":[{"name":"TaintToleration","weight":7}]},"filter":{"disabled":[{"name":"TaintToleration"}]}}}`,
		`{"plugins":{"filter":{"disabled":[{"name":"InterPodAffinity"},{"name":"NodePorts"}]}}}`,
	}
}

// storage gives pods volumes, of every sort that says something about nodes.
func (r drawing) storage(d *decision) {
	wait, now := storagev1.VolumeBindingWaitForFirstConsumer, storagev1.VolumeBindingImmediate
	d.Classes = []storagev1.StorageClass{
		{ObjectMeta: metav1.ObjectMeta{Name: "local"}, Provisioner: "kubernetes.io/no-provisioner", VolumeBindingMode: &wait},
		{ObjectMeta: metav1.ObjectMeta{Name: "csi"}, Provisioner: "csi.example.com", VolumeBindingMode: &wait},
		{ObjectMeta: metav1.ObjectMeta{Name: "zonal"}, Provisioner: "csi.example.com", VolumeBindingMode: &wait, AllowedTopologies: []corev1.TopologySelectorTerm{{
			MatchLabelExpressions: []corev1.TopologySelectorLabelRequirement{{Key: "topology.kubernetes.io/zone", Values: []string{"z1", "z2"}}}}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "now"}, Provisioner: "csi.example.com", VolumeBindingMode: &now},
	}
	d.Drivers = []storagev1.CSIDriver{{ObjectMeta: metav1.ObjectMeta{Name: "csi.example.com"}, Spec: storagev1.CSIDriverSpec{StorageCapacity: ptr.To(r.chance(50))}}}
	for i := range d.Nodes {
		n := storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: d.Nodes[i].Name}}
		if r.chance(80) {
			n.Spec.Drivers = []storagev1.CSINodeDriver{{Name: "csi.example.com", NodeID: d.Nodes[i].Name}}
			if r.chance(60) {
				n.Spec.Drivers[0].Allocatable = &storagev1.VolumeNodeResources{Count: ptr.To(int32(r.IntN(4)))}
			}
		}
		d.StorageNodes = append(d.StorageNodes, n)
	}
	for i, zone := range []string{"z1", "z2", "z3"} {
		c := storagev1.CSIStorageCapacity{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("c%d", i)}, StorageClassName: one(r, "csi", "zonal"), Capacity: ptr.To(resource.MustParse(one(r, "1Gi", "10Gi"))),
			NodeTopology: &metav1.LabelSelector{MatchLabels: map[string]string{"topology.kubernetes.io/zone": zone}},
		}
		if r.chance(30) {
			c.MaximumVolumeSize = ptr.To(resource.MustParse("2Gi"))
		}
		d.Capacities = append(d.Capacities, c)
	}
	for i := range 6 {
		r.claim(d, i)
	}
	for i := range d.Pods {
		if d.Pods[i].Namespace == "default" && r.chance(40) {
			r.mount(&d.Pods[i])
		}
	}
	d.Pod.Namespace = "default"
	r.mount(&d.Pod)
}

// claim makes a claim, bound or not, and a volume that may suit it.
func (r drawing) claim(d *decision, i int) {
	mode := one(r, corev1.ReadWriteOnce, corev1.ReadWriteOnce, corev1.ReadWriteMany, corev1.ReadWriteOncePod)
	class := one(r, "local", "csi", "zonal", "csi", "local", "zonal", "now")
	c := corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("c%d", i), Namespace: "default"}}
	c.Spec = corev1.PersistentVolumeClaimSpec{
		StorageClassName: &class, AccessModes: []corev1.PersistentVolumeAccessMode{mode},
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": resource.MustParse(one(r, "1Gi", "3Gi"))}},
	}
	v := corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("v%d", i), Labels: map[string]string{}}}
	v.Spec = corev1.PersistentVolumeSpec{
		StorageClassName: class, AccessModes: []corev1.PersistentVolumeAccessMode{mode, corev1.ReadWriteOnce},
		Capacity: corev1.ResourceList{"storage": resource.MustParse(one(r, "1Gi", "3Gi", "5Gi"))},
	}
	v.Status.Phase = corev1.VolumeAvailable
	if r.chance(60) {
		v.Spec.CSI = &corev1.CSIPersistentVolumeSource{Driver: "csi.example.com", VolumeHandle: fmt.Sprintf("h%d", i)}
	}
	switch r.IntN(4) {
	case 0:
		v.Labels["topology.kubernetes.io/zone"] = one(r, "z1", "z2__z3")
	case 1:
		v.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "topology.kubernetes.io/zone", Operator: corev1.NodeSelectorOpIn, Values: []string{one(r, "z1", "z2"), "z3"}}}}}}}
	}
	switch {
	case r.chance(50):
		c.Spec.VolumeName, c.Status.Phase = v.Name, corev1.ClaimBound
		c.Annotations = map[string]string{"pv.kubernetes.io/bind-completed": "yes"}
		v.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "default", Name: c.Name, UID: types.UID(c.Name)}
		v.Status.Phase = corev1.VolumeBound
		if r.chance(30) {
			node := d.Nodes[r.IntN(len(d.Nodes))].Name
			d.Attachments = append(d.Attachments, storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: "a" + v.Name}, Spec: storagev1.VolumeAttachmentSpec{
				Attacher: "csi.example.com", NodeName: node, Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &v.Name}}})
		}
	case r.chance(15):
		c.Annotations = map[string]string{"volume.kubernetes.io/selected-node": d.Nodes[0].Name}
	}
	if c.Spec.VolumeName != "" || r.chance(60) {
		d.Volumes = append(d.Volumes, v)
	}
	d.Claims = append(d.Claims, c)
}

func (r drawing) mount(p *corev1.Pod) {
	for i := range 1 + r.IntN(2) {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: fmt.Sprintf("v%d", i), VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: fmt.Sprintf("c%d", r.IntN(6))}}})
	}
	if r.chance(15) {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "d", VolumeSource: one(r,
			corev1.VolumeSource{GCEPersistentDisk: &corev1.GCEPersistentDiskVolumeSource{PDName: "pd", ReadOnly: r.chance(50)}},
			corev1.VolumeSource{AWSElasticBlockStore: &corev1.AWSElasticBlockStoreVolumeSource{VolumeID: "vol", ReadOnly: true}},
			corev1.VolumeSource{RBD: &corev1.RBDVolumeSource{CephMonitors: []string{one(r, "m1", "m2")}, RBDImage: "i", RBDPool: "p", ReadOnly: r.chance(50)}},
			corev1.VolumeSource{ISCSI: &corev1.ISCSIVolumeSource{IQN: "iqn", TargetPortal: "x", ReadOnly: r.chance(50)}})})
	}
}
