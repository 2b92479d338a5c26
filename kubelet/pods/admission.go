package pods

import (
	"context"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/component-helpers/nodedeclaredfeatures"
	"k8s.io/component-helpers/resource"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"github.com/proa-dev/proa/internal/target"
	"github.com/proa-dev/proa/kubelet/spec"
)

// rejection is why a pod cannot run on this node.
type rejection struct{ reason, message string }

// admit asks whether a pod may run here beside the others. The scheduler has
// asked the same before, but maybe of an older state, or not at all.
func (m *Manager) admit(pod *corev1.Pod, others []*corev1.Pod, node *corev1.Node) *rejection {
	if os := pod.Spec.OS; os != nil && string(os.Name) != runtime.GOOS {
		return &rejection{"PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"}
	}
	if r := admitSysctls(pod); r != nil {
		return r
	}
	if r := admitFeatures(pod, node); r != nil {
		return r
	}
	if !m.cfg.AppArmor && wantsAppArmor(pod) { // it would run without
		return &rejection{"AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host"}
	}
	if r := admitGroups(pod, node); r != nil {
		return r
	}
	if r := admitPressure(pod, node); r != nil {
		return r
	}
	if !m.wants(pod, node) {
		return &rejection{"NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"}
	}
	if port := usedPort(pod, others); port {
		return &rejection{"NodePorts", "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"}
	}
	if r := fits(pod, others, node); r != nil {
		return r
	}
	return admitTaints(pod, node)
}

// wants says whether the pod's selector and affinity let it run here. A label may
// have come a moment ago, and the pod because of it.
func (m *Manager) wants(pod *corev1.Pod, node *corev1.Node) bool {
	required := nodeaffinity.GetRequiredNodeAffinity(pod)
	if ok, err := required.Match(node); ok && err == nil {
		return true
	}
	ctx, cancel := context.WithTimeout(m.ctx, 5*time.Second)
	defer cancel()
	newest, err := m.cfg.ReadNode(ctx)
	if err != nil {
		m.cfg.Logger.Warn("node not read", "err", err)
		return false
	}
	ok, err := required.Match(newest)
	return ok && err == nil
}

// admitFeatures refuses pods that were bound by hand and ask for what this node
// does not do: what it does not know it would pass over.
func admitFeatures(pod *corev1.Pod, node *corev1.Node) *rejection {
	all := nodedeclaredfeatures.DefaultFramework
	want, err := all.InferForPodScheduling(&nodedeclaredfeatures.PodInfo{Spec: &pod.Spec, Status: &pod.Status}, target.Version())
	if err != nil {
		return &rejection{"PodFeatureUnsupported", fmt.Sprintf("Failed to infer pod's feature requirements: %v", err)}
	}
	have := all.TryMap(slices.Sorted(slices.Values(node.Status.DeclaredFeatures)))
	match, err := all.MatchNodeFeatureSet(want, have)
	switch {
	case err != nil:
		return &rejection{"PodFeatureUnsupported", fmt.Sprintf("Failed to match pod's feature requirements against the node: %v", err)}
	case !match.IsMatch:
		return &rejection{"PodFeatureUnsupported", "Pod requires node features that are not available: " + strings.Join(match.UnsatisfiedRequirements, ", ")}
	}
	return nil
}

// wantsAppArmor says whether a profile of AppArmor is to confine a container.
func wantsAppArmor(pod *corev1.Pod) bool {
	wants := func(p *corev1.AppArmorProfile) bool {
		return p != nil && p.Type != corev1.AppArmorProfileTypeUnconfined
	}
	if sc := pod.Spec.SecurityContext; sc != nil && wants(sc.AppArmorProfile) {
		return true
	}
	return slices.ContainsFunc(slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers), func(c corev1.Container) bool {
		return c.SecurityContext != nil && wants(c.SecurityContext.AppArmorProfile)
	})
}

// admitGroups refuses pods that want no groups of the image on a runtime that
// would give them these.
func admitGroups(pod *corev1.Pod, node *corev1.Node) *rejection {
	sc, features := pod.Spec.SecurityContext, node.Status.Features
	if sc == nil || sc.SupplementalGroupsPolicy == nil || *sc.SupplementalGroupsPolicy != corev1.SupplementalGroupsPolicyStrict ||
		features != nil && features.SupplementalGroupsPolicy != nil && *features.SupplementalGroupsPolicy {
		return nil
	}
	return &rejection{"SupplementalGroupsPolicyNotSupported", "SupplementalGroupsPolicy=Strict is not supported in this node"}
}

// admitTaints refuses pods that nobody would let stay. Static pods are the
// node's own.
func admitTaints(pod *corev1.Pod, node *corev1.Node) *rejection {
	if IsStatic(pod) {
		return nil
	}
	ends := func(t *corev1.Taint) bool { return t.Effect == corev1.TaintEffectNoExecute }
	if _, found := corev1helpers.FindMatchingUntoleratedTaint(klog.Background(), node.Spec.Taints, pod.Spec.Tolerations, ends, false); !found {
		return nil
	}
	return &rejection{"TaintToleration", "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate"}
}

// ReasonEvicted is the reason of pods that the node ends, or refuses, because
// it is short of something.
const ReasonEvicted = "Evicted"

// IsCritical says that the cluster itself runs on a pod: a node that is short
// of something keeps it.
func IsCritical(pod *corev1.Pod) bool {
	return IsStatic(pod) || IsMirror(pod) || (pod.Spec.Priority != nil && *pod.Spec.Priority >= systemCritical)
}

// systemCritical is where upstream's range of priorities for the cluster's own
// pods begins.
const systemCritical = 2_000_000_000

// admitPressure refuses pods while the node is short of something. Memory that
// a pod asked for is its own; any other shortage is everybody's.
func admitPressure(pod *corev1.Pod, node *corev1.Node) *rejection {
	var short []corev1.NodeConditionType
	for _, c := range node.Status.Conditions {
		switch c.Type {
		case corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure:
			if c.Status == corev1.ConditionTrue {
				short = append(short, c.Type)
			}
		}
	}
	if len(short) == 0 || IsCritical(pod) {
		return nil
	}
	if len(short) == 1 && short[0] == corev1.NodeMemoryPressure {
		taint := &corev1.Taint{Key: corev1.TaintNodeMemoryPressure, Effect: corev1.TaintEffectNoSchedule}
		tolerates := func(t corev1.Toleration) bool { return t.ToleratesTaint(klog.Background(), taint, true) }
		if spec.QOS(pod) != corev1.PodQOSBestEffort || slices.ContainsFunc(pod.Spec.Tolerations, tolerates) {
			return nil
		}
	}
	return &rejection{ReasonEvicted, fmt.Sprintf("The node had condition: %v. ", short)}
}

func fits(pod *corev1.Pod, others []*corev1.Pod, node *corev1.Node) *rejection {
	room := node.Status.Allocatable
	if most := room.Pods().Value(); most > 0 && int64(len(others))+1 > most {
		return &rejection{"OutOfpods", fmt.Sprintf("Node didn't have enough resource: pods, requested: 1, used: %d, capacity: %d", len(others), most)}
	}
	want := resource.PodRequests(withoutClaimed(pod), resource.PodResourcesOptions{})
	used := corev1.ResourceList{}
	for _, o := range others {
		for name, q := range resource.PodRequests(o, resource.PodResourcesOptions{}) {
			sum := used[name]
			sum.Add(q)
			used[name] = sum
		}
	}
	names := make([]string, 0, len(want))
	for name := range want {
		names = append(names, string(name))
	}
	slices.Sort(names)
	for _, n := range names {
		name := corev1.ResourceName(n)
		ask, have, all := want[name], used[name], room[name]
		if _, known := room[name]; !known && strings.Contains(n, "/") && !strings.Contains(n, "kubernetes.io/") {
			continue // no node has it: it is the cluster's
		}
		sum := have.DeepCopy()
		sum.Add(ask)
		if ask.IsZero() || sum.Cmp(all) <= 0 {
			continue
		}
		value := func(q interface {
			MilliValue() int64
			Value() int64
		}) int64 {
			if name == corev1.ResourceCPU {
				return q.MilliValue()
			}
			return q.Value()
		}
		return &rejection{"OutOf" + n, fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d",
			n, value(&ask), value(&have), value(&all))}
	}
	return nil
}

// withoutClaimed is the pod without its requests for extended resources that a
// claim gives it devices for.
func withoutClaimed(pod *corev1.Pod) *corev1.Pod {
	s := pod.Status.ExtendedResourceClaimStatus
	if s == nil {
		return pod
	}
	out := pod.DeepCopy()
	for _, list := range [][]corev1.Container{out.Spec.InitContainers, out.Spec.Containers} {
		for i := range list {
			maps.DeleteFunc(list[i].Resources.Requests, func(name corev1.ResourceName, _ apiresource.Quantity) bool {
				return slices.ContainsFunc(s.RequestMappings, func(m corev1.ContainerExtendedResourceRequest) bool {
					return m.ContainerName == list[i].Name && m.ResourceName == string(name)
				})
			})
		}
	}
	return out
}

type hostPort struct {
	ip       string
	protocol corev1.Protocol
	port     int32
}

func hostPorts(pod *corev1.Pod) []hostPort {
	var out []hostPort
	add := func(c *corev1.Container) {
		for _, p := range c.Ports {
			if p.HostPort > 0 {
				ip := p.HostIP
				if ip == "" {
					ip = "0.0.0.0"
				}
				out = append(out, hostPort{ip, p.Protocol, p.HostPort})
			}
		}
	}
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; spec.IsSidecar(c) {
			add(c)
		}
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i])
	}
	return out
}

func usedPort(pod *corev1.Pod, others []*corev1.Pod) bool {
	for _, want := range hostPorts(pod) {
		for _, o := range others {
			for _, have := range hostPorts(o) {
				if want.port == have.port && want.protocol == have.protocol &&
					(want.ip == have.ip || want.ip == "0.0.0.0" || have.ip == "0.0.0.0") {
					return true
				}
			}
		}
	}
	return false
}

// safeSysctls lists those that concern a pod's own namespaces only.
func safeSysctls() []string {
	return []string{"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range",
		"net.ipv4.ip_unprivileged_port_start", "net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout",
		"net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem"}
}

func admitSysctls(pod *corev1.Pod) *rejection {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	for _, s := range pod.Spec.SecurityContext.Sysctls {
		name := strings.ReplaceAll(s.Name, "/", ".")
		switch {
		case !slices.Contains(safeSysctls(), name):
			return &rejection{"SysctlForbidden", fmt.Sprintf("forbidden sysctl: %q not allowlisted", s.Name)}
		case pod.Spec.HostNetwork && strings.HasPrefix(name, "net."):
			return &rejection{"SysctlForbidden", fmt.Sprintf("forbidden sysctl: %q not allowed with host net enabled", s.Name)}
		case pod.Spec.HostIPC && strings.HasPrefix(name, "kernel.shm"):
			return &rejection{"SysctlForbidden", fmt.Sprintf("forbidden sysctl: %q not allowed with host ipc enabled", s.Name)}
		}
	}
	return nil
}
