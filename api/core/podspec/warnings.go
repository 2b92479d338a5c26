package podspec

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Warnings says what is legal in a pod and yet likely a mistake.
func Warnings(p *corev1.Pod) []string {
	w := &warner{}
	w.spec(nil, &p.Spec, &p.ObjectMeta)
	return w.texts
}

// TemplateWarnings is Warnings for a pod template at path.
func TemplateWarnings(path *field.Path, t *corev1.PodTemplateSpec) []string {
	w := &warner{}
	w.spec(path, &t.Spec, &t.ObjectMeta)
	return w.texts
}

type warner struct{ texts []string }

func (w *warner) add(path *field.Path, format string, args ...any) {
	w.texts = append(w.texts, path.String()+": "+fmt.Sprintf(format, args...))
}

func (w *warner) spec(root *field.Path, s *corev1.PodSpec, meta *metav1.ObjectMeta) {
	path := root.Child("spec")
	for _, k := range slices.Sorted(maps.Keys(s.NodeSelector)) {
		w.label(path.Child("nodeSelector").Key(k), "", k)
	}
	w.affinity(path.Child("affinity", "nodeAffinity"), s.Affinity)
	for i, t := range s.TopologySpreadConstraints {
		at := path.Child("topologySpreadConstraints").Index(i)
		w.label(at.Child("topologyKey"), t.TopologyKey+" is ", t.TopologyKey)
		if t.LabelSelector == nil {
			w.add(at.Child("labelSelector"), "a null labelSelector results in matching no pod")
		}
	}
	w.annotations(root.Child("metadata", "annotations"), s, meta)
	w.volumes(path.Child("volumes"), s.Volumes)
	w.lists(path, s)
	w.fractions(path.Child("overhead"), s.Overhead)
	visitContainers(s, path, func(c *corev1.Container, path *field.Path) {
		w.fractions(path.Child("resources", "limits"), c.Resources.Limits)
		w.fractions(path.Child("resources", "requests"), c.Resources.Requests)
		w.env(path.Child("env"), c.Env)
	})
	w.ports(path, s)
	if s.TerminationGracePeriodSeconds != nil && *s.TerminationGracePeriodSeconds < 0 {
		w.add(path.Child("terminationGracePeriodSeconds"), "must be >= 0; negative values are invalid and will be treated as 1")
	}
}

// label warns of node labels that were renamed.
func (w *warner) label(path *field.Path, prefix, key string) {
	var now string
	switch key {
	case "beta.kubernetes.io/arch":
		now = "kubernetes.io/arch"
	case "beta.kubernetes.io/os":
		now = "kubernetes.io/os"
	case corev1.LabelFailureDomainBetaRegion:
		now = corev1.LabelTopologyRegion
	case corev1.LabelFailureDomainBetaZone:
		now = corev1.LabelTopologyZone
	case corev1.LabelInstanceType:
		now = corev1.LabelInstanceTypeStable
	default:
		return
	}
	since := "v1.14"
	if strings.HasPrefix(now, "topology") || now == corev1.LabelInstanceTypeStable {
		since = "v1.17"
	}
	w.add(path, `%sdeprecated since %s; use "%s" instead`, prefix, since, now)
}

func (w *warner) affinity(path *field.Path, a *corev1.Affinity) {
	if a == nil || a.NodeAffinity == nil {
		return
	}
	term := func(path *field.Path, t corev1.NodeSelectorTerm) {
		for i, e := range t.MatchExpressions {
			w.label(path.Child("matchExpressions").Index(i).Child("key"), e.Key+" is ", e.Key)
		}
	}
	if r := a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution; r != nil {
		for i, t := range r.NodeSelectorTerms {
			term(path.Child("requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms").Index(i), t)
		}
	}
	for i, t := range a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution {
		term(path.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i).Child("preference"), t.Preference)
	}
}

func (w *warner) annotations(path *field.Path, s *corev1.PodSpec, meta *metav1.ObjectMeta) {
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
	podArmor := s.SecurityContext != nil && s.SecurityContext.AppArmorProfile != nil
	visitContainers(s, nil, func(c *corev1.Container, _ *field.Path) {
		if c.SecurityContext == nil || c.SecurityContext.SeccompProfile == nil {
			old(seccompContainer+c.Name, `non-functional in v1.27+; use the "seccompProfile" field instead`)
		}
		if !podArmor && (c.SecurityContext == nil || c.SecurityContext.AppArmorProfile == nil) {
			old(corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix+c.Name, `deprecated since v1.30; use the "appArmorProfile" field instead`)
		}
	})
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
	for i, v := range env {
		ref := "$(" + v.Name + ")"
		if seen.Has(v.Name) && (v.ValueFrom != nil || v.Value == ref || !strings.Contains(v.Value, ref)) {
			w.add(path.Index(i), "hides previous definition of %q, which may be dropped when using apply", v.Name)
		}
		seen.Insert(v.Name)
	}
}

func (w *warner) ports(path *field.Path, s *corev1.PodSpec) {
	type place struct {
		path *field.Path
		corev1.ContainerPort
	}
	seen := map[string][]place{}
	visitContainers(s, path, func(c *corev1.Container, path *field.Path) {
		for i, p := range c.Ports {
			at := path.Child("ports").Index(i)
			if p.HostIP != "" && p.HostPort == 0 {
				w.add(at, "hostIP set without hostPort: %+v", p)
			}
			key := fmt.Sprintf("%d/%s", p.ContainerPort, p.Protocol)
			for _, o := range seen[key] {
				switch {
				case p.HostIP == o.HostIP && p.HostPort == o.HostPort:
					w.add(at, "duplicate port definition with %s", o.path)
				case p.HostPort == 0 || o.HostPort == 0:
					w.add(at, "overlapping port definition with %s", o.path)
				case p.HostPort == o.HostPort && (p.HostIP == "" || o.HostIP == ""):
					w.add(at, "dangerously ambiguous port definition with %s", o.path)
				}
			}
			seen[key] = append(seen[key], place{at, p})
		}
	})
}
