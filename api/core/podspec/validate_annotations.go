package podspec

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api/validate"
)

// The annotations that mean something to pods and that k8s.io/api no longer
// names.
const (
	seccompPod       = "seccomp.security.alpha.kubernetes.io/pod"
	seccompContainer = "container.seccomp.security.alpha.kubernetes.io/"
	seccompDefault   = "runtime/default"
	seccompDocker    = "docker/default"
	unconfined       = "unconfined"
	localhost        = "localhost/"
	tolerations      = "scheduler.alpha.kubernetes.io/tolerations"
)

func badDeletionCost(annotations map[string]string) bool {
	cost, ok := annotations[corev1.PodDeletionCost]
	if !ok {
		return false
	}
	// A leading zero or plus would be lost in the number.
	n, err := strconv.ParseInt(cost, 10, 32)
	return err != nil || strconv.FormatInt(n, 10) != cost
}

func validateAnnotations(path *field.Path, annotations map[string]string, spec *corev1.PodSpec, opts Options) field.ErrorList {
	var errs field.ErrorList
	if v, ok := annotations[corev1.MirrorPodAnnotationKey]; ok && spec.NodeName == "" {
		errs = append(errs, field.Invalid(path.Key(corev1.MirrorPodAnnotationKey), v, "must set spec.nodeName if mirror pod annotation is set"))
	}
	if v := annotations[tolerations]; v != "" {
		var list []corev1.Toleration
		if err := json.Unmarshal([]byte(v), &list); err != nil {
			errs = append(errs, field.Invalid(path, tolerations, err.Error()))
		}
		errs = append(errs, ValidateTolerations(path.Child(tolerations), list)...)
	}
	if !opts.deletionCost && badDeletionCost(annotations) {
		errs = append(errs, field.Invalid(path.Key(corev1.PodDeletionCost), annotations[corev1.PodDeletionCost], "must be a 32bit integer"))
	}
	for _, k := range slices.Sorted(maps.Keys(annotations)) {
		v := annotations[k]
		if k == seccompPod || strings.HasPrefix(k, seccompContainer) {
			errs = append(errs, validateSeccompAnnotation(path.Child(k), v)...)
		}
		if name, ok := strings.CutPrefix(k, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix); ok {
			if !hasContainer(spec, name) {
				errs = append(errs, field.Invalid(path.Key(k), name, "container not found"))
			}
			if v != "" && v != corev1.DeprecatedAppArmorBetaProfileRuntimeDefault && v != unconfined && !strings.HasPrefix(v, localhost) {
				errs = append(errs, field.Invalid(path.Key(k), v, fmt.Sprintf("invalid AppArmor profile name: %q", v)))
			}
		}
	}
	return errs
}

func validateSeccompAnnotation(path *field.Path, v string) field.ErrorList {
	if file, ok := strings.CutPrefix(v, localhost); ok {
		return validate.RelativePath(path, file)
	}
	if v != seccompDefault && v != seccompDocker && v != unconfined {
		return field.ErrorList{field.Invalid(path, v, "must be a valid seccomp profile")}
	}
	return nil
}

// profilesMatchAnnotations wants the deprecated annotations to say what the
// fields say, where both are there.
func profilesMatchAnnotations(path *field.Path, annotations map[string]string, spec *corev1.PodSpec) field.ErrorList {
	var errs field.ErrorList
	match := func(path *field.Path, what, annotation, kind string, file *string, runtimeDefault ...string) {
		ok := true
		switch kind {
		case "Unconfined":
			ok = annotation == unconfined
		case "RuntimeDefault":
			ok = slices.Contains(runtimeDefault, annotation)
		case "Localhost":
			name, local := strings.CutPrefix(annotation, localhost)
			if ok = local; ok && (file == nil || *file != name) {
				errs = append(errs, field.Forbidden(path.Child("localhostProfile"), what+" profile in annotation and field must match"))
			}
		}
		if !ok {
			errs = append(errs, field.Forbidden(path.Child("type"), what+" type in annotation and field must match"))
		}
	}
	var appArmor *corev1.AppArmorProfile
	if s := spec.SecurityContext; s != nil {
		appArmor = s.AppArmorProfile
		if a, ok := annotations[seccompPod]; ok && s.SeccompProfile != nil {
			match(path.Child("securityContext", "seccompProfile"), "seccomp", a, string(s.SeccompProfile.Type),
				s.SeccompProfile.LocalhostProfile, seccompDefault, seccompDocker)
		}
	}
	visitContainers(spec, path, func(c *corev1.Container, path place) {
		profile := appArmor
		if s := c.SecurityContext; s != nil {
			if a, ok := annotations[seccompContainer+c.Name]; ok && s.SeccompProfile != nil {
				match(path.Child("securityContext", "seccompProfile"), "seccomp", a, string(s.SeccompProfile.Type),
					s.SeccompProfile.LocalhostProfile, seccompDefault, seccompDocker)
			}
			if s.AppArmorProfile != nil {
				profile = s.AppArmorProfile
			}
		}
		windows := spec.OS != nil && spec.OS.Name == corev1.Windows
		a, ok := annotations[corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix+c.Name]
		if ok && profile != nil && !windows {
			match(path.Child("securityContext", "appArmorProfile"), "apparmor", a, string(profile.Type),
				profile.LocalhostProfile, corev1.DeprecatedAppArmorBetaProfileRuntimeDefault)
		}
	})
	return errs
}
