package config

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	configv1 "k8s.io/kube-scheduler/config/v1"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/scheduler/core"
)

// applyArgs puts the arguments of one plugin into a profile.
func applyArgs(p *core.Profile, path *field.Path, args runtime.Object) field.ErrorList {
	switch a := args.(type) {
	case nil:
		return nil
	case *configv1.DefaultPreemptionArgs:
		return applyPreemption(p, path, a)
	case *configv1.InterPodAffinityArgs:
		return applyAffinity(p, path, a)
	case *configv1.NodeAffinityArgs:
		return applyNodeAffinity(p, path, a)
	case *configv1.NodeResourcesFitArgs:
		return applyFit(p, path, a)
	case *configv1.NodeResourcesBalancedAllocationArgs:
		return applyBalanced(p, path, a)
	case *configv1.PodTopologySpreadArgs:
		return applySpread(p, path, a)
	case *configv1.VolumeBindingArgs:
		return applyVolumes(p, path, a)
	case *configv1.DynamicResourcesArgs:
		return applyDevices(p, path, a)
	}
	return field.ErrorList{field.Invalid(path, fmt.Sprintf("%T", args), "has to match plugin args")}
}

func applyPreemption(p *core.Profile, path *field.Path, a *configv1.DefaultPreemptionArgs) (errs field.ErrorList) {
	percent, least := ptr.Deref(a.MinCandidateNodesPercentage, 10), ptr.Deref(a.MinCandidateNodesAbsolute, 100)
	percentPath, leastPath := path.Child("minCandidateNodesPercentage"), path.Child("minCandidateNodesAbsolute")
	if percent < 0 || percent > 100 {
		errs = append(errs, field.Invalid(percentPath, percent, "not in valid range [0, 100]"))
	}
	if least < 0 {
		errs = append(errs, field.Invalid(leastPath, least, "not in valid range [0, inf)"))
	}
	if percent == 0 && least == 0 {
		errs = append(errs, field.Invalid(percentPath, percent, "cannot be zero at the same time as minCandidateNodesAbsolute"),
			field.Invalid(leastPath, least, "cannot be zero at the same time as minCandidateNodesPercentage"))
	}
	p.CandidatesPercent, p.CandidatesAtLeast = int(percent), int(least)
	return errs
}

func applyAffinity(p *core.Profile, path *field.Path, a *configv1.InterPodAffinityArgs) field.ErrorList {
	w := ptr.Deref(a.HardPodAffinityWeight, 1)
	p.RequiredAffinityWeight, p.IgnoreOthersPreferences = int64(w), a.IgnorePreferredTermsOfExistingPods
	if w < 0 || w > 100 {
		return field.ErrorList{field.Invalid(path.Child("hardPodAffinityWeight"), w, "not in valid range [0, 100]")}
	}
	return nil
}

func applyNodeAffinity(p *core.Profile, path *field.Path, a *configv1.NodeAffinityArgs) (errs field.ErrorList) {
	if a.AddedAffinity == nil {
		return nil
	}
	var err error
	if required := a.AddedAffinity.RequiredDuringSchedulingIgnoredDuringExecution; required != nil {
		at := path.Child("addedAffinity", "requiredDuringSchedulingIgnoredDuringExecution")
		if p.Enforced, err = nodeaffinity.NewNodeSelector(required, field.WithPath(at)); err != nil {
			errs = append(errs, field.Invalid(at, "", err.Error()))
		}
	}
	if terms := a.AddedAffinity.PreferredDuringSchedulingIgnoredDuringExecution; len(terms) > 0 {
		at := path.Child("addedAffinity", "preferredDuringSchedulingIgnoredDuringExecution")
		if p.EnforcedPreferred, err = nodeaffinity.NewPreferredSchedulingTerms(terms, field.WithPath(at)); err != nil {
			errs = append(errs, field.Invalid(at, "", err.Error()))
		}
	}
	return errs
}

func applyFit(p *core.Profile, path *field.Path, a *configv1.NodeResourcesFitArgs) (errs field.ErrorList) {
	for i, name := range a.IgnoredResources {
		errs = append(errs, metav1validation.ValidateLabelName(name, path.Child("ignoredResources").Index(i))...)
		p.Fit.Ignored[name] = true
	}
	for i, group := range a.IgnoredResourceGroups {
		at := path.Child("ignoredResourceGroups").Index(i)
		if strings.Contains(group, "/") {
			errs = append(errs, field.Invalid(at, group, "resource group name can't contain '/'"))
		}
		errs = append(errs, metav1validation.ValidateLabelName(group, at)...)
		p.Fit.IgnoredGroups[group] = true
	}
	s := a.ScoringStrategy
	if s == nil {
		return errs
	}
	at := path.Child("scoringStrategy")
	switch s.Type {
	case configv1.LeastAllocated, "":
		p.Fit.Strategy = core.LeastAllocated
	case configv1.MostAllocated:
		p.Fit.Strategy = core.MostAllocated
	case configv1.RequestedToCapacityRatio:
		p.Fit.Strategy = core.RequestedToCapacityRatio
	default:
		errs = append(errs, field.NotSupported(at.Child("type"), s.Type,
			[]configv1.ScoringStrategyType{configv1.LeastAllocated, configv1.MostAllocated, configv1.RequestedToCapacityRatio}))
	}
	if len(s.Resources) > 0 {
		p.Fit.Resources = nil
	}
	for i, r := range s.Resources {
		w := r.Weight
		if w == 0 {
			w = 1
		}
		if w < 0 || w > 100 {
			errs = append(errs, field.Invalid(at.Child("resources").Index(i).Child("weight"), w, fmt.Sprintf("resource weight of %v not in valid range (0, 100]", r.Name)))
		}
		p.Fit.Resources = append(p.Fit.Resources, core.WeightedResource{Name: corev1.ResourceName(r.Name), Weight: w})
	}
	ratio := at.Child("requestedToCapacityRatio")
	switch {
	case s.Type != configv1.RequestedToCapacityRatio && s.RequestedToCapacityRatio != nil:
		errs = append(errs, field.Forbidden(ratio, "must be nil when type is not RequestedToCapacityRatio"))
	case s.Type == configv1.RequestedToCapacityRatio && s.RequestedToCapacityRatio == nil:
		errs = append(errs, field.Required(ratio, "must be specified when type is RequestedToCapacityRatio"))
	case s.Type == configv1.RequestedToCapacityRatio:
		var wrong field.ErrorList
		p.Fit.Shape, wrong = shapeOf(ratio.Child("shape"), s.RequestedToCapacityRatio.Shape)
		errs = append(errs, wrong...)
	}
	return errs
}

// shapeOf reads a function; scores to 10 are made ones to 100.
func shapeOf(path *field.Path, in []configv1.UtilizationShapePoint) (out []core.Point, errs field.ErrorList) {
	if len(in) == 0 {
		return nil, field.ErrorList{field.Required(path, "at least one point must be specified")}
	}
	for i, point := range in {
		if i > 0 && in[i-1].Utilization >= point.Utilization {
			errs = append(errs, field.Invalid(path.Index(i).Child("utilization"), point.Utilization, "values must be sorted in increasing order"))
			break
		}
	}
	for i, point := range in {
		if point.Utilization < 0 || point.Utilization > 100 {
			errs = append(errs, field.Invalid(path.Index(i).Child("utilization"), point.Utilization, "not in valid range [0, 100]"))
		}
		if point.Score < 0 || point.Score > 10 {
			errs = append(errs, field.Invalid(path.Index(i).Child("score"), point.Score, "not in valid range [0, 10]"))
		}
		out = append(out, core.Point{Use: int64(point.Utilization), Score: int64(point.Score) * 10})
	}
	return out, errs
}

func applyBalanced(p *core.Profile, path *field.Path, a *configv1.NodeResourcesBalancedAllocationArgs) (errs field.ErrorList) {
	if len(a.Resources) == 0 {
		return nil
	}
	p.Balanced = nil
	seen := map[string]bool{}
	for i, r := range a.Resources {
		at := path.Child("resources").Index(i)
		if seen[r.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), r.Name))
		}
		seen[r.Name] = true
		if r.Weight != 0 && r.Weight != 1 {
			errs = append(errs, field.Invalid(at.Child("weight"), r.Weight, "must be 1"))
		}
		p.Balanced = append(p.Balanced, corev1.ResourceName(r.Name))
	}
	return errs
}

func applySpread(p *core.Profile, path *field.Path, a *configv1.PodTopologySpreadArgs) (errs field.ErrorList) {
	switch a.DefaultingType {
	case configv1.SystemDefaulting, "":
		if len(a.DefaultConstraints) > 0 {
			errs = append(errs, field.Invalid(path.Child("defaultingType"), configv1.SystemDefaulting, "when .defaultConstraints are not empty"))
		}
		return errs
	case configv1.ListDefaulting:
		p.Spread, p.SystemSpread = a.DefaultConstraints, false
	default:
		errs = append(errs, field.NotSupported(path.Child("defaultingType"), a.DefaultingType,
			[]configv1.PodTopologySpreadConstraintsDefaulting{configv1.SystemDefaulting, configv1.ListDefaulting}))
	}
	for i := range a.DefaultConstraints {
		errs = append(errs, checkConstraint(path.Child("defaultConstraints"), a.DefaultConstraints, i)...)
	}
	return errs
}

func checkConstraint(path *field.Path, all []corev1.TopologySpreadConstraint, i int) (errs field.ErrorList) {
	c, at := &all[i], path.Index(i)
	if c.MaxSkew <= 0 {
		errs = append(errs, field.Invalid(at.Child("maxSkew"), c.MaxSkew, "not in valid range (0, inf)"))
	}
	if c.TopologyKey == "" {
		errs = append(errs, field.Required(at.Child("topologyKey"), "can not be empty"))
	} else {
		errs = append(errs, metav1validation.ValidateLabelName(c.TopologyKey, at.Child("topologyKey"))...)
	}
	switch c.WhenUnsatisfiable {
	case corev1.DoNotSchedule, corev1.ScheduleAnyway:
	case "":
		errs = append(errs, field.Required(at.Child("whenUnsatisfiable"), "can not be empty"))
	default:
		errs = append(errs, field.NotSupported(at.Child("whenUnsatisfiable"), c.WhenUnsatisfiable,
			[]corev1.UnsatisfiableConstraintAction{corev1.DoNotSchedule, corev1.ScheduleAnyway}))
	}
	if c.LabelSelector != nil {
		errs = append(errs, field.Forbidden(at.Child("labelSelector"), "constraint must not define a selector, as they deduced for each pod"))
	}
	for j := range i {
		if all[j].TopologyKey == c.TopologyKey && all[j].WhenUnsatisfiable == c.WhenUnsatisfiable {
			errs = append(errs, field.Duplicate(at, fmt.Sprintf("{%v, %v}", c.TopologyKey, c.WhenUnsatisfiable)))
			break
		}
	}
	return errs
}

func applyVolumes(p *core.Profile, path *field.Path, a *configv1.VolumeBindingArgs) (errs field.ErrorList) {
	seconds := ptr.Deref(a.BindTimeoutSeconds, 600)
	if seconds < 0 {
		errs = append(errs, field.Invalid(path.Child("bindTimeoutSeconds"), seconds, "invalid BindTimeoutSeconds, should not be a negative value"))
	}
	p.BindTimeout = time.Duration(seconds) * time.Second
	if len(a.Shape) > 0 {
		var wrong field.ErrorList
		p.Capacity, wrong = shapeOf(path.Child("shape"), a.Shape)
		errs = append(errs, wrong...)
	}
	return errs
}

func applyDevices(p *core.Profile, path *field.Path, a *configv1.DynamicResourcesArgs) (errs field.ErrorList) {
	if t := a.FilterTimeout; t != nil {
		p.FilterTimeout = t.Duration
		if t.Duration < 0 {
			errs = append(errs, field.Invalid(path.Child("filterTimeout"), t, "must be zero or positive"))
		}
	}
	if t := a.BindingTimeout; t != nil {
		p.BindingTimeout = t.Duration
		if t.Duration < time.Second {
			errs = append(errs, field.Invalid(path.Child("bindingTimeout"), t, "must be at least 1 second"))
		}
	}
	return errs
}

func checkExtenders(path *field.Path, extenders []configv1.Extender) (errs field.ErrorList) {
	binders := 0
	managed := map[string]bool{}
	for i := range extenders {
		e, at := &extenders[i], path.Index(i)
		if e.PrioritizeVerb != "" && e.Weight <= 0 {
			errs = append(errs, field.Invalid(at.Child("weight"), e.Weight, "must have a positive weight applied to it"))
		}
		if e.BindVerb != "" {
			binders++
		}
		for j, r := range e.ManagedResources {
			name := at.Child("managedResources").Index(j).Child("name")
			for _, wrong := range validation.IsQualifiedName(r.Name) {
				errs = append(errs, field.Invalid(name, r.Name, wrong))
			}
			if !strings.Contains(r.Name, "/") || strings.Contains(r.Name, "kubernetes.io/") {
				errs = append(errs, field.Invalid(name, r.Name, "is an invalid extended resource name"))
			}
			if managed[r.Name] {
				errs = append(errs, field.Invalid(name, r.Name, "duplicate extender managed resource name"))
			}
			managed[r.Name] = true
		}
	}
	if binders > 1 {
		errs = append(errs, field.Invalid(path, fmt.Sprintf("found %d extenders implementing bind", binders), "only one extender can implement bind"))
	}
	return errs
}
