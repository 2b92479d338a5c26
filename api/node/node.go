// Package node describes the kinds of node.k8s.io.
package node

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/core/podspec"
	"github.com/proa-dev/proa/api/validate"
)

// Kinds lists the kinds of the group.
func Kinds() []*api.Kind { return []*api.Kind{RuntimeClass()} }

// RuntimeClass is the kind of runtime classes.
func RuntimeClass() *api.Kind {
	type C = *nodev1.RuntimeClass
	return &api.Kind{
		GVK:         nodev1.SchemeGroupVersion.WithKind("RuntimeClass"),
		Resource:    "runtimeclasses",
		New:         api.Maker[nodev1.RuntimeClass](),
		NewList:     api.ListMaker[nodev1.RuntimeClassList](),
		StoragePath: "runtimeclasses",
		Columns: []api.Column{
			api.Col("Handler", "string", "What the container runtime calls it.", func(c C) any { return c.Handler }),
			api.AgeColumn(),
		},
		Validate: api.Check(validateClass),
		ValidateUpdate: api.CheckUpdate(func(c, old C) field.ErrorList {
			return append(validateClass(c), validate.Unchanged(field.NewPath("handler"), c.Handler, old.Handler)...)
		}),
		Warnings:               api.Warn(func(c, _ C) []string { return warnings(c) }),
		CreateOnUpdate:         true,
		RequireVersionOnUpdate: true,
	}
}

func warnings(c *nodev1.RuntimeClass) []string {
	if c.Scheduling == nil {
		return nil
	}
	var out []string
	for _, key := range slices.Sorted(maps.Keys(c.Scheduling.NodeSelector)) {
		if text := podspec.RenamedLabel(key); text != "" {
			out = append(out, fmt.Sprintf("scheduling.nodeSelector: %s", text))
		}
	}
	return out
}

func validateClass(c *nodev1.RuntimeClass) field.ErrorList {
	var errs field.ErrorList
	if path := field.NewPath("handler"); c.Handler == "" {
		errs = append(errs, field.Required(path, ""))
	} else {
		errs = append(errs, validate.Label(path, c.Handler)...)
	}
	if c.Overhead != nil {
		errs = append(errs, podspec.ValidateLimits(field.NewPath("overhead"), c.Overhead.PodFixed)...)
	}
	if c.Scheduling == nil {
		return errs
	}
	path := field.NewPath("scheduling")
	if c.Scheduling.NodeSelector != nil {
		errs = append(errs, metavalidation.ValidateLabels(c.Scheduling.NodeSelector, path.Child("nodeSelector"))...)
	}
	path = path.Child("tolerations")
	errs = append(errs, podspec.ValidateTolerations(path, c.Scheduling.Tolerations)...)
	seen := map[corev1.Toleration]bool{}
	for i, t := range c.Scheduling.Tolerations {
		key := corev1.Toleration{Key: t.Key, Operator: t.Operator, Value: t.Value, Effect: t.Effect}
		if seen[key] {
			errs = append(errs, field.Duplicate(path.Index(i), t))
		}
		seen[key] = true
	}
	return errs
}
