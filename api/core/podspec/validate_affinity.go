package podspec

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api/validate"
)

func (c *checker) validateAffinity(path *field.Path) field.ErrorList {
	a := c.spec.Affinity
	if a == nil {
		return nil
	}
	const (
		requiredTerms  = "requiredDuringSchedulingIgnoredDuringExecution"
		preferredTerms = "preferredDuringSchedulingIgnoredDuringExecution"
	)
	var errs field.ErrorList
	if n := a.NodeAffinity; n != nil {
		at := path.Child("nodeAffinity")
		if r := n.RequiredDuringSchedulingIgnoredDuringExecution; r != nil {
			errs = append(errs, ValidateNodeSelector(at.Child(requiredTerms), r, c.nodeLabelValues)...)
		}
		for i, t := range n.PreferredDuringSchedulingIgnoredDuringExecution {
			item := at.Child(preferredTerms).Index(i)
			errs = append(errs, validateWeight(item, t.Weight)...)
			errs = append(errs, validateNodeSelectorTerm(item.Child("preference"), t.Preference, true)...)
		}
	}
	pods := func(at *field.Path, must []corev1.PodAffinityTerm, prefer []corev1.WeightedPodAffinityTerm) {
		for i := range must {
			errs = append(errs, c.validatePodAffinityTerm(at.Child(requiredTerms).Index(i), &must[i])...)
		}
		for i := range prefer {
			item := at.Child(preferredTerms).Index(i)
			errs = append(errs, validateWeight(item, prefer[i].Weight)...)
			errs = append(errs, c.validatePodAffinityTerm(item.Child("podAffinityTerm"), &prefer[i].PodAffinityTerm)...)
		}
	}
	if p := a.PodAffinity; p != nil {
		pods(path.Child("podAffinity"), p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if p := a.PodAntiAffinity; p != nil {
		pods(path.Child("podAntiAffinity"), p.RequiredDuringSchedulingIgnoredDuringExecution, p.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return errs
}

func validateWeight(path *field.Path, weight int32) field.ErrorList {
	if weight <= 0 || weight > 100 {
		return field.ErrorList{field.Invalid(path.Child("weight"), weight, "must be in the range 1-100")}
	}
	return nil
}

// ValidateNodeSelector validates a choice of nodes. lenient lets label values
// be what they like.
func ValidateNodeSelector(path *field.Path, s *corev1.NodeSelector, lenient bool) field.ErrorList {
	terms := path.Child("nodeSelectorTerms")
	if len(s.NodeSelectorTerms) == 0 {
		return field.ErrorList{field.Required(terms, "must have at least one node selector term")}
	}
	var errs field.ErrorList
	for i, t := range s.NodeSelectorTerms {
		errs = append(errs, validateNodeSelectorTerm(terms.Index(i), t, lenient)...)
	}
	return errs
}

func validateNodeSelectorTerm(path *field.Path, t corev1.NodeSelectorTerm, lenient bool) field.ErrorList {
	var errs field.ErrorList
	for i, r := range t.MatchExpressions {
		errs = append(errs, validateNodeExpression(path.Child("matchExpressions").Index(i), r, lenient)...)
	}
	for i, r := range t.MatchFields {
		errs = append(errs, validateNodeField(path.Child("matchFields").Index(i), r)...)
	}
	return errs
}

func validateNodeExpression(path *field.Path, r corev1.NodeSelectorRequirement, lenient bool) field.ErrorList {
	var errs field.ErrorList
	values := path.Child("values")
	switch r.Operator {
	case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
		if len(r.Values) == 0 {
			errs = append(errs, field.Required(values, "must be specified when `operator` is 'In' or 'NotIn'"))
		}
	case corev1.NodeSelectorOpExists, corev1.NodeSelectorOpDoesNotExist:
		if len(r.Values) > 0 {
			errs = append(errs, field.Forbidden(values, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'"))
		}
	case corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt:
		if len(r.Values) != 1 {
			errs = append(errs, field.Required(values, "must be specified single value when `operator` is 'Lt' or 'Gt'"))
		}
	default:
		errs = append(errs, field.Invalid(path.Child("operator"), r.Operator, "not a valid selector operator"))
	}
	errs = append(errs, metavalidation.ValidateLabelName(r.Key, path.Child("key"))...)
	if !lenient {
		for i, v := range r.Values {
			errs = append(errs, validate.Messages(values.Index(i), v, validation.IsValidLabelValue(v))...)
		}
	}
	return errs
}

func validateNodeField(path *field.Path, r corev1.NodeSelectorRequirement) field.ErrorList {
	var errs field.ErrorList
	switch r.Operator {
	case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
		if len(r.Values) != 1 {
			errs = append(errs, field.Required(path.Child("values"), "must be only one value when `operator` is 'In' or 'NotIn' for node field selector"))
		}
	default:
		errs = append(errs, field.Invalid(path.Child("operator"), r.Operator, "not a valid selector operator"))
	}
	if r.Key != metav1.ObjectNameField {
		return append(errs, field.Invalid(path.Child("key"), r.Key, "not a valid field selector key"))
	}
	for i, v := range r.Values {
		errs = append(errs, validate.Subdomain(path.Child("values").Index(i), v)...)
	}
	return errs
}

func (c *checker) validatePodAffinityTerm(path *field.Path, t *corev1.PodAffinityTerm) field.ErrorList {
	errs := validate.Selector(path.Child("labelSelector"), t.LabelSelector, c.labelValues)
	errs = append(errs, validate.Selector(path.Child("namespaceSelector"), t.NamespaceSelector, c.labelValues)...)
	for _, name := range t.Namespaces {
		errs = append(errs, validate.NamespaceName(path.Child("namespace"), name)...)
	}
	errs = append(errs, validateMatchKeys(path, t)...)
	if t.TopologyKey == "" {
		errs = append(errs, field.Required(path.Child("topologyKey"), "can not be empty"))
	}
	return append(errs, metavalidation.ValidateLabelName(t.TopologyKey, path.Child("topologyKey"))...)
}

// validateMatchKeys checks matchLabelKeys and mismatchLabelKeys. The selector
// has the requirements that were made of them already: a key twice in it was
// named in both places.
func validateMatchKeys(path *field.Path, t *corev1.PodAffinityTerm) field.ErrorList {
	var errs field.ErrorList
	for _, list := range []struct {
		name string
		keys []string
	}{{"matchLabelKeys", t.MatchLabelKeys}, {"mismatchLabelKeys", t.MismatchLabelKeys}} {
		if len(list.keys) > 0 && t.LabelSelector == nil {
			errs = append(errs, field.Forbidden(path.Child(list.name), "must not be specified when labelSelector is not set"))
			continue
		}
		for i, key := range list.keys {
			errs = append(errs, metavalidation.ValidateLabelName(key, path.Child(list.name).Index(i))...)
		}
	}
	if t.LabelSelector != nil {
		seen := sets.KeySet(t.LabelSelector.MatchLabels)
		for _, e := range t.LabelSelector.MatchExpressions {
			if i := slices.Index(t.MatchLabelKeys, e.Key); i >= 0 && seen.Has(e.Key) {
				errs = append(errs, field.Invalid(path.Index(i), e.Key, "exists in both matchLabelKeys and labelSelector"))
			}
			seen.Insert(e.Key)
		}
	}
	for i, key := range t.MatchLabelKeys {
		if slices.Contains(t.MismatchLabelKeys, key) {
			errs = append(errs, field.Invalid(path.Child("matchLabelKeys").Index(i), key, "exists in both matchLabelKeys and mismatchLabelKeys"))
		}
	}
	return errs
}

func (c *checker) validateSpread(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	constraints := c.spec.TopologySpreadConstraints
	for i := range constraints {
		t, at := &constraints[i], path.Index(i)
		if t.MaxSkew <= 0 {
			errs = append(errs, field.Invalid(at.Child("maxSkew"), t.MaxSkew, "must be greater than zero"))
		}
		if t.TopologyKey == "" {
			errs = append(errs, field.Required(at.Child("topologyKey"), "can not be empty"))
		} else {
			errs = append(errs, metavalidation.ValidateLabelName(t.TopologyKey, at.Child("topologyKey"))...)
		}
		errs = append(errs, validate.OneOf(at.Child("whenUnsatisfiable"), t.WhenUnsatisfiable, corev1.DoNotSchedule, corev1.ScheduleAnyway)...)
		if slices.ContainsFunc(constraints[i+1:], func(o corev1.TopologySpreadConstraint) bool {
			return o.TopologyKey == t.TopologyKey && o.WhenUnsatisfiable == t.WhenUnsatisfiable
		}) {
			errs = append(errs, field.Duplicate(at.Child("{topologyKey, whenUnsatisfiable}"),
				fmt.Sprintf("{%v, %v}", t.TopologyKey, t.WhenUnsatisfiable)))
		}
		if t.MinDomains != nil {
			errs = append(errs, validateMinDomains(at.Child("minDomains"), t)...)
		}
		for _, p := range []struct {
			name string
			*corev1.NodeInclusionPolicy
		}{{"nodeAffinityPolicy", t.NodeAffinityPolicy}, {"nodeTaintsPolicy", t.NodeTaintsPolicy}} {
			if p.NodeInclusionPolicy != nil {
				errs = append(errs, validate.OneOf(at.Child(p.name), *p.NodeInclusionPolicy,
					corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)...)
			}
		}
		errs = append(errs, validateSpreadKeys(at.Child("matchLabelKeys"), t)...)
		if !c.spreadSelectors {
			errs = append(errs, validate.Selector(at.Child("labelSelector"), t.LabelSelector, false)...)
		}
	}
	return errs
}

func validateMinDomains(path *field.Path, t *corev1.TopologySpreadConstraint) field.ErrorList {
	var errs field.ErrorList
	if *t.MinDomains <= 0 {
		errs = append(errs, field.Invalid(path, t.MinDomains, "must be greater than zero"))
	}
	if t.WhenUnsatisfiable != corev1.DoNotSchedule {
		errs = append(errs, field.Invalid(path, t.MinDomains,
			fmt.Sprintf("can only use minDomains if whenUnsatisfiable=%s, not %s", corev1.DoNotSchedule, t.WhenUnsatisfiable)))
	}
	return errs
}

// validateSpreadKeys: as for pod affinity, the selector holds one requirement
// of each key already.
func validateSpreadKeys(path *field.Path, t *corev1.TopologySpreadConstraint) field.ErrorList {
	if len(t.MatchLabelKeys) == 0 {
		return nil
	}
	if t.LabelSelector == nil {
		return field.ErrorList{field.Forbidden(path, "must not be specified when labelSelector is not set")}
	}
	var errs field.ErrorList
	seen := sets.KeySet(t.LabelSelector.MatchLabels)
	for i, key := range t.MatchLabelKeys {
		errs = append(errs, metavalidation.ValidateLabelName(key, path.Index(i))...)
	}
	for _, e := range t.LabelSelector.MatchExpressions {
		if i := slices.Index(t.MatchLabelKeys, e.Key); i >= 0 && seen.Has(e.Key) {
			errs = append(errs, field.Invalid(path.Index(i), e.Key, "exists in both matchLabelKeys and labelSelector"))
		}
		seen.Insert(e.Key)
	}
	return errs
}

// ValidateTolerations validates what taints a pod bears.
func ValidateTolerations(path *field.Path, tolerations []corev1.Toleration) field.ErrorList {
	var errs field.ErrorList
	for i, t := range tolerations {
		at := path.Index(i)
		if t.Key != "" {
			errs = append(errs, validate.LabelKey(at.Child("key"), t.Key)...)
		} else if t.Operator != corev1.TolerationOpExists {
			errs = append(errs, field.Invalid(at.Child("operator"), t.Operator,
				"operator must be Exists when `key` is empty, which means \"match all values and all keys\""))
		}
		if t.TolerationSeconds != nil && t.Effect != corev1.TaintEffectNoExecute {
			errs = append(errs, field.Invalid(at.Child("effect"), t.Effect, "effect must be 'NoExecute' when `tolerationSeconds` is set"))
		}
		switch t.Operator {
		case corev1.TolerationOpEqual, "":
			if msgs := validation.IsValidLabelValue(t.Value); len(msgs) != 0 {
				errs = append(errs, field.Invalid(at.Child("operator"), t.Value, strings.Join(msgs, ";")))
			}
		case corev1.TolerationOpExists:
			if t.Value != "" {
				errs = append(errs, field.Invalid(at.Child("operator"), t.Value, "value must be empty when `operator` is 'Exists'"))
			}
		case corev1.TolerationOpLt, corev1.TolerationOpGt: // off by default, and yet named
			errs = append(errs, field.NotSupported(at.Child("operator"), t.Operator, []corev1.TolerationOperator{
				corev1.TolerationOpEqual, corev1.TolerationOpExists, corev1.TolerationOpLt, corev1.TolerationOpGt,
			}))
		default:
			errs = append(errs, field.NotSupported(at.Child("operator"), t.Operator,
				[]corev1.TolerationOperator{corev1.TolerationOpEqual, corev1.TolerationOpExists}))
		}
		if t.Effect != "" {
			errs = append(errs, ValidateTaintEffect(at.Child("effect"), t.Effect)...)
		}
	}
	return errs
}

// ValidateTaintEffect wants one of the effects of taints.
func ValidateTaintEffect(path *field.Path, e corev1.TaintEffect) field.ErrorList {
	return validate.RequiredOneOf(path, e,
		corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute)
}
