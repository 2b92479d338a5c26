package core_test

import (
	"fmt"
	"runtime"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/proa-dev/proa/scheduler/core"
)

type nodeOption func(*corev1.Node)
type podOption func(*corev1.Pod)

func node(name, cpu, memory string, options ...nodeOption) *corev1.Node {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"kubernetes.io/hostname": name}},
		Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
			"cpu": resource.MustParse(cpu), "memory": resource.MustParse(memory), "pods": resource.MustParse("10"),
			"ephemeral-storage": resource.MustParse("10Gi"),
		}},
	}
	for _, o := range options {
		o(n)
	}
	return n
}

func labeled(pairs ...string) nodeOption {
	return func(n *corev1.Node) {
		for i := 0; i < len(pairs); i += 2 {
			n.Labels[pairs[i]] = pairs[i+1]
		}
	}
}

func offers(name corev1.ResourceName, quantity string) nodeOption {
	return func(n *corev1.Node) { n.Status.Allocatable[name] = resource.MustParse(quantity) }
}

func pod(name string, options ...podOption) *core.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name)},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "app"}}},
	}
	for _, o := range options {
		o(p)
	}
	return core.NewPod(p, core.DefaultProfile())
}

func requests(pairs ...string) podOption {
	return func(p *corev1.Pod) {
		list := corev1.ResourceList{}
		for i := 0; i < len(pairs); i += 2 {
			list[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
		}
		p.Spec.Containers[0].Resources.Requests = list
	}
}

func hostPort(ip string, protocol corev1.Protocol, port int32) podOption {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Ports = append(p.Spec.Containers[0].Ports, corev1.ContainerPort{HostIP: ip, Protocol: protocol, HostPort: port})
	}
}

func affinity(p *corev1.Pod) *corev1.Affinity {
	if p.Spec.Affinity == nil {
		p.Spec.Affinity = &corev1.Affinity{}
	}
	return p.Spec.Affinity
}

func requires(terms ...corev1.NodeSelectorTerm) podOption {
	return func(p *corev1.Pod) {
		affinity(p).NodeAffinity = &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: terms}}
	}
}

func prefers(key string, values ...string) podOption {
	return func(p *corev1.Pod) {
		affinity(p).NodeAffinity = &corev1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{
			Weight: 1, Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: key, Operator: corev1.NodeSelectorOpIn, Values: values}}},
		}}}
	}
}

func named(nodes ...string) corev1.NodeSelectorTerm {
	return corev1.NodeSelectorTerm{MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: nodes}}}
}

func hasLabels(pairs ...string) podOption {
	return func(p *corev1.Pod) {
		p.Labels = map[string]string{}
		for i := 0; i < len(pairs); i += 2 {
			p.Labels[pairs[i]] = pairs[i+1]
		}
	}
}

func app(name string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}
}

func near(name, key string) podOption {
	return func(p *corev1.Pod) {
		affinity(p).PodAffinity = &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{LabelSelector: app(name), TopologyKey: key}}}
	}
}

func apart(name, key string) podOption {
	return func(p *corev1.Pod) {
		affinity(p).PodAntiAffinity = &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{LabelSelector: app(name), TopologyKey: key}}}
	}
}

func spread(skew int32, key, name string, when corev1.UnsatisfiableConstraintAction) podOption {
	return func(p *corev1.Pod) {
		p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, corev1.TopologySpreadConstraint{
			MaxSkew: skew, TopologyKey: key, LabelSelector: app(name), WhenUnsatisfiable: when})
	}
}

func prio(n int32) podOption     { return func(p *corev1.Pod) { p.Spec.Priority = &n } }
func inNS(name string) podOption { return func(p *corev1.Pod) { p.Namespace = name } }
func snapshot(nodes []*corev1.Node, placed map[string][]*core.Pod) *core.Snapshot {
	s := core.NewSnapshot(1)
	for _, n := range nodes {
		s.SetNode(n)
	}
	for name, pods := range placed {
		for _, p := range pods {
			s.PutPod(p, name)
		}
	}
	return s
}

// Sums of absurd requests do not overflow: such a pod is as large as can be.
func TestAbsurdRequests(t *testing.T) {
	s := snapshot([]*corev1.Node{node("n", "4", "8Gi")}, map[string][]*core.Pod{"n": {pod("x", requests("memory", "9E")), pod("y", requests("memory", "9E"))}})
	if got, why := s.Schedule(pod("p", requests("memory", "1"))); why == nil || why.Message() != "0/1 nodes are available: 1 Insufficient memory." {
		t.Errorf("got %q, %v", got, why)
	}
}

// Ties are broken at random, and every node of a tie has its turn.
func TestTies(t *testing.T) {
	seen := map[string]bool{}
	for seed := range uint64(64) {
		s := core.NewSnapshot(seed)
		for i := range 4 {
			s.SetNode(node(fmt.Sprint(i), "4", "8Gi"))
		}
		name, _ := s.Schedule(pod("p"))
		seen[name] = true
	}
	if len(seen) != 4 {
		t.Errorf("only %v were chosen", seen)
	}
}

// Pods of a Service or a controller go to different nodes and zones, even when
// another node is emptier.
func TestSiblingsAreSpread(t *testing.T) {
	owned := func(p *corev1.Pod) {
		controller := true
		p.OwnerReferences = []metav1.OwnerReference{{UID: "rs", Controller: &controller}}
	}
	for _, test := range []struct {
		name string
		tell func(*core.Snapshot)
		want string
	}{
		{"strangers", func(*core.Snapshot) {}, "big"},
		{"of a Service", func(s *core.Snapshot) { s.SetService("ns", "web", map[string]string{"app": "w"}) }, "small"},
		{"of a controller", func(s *core.Snapshot) { s.SetController("rs", app("w")) }, "small"},
		{"of another namespace", func(s *core.Snapshot) { s.SetService("other", "web", map[string]string{"app": "w"}) }, "big"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := snapshot([]*corev1.Node{node("big", "16", "32Gi"), node("small", "4", "8Gi")},
				map[string][]*core.Pod{"big": {pod("x", hasLabels("app", "w"), requests("cpu", "1", "memory", "1Gi"))}})
			test.tell(s)
			if got, _ := s.Schedule(pod("p", hasLabels("app", "w"), owned, requests("cpu", "1", "memory", "1Gi"))); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

// Many replicas on alike nodes end up evenly spread.
func TestReplicasAreEven(t *testing.T) {
	s := core.NewSnapshot(1)
	for i := range 300 {
		s.SetNode(node(fmt.Sprint(i), "32", "64Gi"))
	}
	s.SetService("ns", "web", map[string]string{"app": "w"})
	count := map[string]int{}
	for i := range 900 {
		p := pod(fmt.Sprint(i), hasLabels("app", "w"), requests("cpu", "10m"))
		name, why := s.Schedule(p)
		if why != nil {
			t.Fatal(why.Message())
		}
		s.PutPod(p, name)
		count[name]++
	}
	for name, n := range count {
		if n != 3 {
			t.Errorf("%d on node %s, want 3", n, name)
		}
	}
}

func TestNamespaceSelector(t *testing.T) {
	s := snapshot([]*corev1.Node{node("a", "4", "8Gi"), node("b", "4", "8Gi")}, map[string][]*core.Pod{"b": {pod("x", inNS("data"), hasLabels("app", "db"))}})
	p := pod("p", near("db", "kubernetes.io/hostname"), func(p *corev1.Pod) {
		p.Spec.Affinity.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution[0].NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": "x"}}
	})
	if got, why := s.Schedule(p); why == nil {
		t.Fatalf("bound to %s although no namespace is labelled", got)
	}
	s.SetNamespace("data", map[string]string{"team": "x"})
	if got, _ := s.Schedule(p); got != "b" {
		t.Errorf("got %q, want b", got)
	}
}

// Room that is kept for a nominated pod is not given to lower ones.
func TestNomination(t *testing.T) {
	s := snapshot([]*corev1.Node{node("a", "4", "8Gi")}, nil)
	high := pod("high", prio(9), requests("cpu", "3"))
	s.Nominate(high, "a")
	if _, why := s.Schedule(pod("low", requests("cpu", "2"))); why == nil || why.Message() != "0/1 nodes are available: 1 Insufficient cpu." {
		t.Errorf("low priority pod took the room: %v", why)
	}
	if got, _ := s.Schedule(pod("higher", prio(10), requests("cpu", "2"))); got != "a" {
		t.Errorf("a higher pod may take it, got %q", got)
	}
	if got, _ := s.Schedule(high); got != "a" {
		t.Errorf("the nominated pod got %q", got)
	}
}

// Whoever asks for resources of ever new names costs no memory once he is gone.
func TestInventedResources(t *testing.T) {
	s := core.NewSnapshot(1)
	for i := range 1000 {
		s.SetNode(node(fmt.Sprint(i), "4", "8Gi"))
	}
	invent := func(from, to int) uint64 {
		for i := from; i < to; i++ {
			name := fmt.Sprintf("example.com/r%d", i)
			if _, why := s.Schedule(pod("p", requests(name, "1"))); why == nil {
				t.Fatal("a resource that no node has was found")
			}
			s.SetNode(node("0", "4", "8Gi", offers(corev1.ResourceName(name), "1")))
			p := pod("p", requests(name, "1"))
			at, why := s.Schedule(p)
			if at != "0" {
				t.Fatalf("got %q, %v", at, why)
			}
			s.PutPod(p, at)
			s.RemovePod(p.UID())
		}
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		runtime.KeepAlive(s)
		return m.HeapAlloc
	}
	before := invent(0, 300) // the caches are full by then
	if after := invent(300, 1500); after > before+4<<20 {
		t.Errorf("1200 resources that are gone hold %d kB", (after-before)>>10)
	}
}
