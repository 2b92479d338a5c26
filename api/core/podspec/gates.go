package podspec

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// DropGated clears what belongs to features that are off by default in the
// API's version, and the annotations that once stood for init containers. As
// upstream it says nothing, and what the old spec has already (nil for a new
// object) may stay.
func DropGated(spec, old *corev1.PodSpec, annotations map[string]string) {
	before := &corev1.PodSpec{}
	if old != nil {
		old.DeepCopyInto(before)
	}
	for _, f := range gatedFields() {
		if !f(before) {
			f(spec)
		}
	}
	for _, k := range []string{
		"pod.beta.kubernetes.io/init-containers", "pod.alpha.kubernetes.io/init-containers",
		"pod.beta.kubernetes.io/init-container-statuses", "pod.alpha.kubernetes.io/init-container-statuses",
	} {
		delete(annotations, k)
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
	visitContainers(s, nil, func(c *corev1.Container, _ *field.Path) { had = f(c) || had })
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
