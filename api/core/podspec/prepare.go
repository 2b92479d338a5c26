package podspec

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/proa-dev/proa/api/validate"

	"github.com/proa-dev/proa/api"
)

// AppArmorFields writes the profile that a container's deprecated annotation
// names into the field that replaced it, where that is empty.
func AppArmorFields(p *corev1.Pod) {
	if p.Spec.OS != nil && p.Spec.OS.Name == corev1.Windows {
		return
	}
	visitContainers(&p.Spec, nil, func(c *corev1.Container, _ place) {
		annotation, ok := p.Annotations[corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix+c.Name]
		if !ok || c.SecurityContext != nil && c.SecurityContext.AppArmorProfile != nil {
			return
		}
		profile := annotatedProfile(annotation)
		if profile == nil || p.Spec.SecurityContext != nil && equality.Semantic.DeepEqual(profile, p.Spec.SecurityContext.AppArmorProfile) {
			return
		}
		if c.SecurityContext == nil {
			c.SecurityContext = &corev1.SecurityContext{}
		}
		c.SecurityContext.AppArmorProfile = profile
	})
}

// annotatedProfile is the field's form of an AppArmor annotation, nil for one
// that means nothing.
func annotatedProfile(annotation string) *corev1.AppArmorProfile {
	if name, ok := strings.CutPrefix(annotation, localhost); ok && name != "" && trimmed(name) {
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeLocalhost, LocalhostProfile: &name}
	}
	switch annotation {
	case unconfined:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined}
	case corev1.DeprecatedAppArmorBetaProfileRuntimeDefault:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}
	}
	return nil
}

// MergeLabelKeys writes what matchLabelKeys and mismatchLabelKeys mean for
// this very pod into the label selectors beside them: so the scheduler need
// not know the pod that a term came from.
func MergeLabelKeys(p *corev1.Pod) {
	merge := func(s *metav1.LabelSelector, op metav1.LabelSelectorOperator, keys []string) {
		if s == nil {
			return
		}
		for _, k := range keys {
			if v, ok := p.Labels[k]; ok {
				s.MatchExpressions = append(s.MatchExpressions, metav1.LabelSelectorRequirement{
					Key: k, Operator: op, Values: []string{v},
				})
			}
		}
	}
	terms := func(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm) {
		one := func(t *corev1.PodAffinityTerm) {
			merge(t.LabelSelector, metav1.LabelSelectorOpIn, t.MatchLabelKeys)
			merge(t.LabelSelector, metav1.LabelSelectorOpNotIn, t.MismatchLabelKeys)
		}
		for i := range required {
			one(&required[i])
		}
		for i := range preferred {
			one(&preferred[i].PodAffinityTerm)
		}
	}
	if a := p.Spec.Affinity; a != nil {
		if a.PodAffinity != nil {
			terms(a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
		}
		if a.PodAntiAffinity != nil {
			terms(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
		}
	}
	for i := range p.Spec.TopologySpreadConstraints {
		t := &p.Spec.TopologySpreadConstraints[i]
		merge(t.LabelSelector, metav1.LabelSelectorOpIn, t.MatchLabelKeys)
	}
}

// DropGated clears what belongs to features that are off by default in the
// API's version, and the annotations that once stood for init containers. As
// upstream it says nothing, and what the old spec has already (nil for a new
// object) may stay.
func DropGated(spec, old *corev1.PodSpec, annotations map[string]string) {
	if old == nil || !api.Equal(spec, old) { // else it has nothing that old has not
		dropGatedFields(spec, old)
	}
	for _, k := range []string{
		"pod.beta.kubernetes.io/init-containers", "pod.alpha.kubernetes.io/init-containers",
		"pod.beta.kubernetes.io/init-container-statuses", "pod.alpha.kubernetes.io/init-container-statuses",
	} {
		delete(annotations, k)
	}
}

func dropGatedFields(spec, old *corev1.PodSpec) {
	var before *corev1.PodSpec
	if old != nil {
		before = old.DeepCopy()
	}
	for _, f := range gatedFields() {
		if before == nil || !f(before) {
			f(spec)
		}
	}
}

// DropGatedTemplate is DropGated for a pod template; old is nil for a new one.
func DropGatedTemplate(t, old *corev1.PodTemplateSpec) {
	if t == nil {
		return
	}
	if old == nil {
		DropGated(&t.Spec, nil, t.Annotations)
		return
	}
	DropGated(&t.Spec, &old.Spec, t.Annotations)
}

// gatedFields are functions that each clear the fields of one feature, and say
// whether there were any.
func gatedFields() []func(*corev1.PodSpec) bool {
	return []func(*corev1.PodSpec) bool{
		func(s *corev1.PodSpec) bool { return unset(&s.SchedulingGroup) },
		func(s *corev1.PodSpec) bool {
			had := s.EvictionResponders != nil
			s.EvictionResponders = nil
			return had
		},
		dropStopSignals, dropProbeProtocols, dropProbeModes, dropBindOptions, dropEmptyDirModes, dropFileOwners,
	}
}

// unset clears a field and says whether it was set.
func unset[T any](p **T) bool {
	had := *p != nil
	*p = nil
	return had
}

// eachContainer says whether f was true of any container.
func eachContainer(s *corev1.PodSpec, f func(*corev1.Container) bool) bool {
	had := false
	visitContainers(s, nil, func(c *corev1.Container, _ place) { had = f(c) || had })
	return had
}

// dropStopSignals: ContainerStopSignals.
func dropStopSignals(s *corev1.PodSpec) bool {
	return eachContainer(s, func(c *corev1.Container) bool {
		if c.Lifecycle == nil || !unset(&c.Lifecycle.StopSignal) {
			return false
		}
		if *c.Lifecycle == (corev1.Lifecycle{}) {
			c.Lifecycle = nil
		}
		return true
	})
}

// dropProbeProtocols: H2CContainerProbe.
func dropProbeProtocols(s *corev1.PodSpec) bool {
	return eachContainer(s, func(c *corev1.Container) bool {
		had := false
		drop := func(h *corev1.HTTPGetAction) {
			if h != nil && unset(&h.Protocol) {
				had = true
			}
		}
		for _, p := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
			if p != nil {
				drop(p.HTTPGet)
			}
		}
		if l := c.Lifecycle; l != nil {
			for _, h := range []*corev1.LifecycleHandler{l.PostStart, l.PreStop} {
				if h != nil {
					drop(h.HTTPGet)
				}
			}
		}
		return had
	})
}

// dropProbeModes: GRPCContainerProbeTLS.
func dropProbeModes(s *corev1.PodSpec) bool {
	return eachContainer(s, func(c *corev1.Container) bool {
		had := false
		for _, p := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
			if p != nil && p.GRPC != nil && unset(&p.GRPC.Mode) {
				had = true
			}
		}
		return had
	})
}

// dropBindOptions: VolumeBindMountOptions.
func dropBindOptions(s *corev1.PodSpec) bool {
	return eachContainer(s, func(c *corev1.Container) bool {
		had := false
		for i := range c.VolumeMounts {
			had = had || c.VolumeMounts[i].BindMountOptions != nil
			c.VolumeMounts[i].BindMountOptions = nil
		}
		return had
	})
}

// dropEmptyDirModes: EmptyDirVolumeMode.
func dropEmptyDirModes(s *corev1.PodSpec) bool {
	had := false
	for i := range s.Volumes {
		if d := s.Volumes[i].EmptyDir; d != nil && unset(&d.Mode) {
			had = true
		}
	}
	return had
}

// dropFileOwners: AtomicWriteVolumeUserFields.
func dropFileOwners(s *corev1.PodSpec) bool {
	had := false
	drop := func(user **int64) { had = unset(user) || had }
	keys := func(items []corev1.KeyToPath) {
		for i := range items {
			drop(&items[i].User)
		}
	}
	files := func(items []corev1.DownwardAPIVolumeFile) {
		for i := range items {
			drop(&items[i].User)
		}
	}
	for i := range s.Volumes {
		v := &s.Volumes[i]
		if v.Secret != nil {
			drop(&v.Secret.DefaultUser)
			keys(v.Secret.Items)
		}
		if v.ConfigMap != nil {
			drop(&v.ConfigMap.DefaultUser)
			keys(v.ConfigMap.Items)
		}
		if v.DownwardAPI != nil {
			drop(&v.DownwardAPI.DefaultUser)
			files(v.DownwardAPI.Items)
		}
		if v.Projected == nil {
			continue
		}
		drop(&v.Projected.DefaultUser)
		for _, p := range v.Projected.Sources {
			if p.Secret != nil {
				keys(p.Secret.Items)
			}
			if p.ConfigMap != nil {
				keys(p.ConfigMap.Items)
			}
			if p.DownwardAPI != nil {
				files(p.DownwardAPI.Items)
			}
			if p.ServiceAccountToken != nil {
				drop(&p.ServiceAccountToken.User)
			}
			if p.ClusterTrustBundle != nil {
				drop(&p.ClusterTrustBundle.User)
			}
			if p.PodCertificate != nil {
				drop(&p.PodCertificate.User)
			}
		}
	}
	return had
}

// DefaultPodResources completes the resources of the pod as a whole, where it
// has some. It comes after admission, which may have added containers.
//
// The order matters: huge pages cannot be overcommitted, so their limits come
// first and become requests; requests decide which limits are filled in.
func DefaultPodResources(pod *corev1.Pod) {
	r := pod.Spec.Resources
	if r == nil || len(r.Requests)+len(r.Limits) == 0 {
		return
	}
	limits := resourcehelper.AggregateContainerLimits(pod, resourcehelper.PodResourcesOptions{})
	for name, q := range limits {
		if _, requested := r.Requests[name]; validate.HugePages(name) && !requested {
			addResource(&r.Limits, name, q)
		}
	}
	for name, q := range resourcehelper.AggregateContainerRequests(pod, resourcehelper.PodResourcesOptions{}) {
		if !validate.HugePages(name) {
			addResource(&r.Requests, name, q)
		}
	}
	for name, q := range r.Limits {
		addResource(&r.Requests, name, q)
	}
	for name, request := range r.Requests {
		limit, ok := limits[name]
		if !ok || !allLimit(&pod.Spec, name) {
			continue
		}
		// A pod that requests more than its containers may use stays valid.
		if request.Cmp(limit) > 0 {
			limit = request
		}
		addResource(&r.Limits, name, limit)
	}
}

// addResource adds to a list what pods may have as a whole and the list lacks.
func addResource(l *corev1.ResourceList, name corev1.ResourceName, q resource.Quantity) {
	if _, ok := (*l)[name]; ok || !resourcehelper.IsSupportedPodLevelResource(name) {
		return
	}
	if *l == nil {
		*l = corev1.ResourceList{}
	}
	(*l)[name] = q.DeepCopy()
}

// allLimit says that every container has a limit of the resource.
func allLimit(spec *corev1.PodSpec, name corev1.ResourceName) bool {
	all := true
	visitContainers(spec, nil, func(c *corev1.Container, _ place) {
		if _, ok := c.Resources.Limits[name]; !ok {
			all = false
		}
	})
	return all
}
