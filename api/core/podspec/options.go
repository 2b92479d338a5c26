package podspec

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api/validate"
)

// Options says in which surroundings a spec is validated. The zero value is
// that of a new template.
type Options struct {
	// pod is the metadata of the pod whose spec it is, nil for templates.
	pod *metav1.ObjectMeta
	// What was stored before a rule existed may stay: each of these lifts one
	// rule because the old object breaks it already.
	labelValues     bool // values in label selectors of pod affinity
	spreadSelectors bool // label selectors of topology spread
	nodeLabelValues bool // values in required node affinity
	tokenPaths      bool // paths of projected tokens
	hugePages       bool // multiples of the huge page size
	hostSysctls     bool // sysctls of the node's own namespaces
	deletionCost    bool // the annotation's number
	initRestarts    bool // init containers that a resize restarts
	oldIPs          []string
}

// After returns the options for an update of old.
func After(old *corev1.PodSpec, annotations map[string]string) Options {
	if old == nil {
		return Options{}
	}
	o := Options{
		labelValues:     badAffinitySelectors(old.Affinity),
		nodeLabelValues: badNodeLabelValues(old.Affinity),
		deletionCost:    badDeletionCost(annotations),
	}
	for _, c := range old.TopologySpreadConstraints {
		o.spreadSelectors = o.spreadSelectors || len(validate.Selector(nil, c.LabelSelector, false)) > 0
	}
	for _, v := range old.Volumes {
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if t := s.ServiceAccountToken; t != nil && len(validate.FilePath(nil, t.Path)) > 0 {
				o.tokenPaths = true
			}
		}
	}
	if old.SecurityContext != nil {
		for _, s := range old.SecurityContext.Sysctls {
			o.hostSysctls = o.hostSysctls || len(hostSysctl(nil, s.Name, old)) > 0
		}
	}
	visitContainers(old, nil, func(c *corev1.Container, _ place) {
		for _, l := range []corev1.ResourceList{c.Resources.Limits, c.Resources.Requests} {
			for name, q := range l {
				if validate.HugePages(name) && len(validate.WholeHugePages(nil, name, q)) > 0 {
					o.hugePages = true
				}
			}
		}
	})
	for i := range old.InitContainers {
		c := &old.InitContainers[i]
		o.initRestarts = o.initRestarts || !isSidecar(c) && slices.ContainsFunc(c.ResizePolicy, func(p corev1.ContainerResizePolicy) bool {
			return p.RestartPolicy == corev1.RestartContainer
		})
	}
	for _, a := range old.HostAliases {
		o.oldIPs = append(o.oldIPs, a.IP)
	}
	if old.DNSConfig != nil {
		o.oldIPs = append(o.oldIPs, old.DNSConfig.Nameservers...)
	}
	return o
}

func badAffinitySelectors(a *corev1.Affinity) bool {
	if a == nil {
		return false
	}
	bad := func(t corev1.PodAffinityTerm) bool {
		return len(validate.Selector(nil, t.LabelSelector, false))+len(validate.Selector(nil, t.NamespaceSelector, false)) > 0
	}
	badWeighted := func(t corev1.WeightedPodAffinityTerm) bool { return bad(t.PodAffinityTerm) }
	if p := a.PodAffinity; p != nil && (slices.ContainsFunc(p.RequiredDuringSchedulingIgnoredDuringExecution, bad) ||
		slices.ContainsFunc(p.PreferredDuringSchedulingIgnoredDuringExecution, badWeighted)) {
		return true
	}
	p := a.PodAntiAffinity
	return p != nil && (slices.ContainsFunc(p.RequiredDuringSchedulingIgnoredDuringExecution, bad) ||
		slices.ContainsFunc(p.PreferredDuringSchedulingIgnoredDuringExecution, badWeighted))
}

func badNodeLabelValues(a *corev1.Affinity) bool {
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return false
	}
	for _, t := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		for _, r := range t.MatchExpressions {
			for _, v := range r.Values {
				if len(validation.IsValidLabelValue(v)) > 0 {
					return true
				}
			}
		}
	}
	return false
}

// visitContainers calls f on every container with its path below spec, in
// the order init, regular, ephemeral.
func visitContainers(spec *corev1.PodSpec, path *field.Path, f func(*corev1.Container, place)) {
	for i := range spec.InitContainers {
		f(&spec.InitContainers[i], place{path, "initContainers", i})
	}
	for i := range spec.Containers {
		f(&spec.Containers[i], place{path, "containers", i})
	}
	for i := range spec.EphemeralContainers {
		c := (*corev1.Container)(&spec.EphemeralContainers[i].EphemeralContainerCommon)
		f(c, place{path, "ephemeralContainers", i})
	}
}

// place is where a container is. Its path is made by those who need it.
type place struct {
	spec  *field.Path
	list  string
	index int
}

// Child is the path of a field of the container.
func (p place) Child(name string, more ...string) *field.Path {
	return p.spec.Child(p.list).Index(p.index).Child(name, more...)
}

func isSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

func hasContainer(spec *corev1.PodSpec, name string) bool {
	found := false
	visitContainers(spec, nil, func(c *corev1.Container, _ place) { found = found || c.Name == name })
	return found
}

func trimmed(s string) bool { return strings.TrimSpace(s) == s }
