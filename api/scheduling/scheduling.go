// Package scheduling holds the kinds of the group scheduling.k8s.io, v1.
package scheduling

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/validate"
)

// Kinds lists the kinds of the group.
func Kinds() []*api.Kind { return []*api.Kind{PriorityClass()} }

// PriorityClass is the kind of priority classes.
func PriorityClass() *api.Kind {
	return &api.Kind{
		GVK:         schedulingv1.SchemeGroupVersion.WithKind("PriorityClass"),
		Resource:    "priorityclasses",
		ShortNames:  []string{"pc"},
		New:         api.Maker[schedulingv1.PriorityClass](),
		NewList:     api.ListMaker[schedulingv1.PriorityClassList](),
		StoragePath: "priorityclasses",
		Columns: []api.Column{
			api.Col("Value", "integer", "Priority of the class's pods.", func(c *schedulingv1.PriorityClass) any { return int64(c.Value) }),
			api.Col("Global-Default", "boolean", "Whether pods without a class are of this one.", func(c *schedulingv1.PriorityClass) any { return c.GlobalDefault }),
			api.AgeColumn(),
			api.Col("PreemptionPolicy", "string", "Whether the class's pods may drive out others.", func(c *schedulingv1.PriorityClass) any {
				return string(ptr.Deref(c.PreemptionPolicy, ""))
			}),
		},

		Default: api.On(func(c *schedulingv1.PriorityClass) {
			if c.PreemptionPolicy == nil {
				c.PreemptionPolicy = ptr.To(corev1.PreemptLowerPriority)
			}
		}),
		PrepareCreate:  api.On(func(c *schedulingv1.PriorityClass) { c.Generation = 1 }),
		Validate:       api.Check(validateClass),
		ValidateUpdate: api.CheckUpdate(validateClassUpdate),
	}
}

// The classes of the system, and what users' own may not exceed.
const (
	SystemPrefix        = "system-"
	ClusterCritical     = "system-cluster-critical"
	NodeCritical        = "system-node-critical"
	HighestUserPriority = 1_000_000_000
	CriticalPriority    = 2 * HighestUserPriority
)

// SystemClasses returns the classes that every cluster has.
func SystemClasses() []*schedulingv1.PriorityClass {
	class := func(name string, value int32, about string) *schedulingv1.PriorityClass {
		c := &schedulingv1.PriorityClass{Value: value, Description: about, PreemptionPolicy: ptr.To(corev1.PreemptLowerPriority)}
		c.Name = name
		return c
	}
	return []*schedulingv1.PriorityClass{
		class(NodeCritical, CriticalPriority+1000, "Used for system critical pods that must not be moved from their current node."),
		class(ClusterCritical, CriticalPriority, "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary."),
	}
}

func validateClass(c *schedulingv1.PriorityClass) field.ErrorList {
	var errs field.ErrorList
	if strings.HasPrefix(c.Name, SystemPrefix) {
		if why := notSystem(c); why != "" {
			errs = append(errs, field.Forbidden(field.NewPath("metadata", "name"),
				"priority class names with '"+SystemPrefix+"' prefix are reserved for system use only. error: "+why))
		}
	} else if c.Value > HighestUserPriority {
		errs = append(errs, field.Forbidden(field.NewPath("value"),
			fmt.Sprintf("maximum allowed value of a user defined priority is %v", HighestUserPriority)))
	}
	if p := c.PreemptionPolicy; p != nil {
		errs = append(errs, validate.RequiredOneOf(field.NewPath("preemptionPolicy"), *p, corev1.PreemptLowerPriority, corev1.PreemptNever)...)
	}
	return errs
}

// notSystem says why a class is none of the system's.
func notSystem(c *schedulingv1.PriorityClass) string {
	for _, s := range SystemClasses() {
		if c.Name != s.Name {
			continue
		}
		if c.Value != s.Value {
			return fmt.Sprintf("value of %v PriorityClass must be %v", s.Name, s.Value)
		}
		if c.GlobalDefault {
			return fmt.Sprintf("globalDefault of %v PriorityClass must be %v", s.Name, false)
		}
		return ""
	}
	return fmt.Sprintf("%v is not a known system priority class", c.Name)
}

func validateClassUpdate(c, old *schedulingv1.PriorityClass) field.ErrorList {
	var errs field.ErrorList
	if c.Value != old.Value {
		errs = append(errs, field.Forbidden(field.NewPath("value"), "may not be changed in an update."))
	}
	return append(errs, validate.Unchanged(field.NewPath("preemptionPolicy"), c.PreemptionPolicy, old.PreemptionPolicy)...)
}
