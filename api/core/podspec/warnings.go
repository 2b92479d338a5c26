package podspec

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/net"

	"github.com/proa-dev/proa/api"
)

// Warnings says what is legal in a pod and yet likely a mistake.
func Warnings(p *corev1.Pod) []string {
	w := &warner{}
	w.spec(nil, &p.Spec, &p.ObjectMeta)
	return w.texts
}

// NameWarnings says what is wrong with a name that becomes (part of) a host
// name; where says which.
func NameWarnings(name, where string) []string {
	if msgs := validation.IsDNS1123Label(name); len(msgs) != 0 {
		return []string{fmt.Sprintf("metadata.name: this is used in %s, which can result in surprising behavior; a DNS label is recommended: %v", where, msgs)}
	}
	return nil
}

// WorkloadWarnings are those of a workload with a pod template. named says that
// its name begins its pods' names. An update that leaves the spec alone warns
// of nothing.
func WorkloadWarnings[P api.Object](named bool, template func(P) *corev1.PodTemplateSpec) func(obj, old api.Object) []string {
	return func(obj, old api.Object) []string {
		if old != nil && old.GetGeneration() == obj.GetGeneration() {
			return nil
		}
		var warnings []string
		if named && old == nil {
			warnings = NameWarnings(obj.GetName(), "Pod names and hostnames")
		}
		return append(warnings, TemplateWarnings(field.NewPath("spec", "template"), template(obj.(P)))...)
	}
}

// TemplateWarnings is Warnings for a pod template at path.
func TemplateWarnings(path *field.Path, t *corev1.PodTemplateSpec) []string {
	if t == nil {
		return nil
	}
	w := &warner{template: true}
	w.spec(path, &t.Spec, &t.ObjectMeta)
	return w.texts
}

type warner struct {
	texts    []string
	template bool
}

func (w *warner) add(path *field.Path, format string, args ...any) {
	w.texts = append(w.texts, path.String()+": "+fmt.Sprintf(format, args...))
}

func (w *warner) spec(root *field.Path, s *corev1.PodSpec, meta *metav1.ObjectMeta) {
	path := root.Child("spec")
	for _, k := range slices.Sorted(maps.Keys(s.NodeSelector)) {
		w.label(path.Child("nodeSelector").Key(k), "", k)
	}
	if s.Affinity != nil {
		w.affinity(path.Child("affinity", "nodeAffinity"), s.Affinity.NodeAffinity)
	}
	for i, t := range s.TopologySpreadConstraints {
		at := path.Child("topologySpreadConstraints").Index(i)
		w.label(at.Child("topologyKey"), t.TopologyKey+" is ", t.TopologyKey)
		if t.LabelSelector == nil {
			w.add(at.Child("labelSelector"), "a null labelSelector results in matching no pod")
		}
	}
	w.annotations(root.Child("metadata", "annotations"), s, meta)
	w.volumes(path.Child("volumes"), s.Volumes)
	w.overlaps(s.Volumes)
	w.lists(path, s)
	w.fractions(path.Child("overhead"), s.Overhead)
	visitContainers(s, path, func(c *corev1.Container, path place) {
		if c.Resources.Limits != nil {
			w.fractions(path.Child("resources", "limits"), c.Resources.Limits)
		}
		if c.Resources.Requests != nil {
			w.fractions(path.Child("resources", "requests"), c.Resources.Requests)
		}
		if len(c.Env) > 1 {
			w.env(path.Child("env"), c.Env)
		}
	})
	w.ports(path, s)
	w.portNames(path, s)
	if s.TerminationGracePeriodSeconds != nil && *s.TerminationGracePeriodSeconds < 0 {
		w.add(path.Child("terminationGracePeriodSeconds"), "must be >= 0; negative values are invalid and will be treated as 1")
	}
	if s.Affinity != nil {
		w.podAffinity(path.Child("affinity"), s.Affinity)
	}
	if s.DNSConfig != nil {
		for i, ns := range s.DNSConfig.Nameservers {
			w.ip(path.Child("dnsConfig", "nameservers").Index(i), ns)
		}
	}
	for i, a := range s.HostAliases {
		w.ip(path.Child("hostAliases").Index(i).Child("ip"), a.IP)
	}
}

// label warns of node labels that were renamed.
func (w *warner) label(path *field.Path, prefix, key string) {
	if text := RenamedLabel(key); text != "" {
		w.add(path, "%s%s", prefix, text)
	}
}

// RenamedLabel says what to use instead of a node label that was renamed,
// empty for all others.
func RenamedLabel(key string) string {
	switch key {
	case "beta.kubernetes.io/arch":
		return `deprecated since v1.14; use "kubernetes.io/arch" instead`
	case "beta.kubernetes.io/os":
		return `deprecated since v1.14; use "kubernetes.io/os" instead`
	case corev1.LabelFailureDomainBetaRegion:
		return `deprecated since v1.17; use "topology.kubernetes.io/region" instead`
	case corev1.LabelFailureDomainBetaZone:
		return `deprecated since v1.17; use "topology.kubernetes.io/zone" instead`
	case corev1.LabelInstanceType:
		return `deprecated since v1.17; use "node.kubernetes.io/instance-type" instead`
	case "app.kubernetes.io/created-by":
		return "deprecated since v1.9"
	case "scheduler.alpha.kubernetes.io/preferAvoidPods":
		return "deprecated since v1.22; use Taints and Tolerations instead"
	case "node-role.kubernetes.io/master":
		return `use "node-role.kubernetes.io/control-plane" instead`
	}
	return ""
}

func (w *warner) term(path *field.Path, t corev1.NodeSelectorTerm) {
	for i, e := range t.MatchExpressions {
		w.label(path.Child("matchExpressions").Index(i).Child("key"), e.Key+" is ", e.Key)
	}
}

func (w *warner) affinity(path *field.Path, a *corev1.NodeAffinity) {
	if a == nil {
		return
	}
	if r := a.RequiredDuringSchedulingIgnoredDuringExecution; r != nil {
		for i, t := range r.NodeSelectorTerms {
			w.term(path.Child("requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms").Index(i), t)
		}
	}
	for i, t := range a.PreferredDuringSchedulingIgnoredDuringExecution {
		at := path.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i).Child("preference")
		w.term(at, t.Preference)
		// What is required is checked; what is preferred never was.
		for j, e := range t.Preference.MatchExpressions {
			for k, v := range e.Values {
				for _, msg := range validation.IsValidLabelValue(v) {
					w.add(at.Child("matchExpressions").Index(j).Child("values").Index(k), "%s is invalid, %s", v, msg)
				}
			}
		}
	}
}

func (w *warner) podAffinity(path *field.Path, a *corev1.Affinity) {
	terms := func(path *field.Path, must []corev1.PodAffinityTerm, prefer []corev1.WeightedPodAffinityTerm) {
		const text = "a null labelSelector results in matching no pod"
		for i, t := range must {
			if t.LabelSelector == nil {
				w.add(path.Child("requiredDuringSchedulingIgnoredDuringExecution").Index(i).Child("labelSelector"), text)
			}
		}
		for i, t := range prefer {
			if t.PodAffinityTerm.LabelSelector == nil {
				w.add(path.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i).Child("podAffinityTerm", "labelSelector"), text)
			}
		}
	}
	if p := a.PodAffinity; p != nil {
		terms(path.Child("podAffinity"), p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if p := a.PodAntiAffinity; p != nil {
		terms(path.Child("podAntiAffinity"), p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
}

// ip warns of spellings of addresses that not all programs read alike.
func (w *warner) ip(path *field.Path, ip string) {
	if net.ParseIPSloppy(ip) != nil {
		w.texts = append(w.texts, validation.GetWarningsForIP(path, ip)...)
	}
}

func (w *warner) annotations(path *field.Path, s *corev1.PodSpec, meta *metav1.ObjectMeta) {
	if len(meta.Annotations) == 0 {
		return
	}
	old := func(key, text string) {
		if _, ok := meta.Annotations[key]; ok {
			w.add(path.Key(key), "%s", text)
		}
	}
	old("scheduler.alpha.kubernetes.io/critical-pod", `non-functional in v1.16+; use the "priorityClassName" field instead`)
	old("security.alpha.kubernetes.io/sysctls", `non-functional in v1.11+; use the "sysctls" field instead`)
	old("security.alpha.kubernetes.io/unsafe-sysctls", `non-functional in v1.11+; use the "sysctls" field instead`)
	if s.SecurityContext == nil || s.SecurityContext.SeccompProfile == nil {
		old(seccompPod, `non-functional in v1.27+; use the "seccompProfile" field instead`)
	}
	visitContainers(s, nil, func(c *corev1.Container, _ place) {
		if c.SecurityContext == nil || c.SecurityContext.SeccompProfile == nil {
			old(seccompContainer+c.Name, `non-functional in v1.27+; use the "seccompProfile" field instead`)
		}
		if w.appArmor(s, c, meta) {
			old(corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix+c.Name, `deprecated since v1.30; use the "appArmorProfile" field instead`)
		}
	})
}

// appArmor says whether a container's AppArmor annotation, if there is one, is
// what decides. A pod has had its fields filled in from it (see
// AppArmorFields), so there a field that says the same counts for nothing.
func (w *warner) appArmor(s *corev1.PodSpec, c *corev1.Container, meta *metav1.ObjectMeta) bool {
	profile := annotatedProfile(meta.Annotations[corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix+c.Name])
	if own := c.SecurityContext; own != nil && own.AppArmorProfile != nil {
		return !w.template && equality.Semantic.DeepEqual(own.AppArmorProfile, profile)
	}
	return profile == nil || s.SecurityContext == nil || !equality.Semantic.DeepEqual(s.SecurityContext.AppArmorProfile, profile)
}

func (w *warner) volumes(path *field.Path, volumes []corev1.Volume) {
	for i, v := range volumes {
		at := path.Index(i)
		for _, d := range []struct {
			set        bool
			name, text string
		}{
			{v.PhotonPersistentDisk != nil, "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"},
			{v.GitRepo != nil, "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"},
			{v.ScaleIO != nil, "scaleIO", "deprecated in v1.16, non-functional in v1.22+"},
			{v.Flocker != nil, "flocker", "deprecated in v1.22, non-functional in v1.25+"},
			{v.StorageOS != nil, "storageOS", "deprecated in v1.22, non-functional in v1.25+"},
			{v.Quobyte != nil, "quobyte", "deprecated in v1.22, non-functional in v1.25+"},
			{v.Glusterfs != nil, "glusterfs", "deprecated in v1.25, non-functional in v1.26+"},
			{v.CephFS != nil, "cephfs", "deprecated in v1.28, non-functional in v1.31+"},
			{v.RBD != nil, "rbd", "deprecated in v1.28, non-functional in v1.31+"},
		} {
			if d.set {
				w.add(at.Child(d.name), "%s", d.text)
			}
		}
		if e := v.Ephemeral; e != nil && e.VolumeClaimTemplate != nil {
			w.texts = append(w.texts, ClaimWarnings(at.Child("ephemeral", "volumeClaimTemplate", "spec"), &e.VolumeClaimTemplate.Spec)...)
		}
	}
}

func (w *warner) lists(path *field.Path, s *corev1.PodSpec) {
	seen := sets.New[string]()
	for i, a := range s.HostAliases {
		if seen.Has(a.IP) {
			w.add(path.Child("hostAliases").Index(i).Child("ip"), "duplicate ip %q", a.IP)
		}
		seen.Insert(a.IP)
	}
	seen = sets.New[string]()
	for i, r := range s.ImagePullSecrets {
		at := path.Child("imagePullSecrets").Index(i).Child("name")
		if seen.Has(r.Name) {
			w.add(at, "duplicate name %q", r.Name)
		}
		if r.Name == "" {
			w.add(at, "invalid empty name %q", r.Name)
		}
		seen.Insert(r.Name)
	}
}

func (w *warner) fractions(path *field.Path, l corev1.ResourceList) {
	for _, name := range []corev1.ResourceName{corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
		if q, ok := l[name]; ok && q.MilliValue()%1000 != 0 {
			w.add(path.Key(string(name)), "fractional byte value %q is invalid, must be an integer", q.String())
		}
	}
}

// env warns of a variable that replaces an earlier one without using it.
func (w *warner) env(path *field.Path, env []corev1.EnvVar) {
	seen := sets.New[string]()
	for i := range env {
		v := &env[i]
		if seen.Has(v.Name) {
			if ref := "$(" + v.Name + ")"; v.ValueFrom != nil || v.Value == ref || !strings.Contains(v.Value, ref) {
				w.add(path.Index(i), "hides previous definition of %q, which may be dropped when using apply", v.Name)
			}
		}
		seen.Insert(v.Name)
	}
}

// portNames warns of names that lead to the first of several ports alone.
func (w *warner) portNames(path *field.Path, s *corev1.PodSpec) {
	seen := map[string]*field.Path{}
	visitContainers(s, path, func(c *corev1.Container, path place) {
		for i, p := range c.Ports {
			at := path.Child("ports").Index(i)
			if first, ok := seen[p.Name]; ok {
				w.add(at, "duplicate port name %q with %s, services and probes that select ports by name will use %s", p.Name, first, first)
			} else if p.Name != "" {
				seen[p.Name] = at
			}
		}
	})
}

func (w *warner) ports(path *field.Path, s *corev1.PodSpec) {
	type key struct {
		number   int32
		protocol corev1.Protocol
	}
	type port struct {
		path *field.Path
		corev1.ContainerPort
	}
	seen := map[key][]port{}
	visitContainers(s, path, func(c *corev1.Container, path place) {
		for i, p := range c.Ports {
			at := path.Child("ports").Index(i)
			if p.HostIP != "" && p.HostPort == 0 {
				w.add(at, "hostIP set without hostPort: %+v", p)
			}
			same := key{p.ContainerPort, p.Protocol}
			for _, o := range seen[same] {
				switch {
				case p.HostIP == o.HostIP && p.HostPort == o.HostPort:
					w.add(at, "duplicate port definition with %s", o.path)
				case p.HostPort == 0 || o.HostPort == 0:
					w.add(at, "overlapping port definition with %s", o.path)
				case p.HostPort == o.HostPort && (p.HostIP == "") != (o.HostIP == ""):
					w.add(at, "dangerously ambiguous port definition with %s", o.path)
				}
			}
			seen[same] = append(seen[same], port{at, p})
		}
	})
}
