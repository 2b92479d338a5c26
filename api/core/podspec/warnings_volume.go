package podspec

import (
	"cmp"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// StoredClaimWarnings says what of a claim as an object of its own is likely a
// mistake.
func StoredClaimWarnings(c *corev1.PersistentVolumeClaim) []string {
	w := &warner{}
	w.oldAnnotation(c.Annotations, corev1.BetaStorageClassAnnotation, `deprecated since v1.8; use "storageClassName" attribute instead`)
	return append(w.texts, ClaimWarnings(field.NewPath("spec"), &c.Spec)...)
}

// VolumeWarnings says what of a persistent volume is likely a mistake.
func VolumeWarnings(v *corev1.PersistentVolume) []string {
	w := &warner{}
	w.oldAnnotation(v.Annotations, corev1.BetaStorageClassAnnotation, `deprecated since v1.8; use "storageClassName" attribute instead`)
	w.oldAnnotation(v.Annotations, corev1.MountOptionAnnotation, `deprecated since v1.31; use "mountOptions" attribute instead`)
	s, path := &v.Spec, field.NewPath("spec")
	if s.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		w.add(path.Child("persistentVolumeReclaimPolicy"), "The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.")
	}
	if s.NodeAffinity != nil && s.NodeAffinity.Required != nil {
		for i, t := range s.NodeAffinity.Required.NodeSelectorTerms {
			w.term(path.Child("nodeAffinity", "required", "nodeSelectorTerms").Index(i), t)
		}
	}
	for _, d := range []struct {
		set        bool
		name, text string
	}{
		{s.CephFS != nil, "cephfs", "deprecated in v1.28, non-functional in v1.31+"},
		{s.PhotonPersistentDisk != nil, "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"},
		{s.ScaleIO != nil, "scaleIO", "deprecated in v1.16, non-functional in v1.22+"},
		{s.StorageOS != nil, "storageOS", "deprecated in v1.22, non-functional in v1.25+"},
		{s.Glusterfs != nil, "glusterfs", "deprecated in v1.25, non-functional in v1.26+"},
		{s.RBD != nil, "rbd", "deprecated in v1.28, non-functional in v1.31+"},
	} {
		if d.set {
			w.add(path.Child(d.name), "%s", d.text)
		}
	}
	return w.texts
}

func (w *warner) oldAnnotation(annotations map[string]string, key, text string) {
	if _, ok := annotations[key]; ok {
		w.add(field.NewPath("metadata", "annotations").Key(key), "%s", text)
	}
}

// ClaimWarnings says what of a claim for a volume is likely a mistake.
func ClaimWarnings(path *field.Path, s *corev1.PersistentVolumeClaimSpec) []string {
	w := &warner{}
	for _, l := range []struct {
		name string
		list corev1.ResourceList
	}{{"requests", s.Resources.Requests}, {"limits", s.Resources.Limits}} {
		if q, ok := l.list[corev1.ResourceStorage]; ok && q.MilliValue()%1000 != 0 {
			w.add(path.Child("resources", l.name).Key(string(corev1.ResourceStorage)), "fractional byte value %q is invalid, must be an integer", q.String())
		}
	}
	return w.texts
}

// source is a file that a volume shows, and what it is made of.
type source struct {
	path string
	of   origin
}

// origin is what a file is made of; nothing where the volume says it.
type origin struct {
	kind string
	name *string
}

func (s source) String() string {
	switch {
	case s.of.kind == "":
		return fmt.Sprintf("%q", s.path)
	case s.of.name == nil:
		return fmt.Sprintf("%q (%s)", s.path, s.of.kind)
	}
	return fmt.Sprintf("%q (%s %q)", s.path, s.of.kind, *s.of.name)
}

// overlaps warns of volumes that show two things at one path, or one below the
// other.
func (w *warner) overlaps(volumes []corev1.Volume) {
	for i := range volumes {
		v := &volumes[i]
		switch {
		case v.ConfigMap != nil:
			w.collisions(v.Name, fmt.Sprintf("ConfigMap %q", v.ConfigMap.Name), keySources(v.ConfigMap.Items, origin{}))
		case v.Secret != nil:
			w.collisions(v.Name, fmt.Sprintf("Secret %q", v.Secret.SecretName), keySources(v.Secret.Items, origin{}))
		case v.DownwardAPI != nil:
			w.collisions(v.Name, "DownwardAPI", fieldSources(v.DownwardAPI.Items, origin{}))
		case v.Projected != nil:
			var all []source
			for j := range v.Projected.Sources {
				p := &v.Projected.Sources[j]
				if *p == (corev1.VolumeProjection{}) {
					w.texts = append(w.texts, fmt.Sprintf("volume %q (Projected) has no sources provided", v.Name))
				}
				all = append(all, projectedSources(p)...)
			}
			w.collisions(v.Name, "Projected", all)
		}
	}
}

func (w *warner) collisions(volume, kind string, files []source) {
	for i := range files {
		f := &files[i]
		if f.path = strings.TrimRight(f.path, "/"); f.path == "" {
			continue
		}
		for _, o := range files[:i] {
			if o.path != "" && (strings.HasPrefix(o.path+"/", f.path+"/") || strings.HasPrefix(f.path+"/", o.path+"/")) {
				w.texts = append(w.texts, fmt.Sprintf("volume %q (%s): overlapping paths: %s with %s", volume, kind, f, o))
			}
		}
	}
}

func keySources(items []corev1.KeyToPath, of origin) []source {
	var out []source
	for _, i := range items {
		out = append(out, source{i.Path, of})
	}
	return out
}

func fieldSources(items []corev1.DownwardAPIVolumeFile, of origin) []source {
	var out []source
	for _, i := range items {
		out = append(out, source{i.Path, of})
	}
	return out
}

func projectedSources(p *corev1.VolumeProjection) []source {
	switch {
	case p.ConfigMap != nil:
		return keySources(p.ConfigMap.Items, origin{"ConfigMap", &p.ConfigMap.Name})
	case p.Secret != nil:
		return keySources(p.Secret.Items, origin{"Secret", &p.Secret.Name})
	case p.DownwardAPI != nil:
		return fieldSources(p.DownwardAPI.Items, origin{kind: "DownwardAPI"})
	case p.ServiceAccountToken != nil:
		return []source{{p.ServiceAccountToken.Path, origin{kind: "ServiceAccountToken"}}}
	case p.ClusterTrustBundle != nil:
		b := p.ClusterTrustBundle
		return []source{{b.Path, origin{"ClusterTrustBundle", cmp.Or(b.Name, b.SignerName, new(string))}}}
	case p.PodCertificate != nil:
		return []source{
			{p.PodCertificate.CertificateChainPath, origin{kind: "PodCertificate chain"}},
			{p.PodCertificate.KeyPath, origin{kind: "PodCertificate key"}},
			{p.PodCertificate.CredentialBundlePath, origin{kind: "PodCertificate credential bundle"}},
		}
	}
	return nil
}
