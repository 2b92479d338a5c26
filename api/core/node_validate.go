package core

import (
	"encoding/json"
	"fmt"
	"regexp"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api/validate"
)

const (
	taintsAnnotation    = "scheduler.alpha.kubernetes.io/taints"
	avoidPodsAnnotation = corev1.PreferAvoidPodsAnnotationKey
)

// validateNodeAnnotations checks what annotations said before there were
// fields for it.
func validateNodeAnnotations(path *field.Path, annotations map[string]string) field.ErrorList {
	var errs field.ErrorList
	if text := annotations[taintsAnnotation]; text != "" {
		var taints []corev1.Taint
		if err := json.Unmarshal([]byte(text), &taints); err != nil {
			errs = append(errs, field.Invalid(path, taintsAnnotation, err.Error()))
		} else {
			errs = append(errs, validateTaints(path.Child(taintsAnnotation), taints)...)
		}
	}
	text := annotations[avoidPodsAnnotation]
	if text == "" {
		return errs
	}
	var avoid corev1.AvoidPods
	if err := json.Unmarshal([]byte(text), &avoid); err != nil {
		return append(errs, field.Invalid(path.Child("AvoidPods"), avoidPodsAnnotation, err.Error()))
	}
	for i, a := range avoid.PreferAvoidPods {
		at := path.Child(avoidPodsAnnotation).Index(i).Child("PodSignature")
		switch owner := a.PodSignature.PodController; {
		case owner == nil:
			errs = append(errs, field.Required(at, ""))
		case owner.Controller == nil || !*owner.Controller:
			errs = append(errs, field.Invalid(at.Child("PodController", "Controller"), false, "must point to a controller"))
		}
	}
	return errs
}

// validateFeatures wants the names of a node's features, each once and in order.
func validateFeatures(path *field.Path, features []string) field.ErrorList {
	// A path of words in camel case, of which the first begins with a capital.
	format := regexp.MustCompile(`^[A-Z][a-zA-Z0-9]*(/[a-zA-Z][a-zA-Z0-9]*)*$`)
	var errs field.ErrorList
	for i, f := range features {
		at := path.Index(i)
		switch {
		case len(f) > validation.DNS1123SubdomainMaxLength:
			errs = append(errs, field.Invalid(at, f, fmt.Sprintf("invalid feature name %q: must be no more than %d characters", f, validation.DNS1123SubdomainMaxLength)))
		case !format.MatchString(f):
			errs = append(errs, field.Invalid(at, f, fmt.Sprintf("invalid feature name %q: must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes", f)))
		}
		if i == 0 {
			continue
		}
		if before := features[i-1]; before == f {
			errs = append(errs, field.Duplicate(at, f))
		} else if before > f {
			errs = append(errs, field.Invalid(at, f, "list must be sorted alphabetically"))
		}
	}
	return errs
}

// validateNodeConfig checks the sources of a kubelet's configuration, which
// nothing reads any more.
func validateNodeConfig(n *corev1.Node) field.ErrorList {
	var errs field.ErrorList
	if s := n.Spec.ConfigSource; s != nil {
		errs = append(errs, validateConfigSource(field.NewPath("spec", "configSource"), s, func(path *field.Path, m *corev1.ConfigMapNodeConfigSource) (errs field.ErrorList) {
			if m.UID != "" {
				errs = append(errs, field.Forbidden(path.Child("uid"), "uid must not be set in spec"))
			}
			if m.ResourceVersion != "" {
				errs = append(errs, field.Forbidden(path.Child("resourceVersion"), "resourceVersion must not be set in spec"))
			}
			return errs
		})...)
	}
	c := n.Status.Config
	if c == nil {
		return errs
	}
	for _, s := range []struct {
		name   string
		source *corev1.NodeConfigSource
	}{{"assigned", c.Assigned}, {"active", c.Active}, {"lastKnownGood", c.LastKnownGood}} {
		if s.source == nil {
			continue
		}
		errs = append(errs, validateConfigSource(field.NewPath("status", "config", s.name), s.source, func(path *field.Path, m *corev1.ConfigMapNodeConfigSource) field.ErrorList {
			return append(validate.Required(path.Child("uid"), string(m.UID)), validate.Required(path.Child("resourceVersion"), m.ResourceVersion)...)
		})...)
	}
	return errs
}

func validateConfigSource(path *field.Path, s *corev1.NodeConfigSource, identity func(*field.Path, *corev1.ConfigMapNodeConfigSource) field.ErrorList) field.ErrorList {
	m := s.ConfigMap
	if m == nil {
		return field.ErrorList{field.Invalid(path, s, "exactly one reference subfield must be non-nil")}
	}
	path = path.Child("configMap")
	errs := identity(path, m)
	if at := path.Child("namespace"); m.Namespace == "" {
		errs = append(errs, field.Required(at, ""))
	} else {
		errs = append(errs, validate.NamespaceName(at, m.Namespace)...)
	}
	if at := path.Child("name"); m.Name == "" {
		errs = append(errs, field.Required(at, ""))
	} else {
		errs = append(errs, validate.Subdomain(at, m.Name)...)
	}
	if at := path.Child("kubeletConfigKey"); m.KubeletConfigKey == "" {
		errs = append(errs, field.Required(at, ""))
	} else {
		errs = append(errs, validate.Messages(at, m.KubeletConfigKey, validation.IsConfigMapKey(m.KubeletConfigKey))...)
	}
	return errs
}
