// Package policystatus is the controller of the status of
// ValidatingAdmissionPolicies: it types their expressions by the schemas of the
// kinds that they are for, and tells what can never work. That changes nothing
// of how policies act: they are evaluated without types.
package policystatus

import (
	"context"
	"errors"
	"fmt"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	applyv1 "k8s.io/client-go/applyconfigurations/admissionregistration/v1"
	"k8s.io/kube-openapi/pkg/validation/spec"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/controllers/internal/loop"
)

// Name is the controller's name in logs and managedFields.
const Name = "validatingadmissionpolicy-status"

// workers is small: types take memory while they are in use.
const workers = 1

// Config is what the controller cannot read from the cluster.
type Config struct {
	// Kinds returns every kind that is served.
	Kinds func() []*api.Kind
	// Schema returns a kind's OpenAPI schema without references; nil: there is
	// none.
	Schema func(schema.GroupVersionKind) (*spec.Schema, error)
}

type controller struct {
	env     loop.Env
	checker checker
}

// New makes the controller.
func New(env loop.Env, cfg Config) (loop.Loop, error) {
	if cfg.Kinds == nil || cfg.Schema == nil {
		return loop.Loop{}, errors.New("policystatus: kinds and their schemas are required")
	}
	env = env.Named(Name)
	c := &controller{env: env, checker: checker{cfg: cfg, logger: env.Logger}}
	return loop.New(env, Name, workers, c.reconcile, loop.Self(env.Cluster, &admissionv1.ValidatingAdmissionPolicy{}))
}

func (c *controller) reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	policy := &admissionv1.ValidatingAdmissionPolicy{}
	if err := c.env.Cluster.Client().Get(ctx, key, policy, client.UnsafeDisableDeepCopy); err != nil {
		return 0, client.IgnoreNotFound(err)
	}
	if policy.Generation <= policy.Status.ObservedGeneration {
		return 0, nil
	}
	checking := applyv1.TypeChecking()
	for _, w := range c.checker.check(policy) {
		checking.WithExpressionWarnings(applyv1.ExpressionWarning().WithFieldRef(w.FieldRef).WithWarning(w.Warning))
	}
	status := applyv1.ValidatingAdmissionPolicy(policy.Name).WithStatus(applyv1.ValidatingAdmissionPolicyStatus().
		WithObservedGeneration(policy.Generation).WithTypeChecking(checking))
	if policy.UID != "" {
		status.WithUID(policy.UID) // never make a new one
	}
	err := c.env.Cluster.Client().Status().Apply(ctx, status, client.FieldOwner(Name), client.ForceOwnership)
	if client.IgnoreNotFound(err) != nil {
		return 0, fmt.Errorf("tell the types of a policy: %w", err)
	}
	return 0, nil
}
