// Package podrefs tells which other objects a pod names: what a node may read
// because the pod runs on it, what a mirror pod may not have.
package podrefs

import (
	"iter"

	corev1 "k8s.io/api/core/v1"
)

// Containers yields all containers of a pod as plain ones: init, regular,
// ephemeral.
func Containers(spec *corev1.PodSpec) iter.Seq[*corev1.Container] {
	return func(yield func(*corev1.Container) bool) {
		for i := range spec.InitContainers {
			if !yield(&spec.InitContainers[i]) {
				return
			}
		}
		for i := range spec.Containers {
			if !yield(&spec.Containers[i]) {
				return
			}
		}
		for i := range spec.EphemeralContainers {
			c := corev1.Container(spec.EphemeralContainers[i].EphemeralContainerCommon)
			if !yield(&c) {
				return
			}
		}
	}
}

// Secrets yields the names of the secrets that a pod names, empty ones left
// out, repeated ones repeated.
func Secrets(pod *corev1.Pod) iter.Seq[string] {
	return func(yield func(string) bool) {
		emit := func(name string) bool { return name == "" || yield(name) }
		for _, s := range pod.Spec.ImagePullSecrets {
			if !emit(s.Name) {
				return
			}
		}
		for c := range Containers(&pod.Spec) {
			for _, e := range c.EnvFrom {
				if e.SecretRef != nil && !emit(e.SecretRef.Name) {
					return
				}
			}
			for _, e := range c.Env {
				if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil && !emit(e.ValueFrom.SecretKeyRef.Name) {
					return
				}
			}
		}
		for i := range pod.Spec.Volumes {
			for _, name := range volumeSecrets(&pod.Spec.Volumes[i].VolumeSource) {
				if !emit(name) {
					return
				}
			}
		}
	}
}

func volumeSecrets(v *corev1.VolumeSource) []string {
	switch {
	case v.Secret != nil:
		return []string{v.Secret.SecretName}
	case v.Projected != nil:
		var names []string
		for _, s := range v.Projected.Sources {
			if s.Secret != nil {
				names = append(names, s.Secret.Name)
			}
		}
		return names
	case v.AzureFile != nil:
		return []string{v.AzureFile.SecretName}
	}
	for _, ref := range []*corev1.LocalObjectReference{
		localRef(v.CephFS, func(s *corev1.CephFSVolumeSource) *corev1.LocalObjectReference { return s.SecretRef }),
		localRef(v.Cinder, func(s *corev1.CinderVolumeSource) *corev1.LocalObjectReference { return s.SecretRef }),
		localRef(v.FlexVolume, func(s *corev1.FlexVolumeSource) *corev1.LocalObjectReference { return s.SecretRef }),
		localRef(v.RBD, func(s *corev1.RBDVolumeSource) *corev1.LocalObjectReference { return s.SecretRef }),
		localRef(v.ScaleIO, func(s *corev1.ScaleIOVolumeSource) *corev1.LocalObjectReference { return s.SecretRef }),
		localRef(v.ISCSI, func(s *corev1.ISCSIVolumeSource) *corev1.LocalObjectReference { return s.SecretRef }),
		localRef(v.StorageOS, func(s *corev1.StorageOSVolumeSource) *corev1.LocalObjectReference { return s.SecretRef }),
		localRef(v.CSI, func(s *corev1.CSIVolumeSource) *corev1.LocalObjectReference { return s.NodePublishSecretRef }),
	} {
		if ref != nil {
			return []string{ref.Name}
		}
	}
	return nil
}

func localRef[S any](source *S, ref func(*S) *corev1.LocalObjectReference) *corev1.LocalObjectReference {
	if source == nil {
		return nil
	}
	return ref(source)
}

// ConfigMaps yields the names of the config maps that a pod names.
func ConfigMaps(pod *corev1.Pod) iter.Seq[string] {
	return func(yield func(string) bool) {
		emit := func(name string) bool { return name == "" || yield(name) }
		for c := range Containers(&pod.Spec) {
			for _, e := range c.EnvFrom {
				if e.ConfigMapRef != nil && !emit(e.ConfigMapRef.Name) {
					return
				}
			}
			for _, e := range c.Env {
				if e.ValueFrom != nil && e.ValueFrom.ConfigMapKeyRef != nil && !emit(e.ValueFrom.ConfigMapKeyRef.Name) {
					return
				}
			}
		}
		for _, v := range pod.Spec.Volumes {
			if v.ConfigMap != nil && !emit(v.ConfigMap.Name) {
				return
			}
			if v.Projected == nil {
				continue
			}
			for _, s := range v.Projected.Sources {
				if s.ConfigMap != nil && !emit(s.ConfigMap.Name) {
					return
				}
			}
		}
	}
}

// Claims yields the names of the persistent volume claims that a pod uses,
// those of its ephemeral volumes too.
func Claims(pod *corev1.Pod) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, v := range pod.Spec.Volumes {
			switch {
			case v.PersistentVolumeClaim != nil:
				if !yield(v.PersistentVolumeClaim.ClaimName) {
					return
				}
			case v.Ephemeral != nil:
				if !yield(pod.Name + "-" + v.Name) {
					return
				}
			}
		}
	}
}

// ResourceClaims yields the names of the resource claims that a pod uses, as
// far as they are known.
func ResourceClaims(pod *corev1.Pod) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, c := range pod.Spec.ResourceClaims {
			if c.ResourceClaimName != nil && !yield(*c.ResourceClaimName) {
				return
			}
		}
		for _, c := range pod.Status.ResourceClaimStatuses {
			if c.ResourceClaimName != nil && !yield(*c.ResourceClaimName) {
				return
			}
		}
		if s := pod.Status.ExtendedResourceClaimStatus; s != nil {
			yield(s.ResourceClaimName)
		}
	}
}

// VolumeSecrets yields namespace and name of the secrets that a node needs to
// mount a persistent volume.
func VolumeSecrets(pv *corev1.PersistentVolume) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		s := &pv.Spec.PersistentVolumeSource
		if s.AzureFile != nil {
			namespace := ""
			if s.AzureFile.SecretNamespace != nil {
				namespace = *s.AzureFile.SecretNamespace
			} else if pv.Spec.ClaimRef != nil {
				namespace = pv.Spec.ClaimRef.Namespace
			}
			yield(namespace, s.AzureFile.SecretName)
			return
		}
		refs := []*corev1.SecretReference{
			secretRef(s.CephFS, func(v *corev1.CephFSPersistentVolumeSource) *corev1.SecretReference { return v.SecretRef }),
			secretRef(s.Cinder, func(v *corev1.CinderPersistentVolumeSource) *corev1.SecretReference { return v.SecretRef }),
			secretRef(s.FlexVolume, func(v *corev1.FlexPersistentVolumeSource) *corev1.SecretReference { return v.SecretRef }),
			secretRef(s.RBD, func(v *corev1.RBDPersistentVolumeSource) *corev1.SecretReference { return v.SecretRef }),
			secretRef(s.ScaleIO, func(v *corev1.ScaleIOPersistentVolumeSource) *corev1.SecretReference { return v.SecretRef }),
			secretRef(s.ISCSI, func(v *corev1.ISCSIPersistentVolumeSource) *corev1.SecretReference { return v.SecretRef }),
		}
		if s.CSI != nil {
			refs = append(refs, s.CSI.NodePublishSecretRef, s.CSI.NodeStageSecretRef, s.CSI.NodeExpandSecretRef)
		}
		for _, ref := range refs {
			if ref == nil {
				continue
			}
			namespace := ref.Namespace
			if namespace == "" && pv.Spec.ClaimRef != nil {
				namespace = pv.Spec.ClaimRef.Namespace
			}
			if !yield(namespace, ref.Name) {
				return
			}
		}
	}
}

func secretRef[S any](source *S, ref func(*S) *corev1.SecretReference) *corev1.SecretReference {
	if source == nil {
		return nil
	}
	return ref(source)
}
