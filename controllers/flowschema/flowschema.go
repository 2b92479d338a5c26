// Package flowschema is the controller of the status of FlowSchemas: it tells
// whether the priority level that one names is there. Upstream's API servers do
// so each for itself; here the one that leads does, so that none undoes what
// another wrote.
package flowschema

import (
	"context"
	"fmt"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	applyv1 "k8s.io/client-go/applyconfigurations/flowcontrol/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/controllers/internal/loop"
)

// Name is the controller's name in logs.
const Name = "flowschema-status"

// fieldOwner is upstream's name in managedFields.
const fieldOwner = client.FieldOwner("api-priority-and-fairness-config-consumer-v1")

type controller struct{ env loop.Env }

// New makes the controller.
func New(env loop.Env) (loop.Loop, error) {
	env = env.Named(Name)
	c := &controller{env}
	return loop.New(env, Name, 1, c.reconcile,
		loop.Self(env.Cluster, &flowcontrolv1.FlowSchema{}),
		loop.Watch(env.Cluster, &flowcontrolv1.PriorityLevelConfiguration{}, loop.On[*flowcontrolv1.PriorityLevelConfiguration]{
			Created: c.referrers, Deleted: c.referrers,
		}))
}

// referrers queues the schemas that name a level.
func (c *controller) referrers(ctx context.Context, q loop.Queue, level *flowcontrolv1.PriorityLevelConfiguration) {
	var all flowcontrolv1.FlowSchemaList
	if err := c.env.Cluster.Client().List(ctx, &all, client.UnsafeDisableDeepCopy); err != nil {
		if ctx.Err() == nil {
			c.env.Logger.Error("list flow schemas", "error", err)
		}
		return
	}
	for i := range all.Items {
		if s := &all.Items[i]; s.Spec.PriorityLevelConfiguration.Name == level.Name {
			q.Add(loop.Key("", s.Name))
		}
	}
}

func (c *controller) reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	api := c.env.Cluster.Client()
	schema := &flowcontrolv1.FlowSchema{}
	if err := api.Get(ctx, key, schema, client.UnsafeDisableDeepCopy); err != nil {
		return 0, client.IgnoreNotFound(err)
	}
	name := schema.Spec.PriorityLevelConfiguration.Name
	err := api.Get(ctx, types.NamespacedName{Name: name}, &flowcontrolv1.PriorityLevelConfiguration{}, client.UnsafeDisableDeepCopy)
	if client.IgnoreNotFound(err) != nil {
		return 0, err
	}
	want := dangling(name, apierrors.IsNotFound(err))
	for _, c := range schema.Status.Conditions {
		if c.Type == want.Type && c.Status == want.Status && c.Reason == want.Reason && c.Message == want.Message {
			return 0, nil
		}
	}
	condition := applyv1.FlowSchemaCondition().WithType(want.Type).WithStatus(want.Status).
		WithReason(want.Reason).WithMessage(want.Message).WithLastTransitionTime(metav1.NewTime(c.env.Clock.Now()))
	// By the UID it never makes a new one.
	status := applyv1.FlowSchema(schema.Name).WithUID(schema.UID).WithStatus(applyv1.FlowSchemaStatus().WithConditions(condition))
	if err := api.Status().Apply(ctx, status, fieldOwner, client.ForceOwnership); client.IgnoreNotFound(err) != nil {
		return 0, fmt.Errorf("tell whether the priority level of a flow schema is there: %w", err)
	}
	return 0, nil
}

// dangling says whether a schema's level, of this name, is missing.
func dangling(level string, missing bool) flowcontrolv1.FlowSchemaCondition {
	c := flowcontrolv1.FlowSchemaCondition{
		Type: flowcontrolv1.FlowSchemaConditionDangling, Status: flowcontrolv1.ConditionFalse, Reason: "Found",
		Message: fmt.Sprintf("This FlowSchema references the PriorityLevelConfiguration object named %q and it exists", level),
	}
	if missing {
		c.Status, c.Reason = flowcontrolv1.ConditionTrue, "NotFound"
		c.Message = fmt.Sprintf("This FlowSchema references the PriorityLevelConfiguration object named %q but there is no such object", level)
	}
	return c
}
