package core_test

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

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

func tainted(key, value string, effect corev1.TaintEffect) nodeOption {
	return func(n *corev1.Node) {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Value: value, Effect: effect})
	}
}

func cordoned(n *corev1.Node) { n.Spec.Unschedulable = true }

func offers(name corev1.ResourceName, quantity string) nodeOption {
	return func(n *corev1.Node) { n.Status.Allocatable[name] = resource.MustParse(quantity) }
}

func hasImage(name string, size int64) nodeOption {
	return func(n *corev1.Node) {
		n.Status.Images = append(n.Status.Images, corev1.ContainerImage{Names: []string{name}, SizeBytes: size})
	}
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

func tolerates(key string) podOption {
	return func(p *corev1.Pod) {
		p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists})
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
func selects(k, v string) podOption {
	return func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{k: v} }
}

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

func TestSchedule(t *testing.T) {
	zones := []*corev1.Node{
		node("a1", "4", "8Gi", labeled("zone", "a")), node("a2", "4", "8Gi", labeled("zone", "a")), node("b1", "4", "8Gi", labeled("zone", "b")),
	}
	one := []*corev1.Node{node("n", "4", "8Gi")}
	for _, test := range []struct {
		name   string
		nodes  []*corev1.Node
		placed map[string][]*core.Pod
		pod    *core.Pod
		want   string // a node, or the message
	}{
		{"no nodes", nil, nil, pod("p"), "no nodes available to schedule pods"},
		{"cordoned", []*corev1.Node{node("n", "4", "8Gi", cordoned)}, nil, pod("p"), "0/1 nodes are available: 1 node(s) were unschedulable."},
		{"cordoned but tolerated", []*corev1.Node{node("n", "4", "8Gi", cordoned)}, nil, pod("p", tolerates("node.kubernetes.io/unschedulable")), "n"},
		{"taints are told apart", []*corev1.Node{
			node("a", "4", "8Gi", tainted("k", "v", "NoSchedule")), node("b", "4", "8Gi", tainted("x", "", "NoExecute")), node("c", "4", "8Gi", tainted("k", "v", "NoSchedule"))},
			nil, pod("p"), "0/3 nodes are available: 3 node(s) had untolerated taint(s)."},
		{"toleration", []*corev1.Node{node("n", "4", "8Gi", tainted("k", "v", "NoSchedule"))}, nil, pod("p", tolerates("k")), "n"},
		{"selector", zones, nil, pod("p", selects("zone", "b")), "b1"},
		{"selector matches nothing", one, nil, pod("p", selects("zone", "b")), "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector."},
		{"terms are alternatives", zones, nil, pod("p", requires(
			corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "zone", Operator: "In", Values: []string{"z"}}}},
			corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "zone", Operator: "NotIn", Values: []string{"a"}}}})), "b1"},
		{"named node", zones, nil, pod("p", requires(named("a2"))), "a2"},
		{"named node is gone", zones, nil, pod("p", requires(named("z"))), "0/3 nodes are available: 3 node(s) didn't satisfy plugin(s) [NodeAffinity]."},
		{"named node is full", zones, map[string][]*core.Pod{"a2": {pod("x", requests("cpu", "4"))}}, pod("p", requires(named("a2")), requests("cpu", "1")),
			"0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity]."},
		{"every shortage counts", one, nil, pod("p", requests("cpu", "5", "memory", "9Gi", "ephemeral-storage", "11Gi", "example.com/gpu", "1")),
			"0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient ephemeral-storage, 1 Insufficient example.com/gpu, 1 Insufficient memory."},
		{"extended resource", []*corev1.Node{node("n", "4", "8Gi"), node("g", "4", "8Gi", offers("example.com/gpu", "1"))}, nil, pod("p", requests("example.com/gpu", "1")), "g"},
		{"extended resource in use", []*corev1.Node{node("g", "4", "8Gi", offers("example.com/gpu", "1"))},
			map[string][]*core.Pod{"g": {pod("x", requests("example.com/gpu", "1"))}}, pod("p", requests("example.com/gpu", "1")),
			"0/1 nodes are available: 1 Insufficient example.com/gpu."},
		{"absurd requests do not overflow", one, map[string][]*core.Pod{"n": {pod("x", requests("memory", "9E")), pod("y", requests("memory", "9E"))}},
			pod("p", requests("memory", "1")), "0/1 nodes are available: 1 Insufficient memory."},
		{"too many pods", []*corev1.Node{node("n", "4", "8Gi", offers("pods", "1"))}, map[string][]*core.Pod{"n": {pod("x")}}, pod("p"), "0/1 nodes are available: 1 Too many pods."},
		{"init containers count by the largest", one, nil, pod("p", requests("cpu", "1"), func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("5")}}}}
		}), "0/1 nodes are available: 1 Insufficient cpu."},
		{"sidecars add up", one, nil, pod("p", requests("cpu", "3"), func(p *corev1.Pod) {
			always := corev1.ContainerRestartPolicyAlways
			p.Spec.InitContainers = []corev1.Container{{RestartPolicy: &always, Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("2")}}}}
		}), "0/1 nodes are available: 1 Insufficient cpu."},
		{"overhead counts", one, nil, pod("p", requests("cpu", "4"), func(p *corev1.Pod) {
			p.Spec.Overhead = corev1.ResourceList{"cpu": resource.MustParse("1m")}
		}), "0/1 nodes are available: 1 Insufficient cpu."},
		{"pod level requests win", one, nil, pod("p", requests("cpu", "1"), func(p *corev1.Pod) {
			p.Spec.Resources = &corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("5")}}
		}), "0/1 nodes are available: 1 Insufficient cpu."},
		{"same host port", one, map[string][]*core.Pod{"n": {pod("x", hostPort("", "", 80))}}, pod("p", hostPort("127.0.0.1", "TCP", 80)),
			"0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports."},
		{"host port of another address", one, map[string][]*core.Pod{"n": {pod("x", hostPort("127.0.0.1", "TCP", 80))}}, pod("p", hostPort("127.0.0.2", "TCP", 80)), "n"},
		{"host port of another protocol", one, map[string][]*core.Pod{"n": {pod("x", hostPort("", "TCP", 80))}}, pod("p", hostPort("", "UDP", 80)), "n"},

		{"near", zones, map[string][]*core.Pod{"b1": {pod("x", hasLabels("app", "db"))}}, pod("p", near("db", "zone")), "b1"},
		{"near nobody", zones, nil, pod("p", near("db", "zone")), "0/3 nodes are available: 3 node(s) didn't match pod affinity rules."},
		{"near itself, the first", []*corev1.Node{zones[2]}, nil, pod("p", hasLabels("app", "db"), near("db", "zone")), "b1"},
		{"near in another namespace is not near", zones, map[string][]*core.Pod{"b1": {pod("x", inNS("other"), hasLabels("app", "db"))}}, pod("p", near("db", "zone")),
			"0/3 nodes are available: 3 node(s) didn't match pod affinity rules."},
		{"apart", zones, map[string][]*core.Pod{"a1": {pod("x", hasLabels("app", "db"))}}, pod("p", apart("db", "zone")), "b1"},
		{"nowhere apart", zones[:2], map[string][]*core.Pod{"a1": {pod("x", hasLabels("app", "db"))}}, pod("p", apart("db", "zone")),
			"0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules."},
		{"refused by others", zones[:2], map[string][]*core.Pod{"a1": {pod("x", apart("web", "zone"))}}, pod("p", hasLabels("app", "web")),
			"0/2 nodes are available: 2 node(s) didn't satisfy existing pods anti-affinity rules."},
		{"spread", zones, map[string][]*core.Pod{"a1": {pod("x", hasLabels("app", "w"))}}, pod("p", hasLabels("app", "w"), spread(1, "zone", "w", "DoNotSchedule")), "b1"},
		{"spread counts no terminating pod", zones[1:2], map[string][]*core.Pod{"a2": {pod("x", hasLabels("app", "w"), func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} })}},
			pod("p", hasLabels("app", "w"), spread(1, "zone", "w", "DoNotSchedule")), "a2"},
		{"spread leaves no choice", append([]*corev1.Node{node("full", "1m", "1Gi", labeled("zone", "c"))}, zones...),
			map[string][]*core.Pod{"a1": {pod("x", hasLabels("app", "w"))}, "b1": {pod("y", hasLabels("app", "w"))}},
			pod("p", requests("cpu", "1"), hasLabels("app", "w"), spread(1, "zone", "w", "DoNotSchedule")),
			"0/4 nodes are available: 1 Insufficient cpu, 3 node(s) didn't match pod topology spread constraints."},
		{"spread needs the label", one, nil, pod("p", spread(1, "zone", "w", "DoNotSchedule")),
			"0/1 nodes are available: 1 node(s) didn't match pod topology spread constraints (missing required label)."},
		{"soft spread", zones, map[string][]*core.Pod{"a1": {pod("x", hasLabels("app", "w"))}}, pod("p", hasLabels("app", "w"), spread(1, "zone", "w", "ScheduleAnyway")), "b1"},

		{"least allocated", zones[:2], map[string][]*core.Pod{"a1": {pod("x", requests("cpu", "1"))}}, pod("p", requests("cpu", "1")), "a2"},
		{"preferred label", zones, nil, pod("p", prefers("zone", "b")), "b1"},
		{"disliked taint", []*corev1.Node{node("a", "64", "64Gi", tainted("k", "", "PreferNoSchedule")), node("b", "4", "8Gi")}, nil, pod("p", requests("cpu", "1")), "b"},
		{"image is there", []*corev1.Node{node("a", "4", "8Gi"), node("b", "4", "8Gi", hasImage("app:latest", 900<<20))}, nil, pod("p"), "b"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, why := snapshot(test.nodes, test.placed).Schedule(test.pod)
			if why != nil {
				got = why.Message()
			}
			if got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
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

func TestPreempt(t *testing.T) {
	at := func(second int64) podOption {
		return func(p *corev1.Pod) { p.Status.StartTime = &metav1.Time{Time: metav1.Unix(second, 0).Time} }
	}
	nodes := []*corev1.Node{node("a", "4", "8Gi"), node("b", "4", "8Gi")}
	never := corev1.PreemptNever
	budget := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "b"},
		Spec: policyv1.PodDisruptionBudgetSpec{Selector: app("db"), MinAvailable: &intstr.IntOrString{IntVal: 1}}}
	for _, test := range []struct {
		name    string
		placed  map[string][]*core.Pod
		pod     *core.Pod
		budgets []*policyv1.PodDisruptionBudget
		want    string // "node: victims", or the reason
	}{
		{"nobody is lower", map[string][]*core.Pod{"a": {pod("x", requests("cpu", "4"))}, "b": {pod("y", requests("cpu", "4"))}}, pod("p", requests("cpu", "1")), nil,
			"0/2 nodes are available: 2 No preemption victims found for incoming pod."},
		{"hopeless", nil, pod("p", prio(9), requests("cpu", "5")), nil, "0/2 nodes are available: 2 Preemption is not helpful for scheduling."},
		{"not enough", map[string][]*core.Pod{"a": {pod("x", prio(9), requests("cpu", "3")), pod("z", requests("cpu", "1"))}, "b": {pod("y", prio(9), requests("cpu", "4"))}},
			pod("p", prio(5), requests("cpu", "2")), nil, "0/2 nodes are available: 1 Insufficient cpu, 1 No preemption victims found for incoming pod."},
		{"policy", map[string][]*core.Pod{"a": {pod("x", requests("cpu", "4"))}, "b": {pod("y", requests("cpu", "4"))}},
			pod("p", prio(9), requests("cpu", "1"), func(p *corev1.Pod) { p.Spec.PreemptionPolicy = &never }), nil, "not eligible due to preemptionPolicy=Never."},
		{"lower priority goes", map[string][]*core.Pod{"a": {pod("x", prio(3), requests("cpu", "4"))}, "b": {pod("y", prio(2), requests("cpu", "4"))}},
			pod("p", prio(9), requests("cpu", "1")), nil, "b: [y]"},
		{"no more than needed, the youngest", map[string][]*core.Pod{
			"a": {pod("x", prio(1), at(10), requests("cpu", "2")), pod("y", prio(1), at(20), requests("cpu", "2"))}, "b": {pod("z", prio(9), requests("cpu", "4"))}},
			pod("p", prio(9), requests("cpu", "1")), nil, "a: [y]"},
		{"fewer victims", map[string][]*core.Pod{
			"a": {pod("x", prio(1), requests("cpu", "2")), pod("y", prio(1), requests("cpu", "2"))}, "b": {pod("z", prio(1), requests("cpu", "4"))}},
			pod("p", prio(9), requests("cpu", "4")), nil, "b: [z]"},
		{"budgets are spared", map[string][]*core.Pod{
			"a": {pod("x", prio(1), hasLabels("app", "db"), requests("cpu", "4"))}, "b": {pod("y", prio(5), requests("cpu", "4"))}},
			pod("p", prio(9), requests("cpu", "1")), []*policyv1.PodDisruptionBudget{budget}, "b: [y]"},
		{"whoever holds the port", map[string][]*core.Pod{"a": {pod("x", hostPort("", "", 80)), pod("y")}, "b": {pod("z", prio(9), hostPort("", "", 80))}},
			pod("p", prio(9), hostPort("", "", 80)), nil, "a: [x]"},
		{"whoever refuses", map[string][]*core.Pod{"a": {pod("x", apart("p", "kubernetes.io/hostname")), pod("y")}, "b": {pod("z", prio(9), apart("p", "kubernetes.io/hostname"))}},
			pod("p", prio(9), hasLabels("app", "p")), nil, "a: [x]"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := snapshot(nodes, test.placed)
			_, why := s.Schedule(test.pod)
			if why == nil {
				t.Fatal("it fits without")
			}
			way, got, _ := s.Preempt(test.pod, why, test.budgets)
			if way != nil {
				var names []string
				for _, v := range way.Victims {
					names = append(names, v.Object.Name)
				}
				got = fmt.Sprintf("%s: %v", way.Node, names)
			}
			if got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
			if _, again := s.Schedule(test.pod); again == nil || again.Message() != why.Message() {
				t.Errorf("the trial left traces: %v", again)
			}
		})
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
