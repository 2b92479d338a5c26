package core

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/net"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/core/podspec"
	"github.com/proa-dev/proa/api/validate"
)

// Node is the kind of nodes.
func Node() *api.Kind {
	return &api.Kind{
		GVK:         gvk("Node"),
		Resource:    "nodes",
		ShortNames:  []string{"no"},
		New:         api.Maker[corev1.Node](),
		NewList:     api.ListMaker[corev1.NodeList](),
		StoragePath: "minions",
		Columns:     nodeColumns(),

		Default: api.On(func(n *corev1.Node) {
			// The single field and the first of the list say the same.
			if n.Spec.PodCIDR != "" && len(n.Spec.PodCIDRs) == 0 {
				n.Spec.PodCIDRs = []string{n.Spec.PodCIDR}
			} else if n.Spec.PodCIDR == "" && len(n.Spec.PodCIDRs) > 0 {
				n.Spec.PodCIDR = n.Spec.PodCIDRs[0]
			}
			if n.Status.Allocatable == nil && n.Status.Capacity != nil {
				n.Status.Allocatable = n.Status.Capacity.DeepCopy()
			}
		}),
		// A node is created with the status that its kubelet knows. The
		// configuration that kubelets once read from the API cannot begin again.
		PrepareCreate: api.On(func(n *corev1.Node) {
			n.Spec.ConfigSource, n.Status.Config, n.Spec.PodPreemptionPolicy = nil, nil, nil
		}),
		PrepareUpdate: api.OnUpdate(func(n, old *corev1.Node) {
			n.Status = old.Status
			if old.Spec.ConfigSource == nil {
				n.Spec.ConfigSource = nil
			}
			if old.Spec.PodPreemptionPolicy == nil {
				n.Spec.PodPreemptionPolicy = nil
			}
		}),
		Warnings: api.Warn(nodeWarnings),
		Validate: api.Check(validateNode),
		ValidateUpdate: api.CheckUpdate(func(n, old *corev1.Node) field.ErrorList {
			return append(validateNode(n), validateNodeUpdate(n, old)...)
		}),
		Status: &api.Status{
			PrepareUpdate: api.OnUpdate(func(n, old *corev1.Node) {
				n.Spec = old.Spec
				if old.Status.Config == nil {
					n.Status.Config = nil
				}
			}),
			ValidateUpdate: api.CheckUpdate(validateNodeUpdate),
		},
		Subresources: []api.Subresource{{
			Name: "proxy", GVK: gvk("NodeProxyOptions"), Verbs: []string{"create", "delete", "get", "patch", "update"},
		}},
		Fields: api.FieldsOf(func(n *corev1.Node) fields.Set {
			unschedulable := "false"
			if n.Spec.Unschedulable {
				unschedulable = "true"
			}
			return fields.Set{"spec.unschedulable": unschedulable}
		}),
		FieldNames: []string{"spec.unschedulable"},
		ResetFields: map[string][]string{
			"": {"status"}, "status": {"spec"},
		},
	}
}

func nodeWarnings(n, _ *corev1.Node) []string {
	var out []string
	if n.Spec.ConfigSource != nil {
		out = append(out, "spec.configSource: the feature is removed")
	}
	if n.Spec.DoNotUseExternalID != "" {
		out = append(out, "spec.externalID: this field is deprecated, and is unused by Kubernetes")
	}
	for i, c := range n.Spec.PodCIDRs {
		out = append(out, validation.GetWarningsForCIDR(field.NewPath("spec", "podCIDRs").Index(i), c)...)
	}
	return out
}

func validateNode(n *corev1.Node) field.ErrorList {
	errs := validateNodeAnnotations(field.NewPath("metadata", "annotations"), n.Annotations)
	errs = append(errs, validateTaints(field.NewPath("metadata", "taints"), n.Spec.Taints)...)
	errs = append(errs, validateNodeResources(n)...)
	if s := n.Status.NodeInfo.Swap; s != nil && s.Capacity != nil {
		errs = append(errs, validate.Positive(field.NewPath("metadata", "nodeSwapStatus", "capacity"), *s.Capacity)...)
	}
	errs = append(errs, validateFeatures(field.NewPath("status", "declaredFeatures"), n.Status.DeclaredFeatures)...)
	path := field.NewPath("spec", "podCIDRs")
	for i, c := range n.Spec.PodCIDRs {
		errs = append(errs, validation.IsValidCIDRForLegacyField(path.Index(i), c, true, nil)...)
	}
	if len(n.Spec.PodCIDRs) > 1 {
		dual, err := net.IsDualStackCIDRStrings(n.Spec.PodCIDRs)
		if err != nil {
			errs = append(errs, field.InternalError(path, fmt.Errorf("invalid PodCIDRs. failed to check with dual stack with error:%w", err)))
		}
		if !dual || len(n.Spec.PodCIDRs) > 2 {
			errs = append(errs, field.Invalid(path, n.Spec.PodCIDRs, "may specify no more than one CIDR for each IP family"))
		}
	}
	return errs
}

// validateTaints wants each pair of key and effect once.
func validateTaints(path *field.Path, taints []corev1.Taint) field.ErrorList {
	var errs field.ErrorList
	type pair struct {
		key    string
		effect corev1.TaintEffect
	}
	seen := sets.New[pair]()
	for i, t := range taints {
		at := path.Index(i)
		errs = append(errs, metavalidation.ValidateLabelName(t.Key, at.Child("key"))...)
		if msgs := validation.IsValidLabelValue(t.Value); len(msgs) != 0 {
			errs = append(errs, field.Invalid(at.Child("value"), t.Value, strings.Join(msgs, ";")))
		}
		errs = append(errs, podspec.ValidateTaintEffect(at.Child("effect"), t.Effect)...)
		if p := (pair{t.Key, t.Effect}); seen.Has(p) {
			err := field.Duplicate(at, t)
			err.Detail = "taints must be unique by key and effect pair"
			errs = append(errs, err)
		} else {
			seen.Insert(p)
		}
	}
	return errs
}

func validateNodeResources(n *corev1.Node) field.ErrorList {
	var errs field.ErrorList
	for _, name := range validate.SortedResources(n.Status.Capacity) {
		errs = append(errs, validate.Quantity(field.NewPath("status", "capacity", string(name)), name, n.Status.Capacity[name])...)
	}
	for _, name := range validate.SortedResources(n.Status.Allocatable) {
		errs = append(errs, validate.Quantity(field.NewPath("status", "allocatable", string(name)), name, n.Status.Allocatable[name])...)
	}
	return errs
}

// validateNodeUpdate serves status updates too: each leaves the other part
// unchanged.
func validateNodeUpdate(n, old *corev1.Node) field.ErrorList {
	errs := validateNodeAnnotations(field.NewPath("metadata", "annotations"), n.Annotations)
	errs = append(errs, validateNodeResources(n)...)
	errs = append(errs, validateFeatures(field.NewPath("status", "declaredFeatures"), n.Status.DeclaredFeatures)...)
	seen := sets.New[corev1.NodeAddress]()
	for i, a := range n.Status.Addresses {
		if seen.Has(a) {
			errs = append(errs, field.Duplicate(field.NewPath("status", "addresses").Index(i), a))
		}
		seen.Insert(a)
	}
	if len(old.Spec.PodCIDRs) > 0 && !slices.Equal(n.Spec.PodCIDRs, old.Spec.PodCIDRs) {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "podCIDRs"), "node updates may not change podCIDR except from \"\" to valid"))
	}
	if provider := field.NewPath("spec", "providerID"); old.Spec.ProviderID != "" && n.Spec.ProviderID == "" {
		errs = append(errs, field.Invalid(provider, nil, "field cannot be cleared once set"))
	} else if old.Spec.ProviderID != "" && n.Spec.ProviderID != old.Spec.ProviderID {
		errs = append(errs, field.Invalid(provider, nil, "field cannot be modified once set"))
	}
	errs = append(errs, validateNodeConfig(n)...)
	errs = append(errs, validateTaints(field.NewPath("metadata", "taints"), n.Spec.Taints)...)
	if n.Spec.DoNotUseExternalID != old.Spec.DoNotUseExternalID {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "externalID"), "may not be updated"))
	}
	return errs
}
