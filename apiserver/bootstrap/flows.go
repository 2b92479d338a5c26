package bootstrap

import (
	"context"
	"fmt"
	"slices"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/api/flowcontrol"
)

// ensureFlows makes the priority levels and flow schemas of every cluster.
// Suggested ones come with the first start alone, told by the mandatory ones
// being absent: whoever deletes a suggested one is obeyed. Those that nobody
// took over (by the annotation) follow the version of the server.
func ensureFlows(ctx context.Context, cfg Config) error {
	levels, schemas := flowcontrol.MandatoryLevels(), flowcontrol.MandatorySchemas()
	err := cfg.Reader.Get(ctx, ctrl.ObjectKeyFromObject(levels[0]), &flowcontrolv1.PriorityLevelConfiguration{})
	first := apierrors.IsNotFound(err)
	if err != nil && !first {
		return fmt.Errorf("read priority level %s: %w", levels[0].Name, err)
	}
	for _, l := range slices.Concat(flowcontrol.SuggestedLevels(), levels) {
		if err := ensureLevel(ctx, cfg, l, first || slices.Contains(levels, l)); err != nil {
			return err
		}
	}
	for _, s := range slices.Concat(flowcontrol.SuggestedSchemas(), schemas) {
		if err := ensureSchema(ctx, cfg, s, first || slices.Contains(schemas, s)); err != nil {
			return err
		}
	}
	return nil
}

// followsServer says that nobody took an object over.
func followsServer(obj ctrl.Object) bool {
	return obj.GetAnnotations()[flowcontrolv1.AutoUpdateAnnotationKey] == "true"
}

func ensureLevel(ctx context.Context, cfg Config, want *flowcontrolv1.PriorityLevelConfiguration, missing bool) error {
	have := &flowcontrolv1.PriorityLevelConfiguration{}
	err := cfg.Reader.Get(ctx, ctrl.ObjectKeyFromObject(want), have)
	switch {
	case apierrors.IsNotFound(err) && !missing:
		return nil
	case apierrors.IsNotFound(err):
		return ensure(ctx, cfg.Client, want)
	case err != nil:
		return fmt.Errorf("read priority level %s: %w", want.Name, err)
	case !followsServer(have) || equality.Semantic.DeepEqual(have.Spec, want.Spec):
		return nil
	}
	have = have.DeepCopy()
	have.Spec = want.Spec
	return update(ctx, cfg.Client, have)
}

func ensureSchema(ctx context.Context, cfg Config, want *flowcontrolv1.FlowSchema, missing bool) error {
	have := &flowcontrolv1.FlowSchema{}
	err := cfg.Reader.Get(ctx, ctrl.ObjectKeyFromObject(want), have)
	switch {
	case apierrors.IsNotFound(err) && !missing:
		return nil
	case apierrors.IsNotFound(err):
		return ensure(ctx, cfg.Client, want)
	case err != nil:
		return fmt.Errorf("read flow schema %s: %w", want.Name, err)
	case !followsServer(have) || equality.Semantic.DeepEqual(have.Spec, want.Spec):
		return nil
	}
	have = have.DeepCopy()
	have.Spec = want.Spec
	return update(ctx, cfg.Client, have)
}

// update writes obj; that another server was faster is fine.
func update(ctx context.Context, c ctrl.Client, obj ctrl.Object) error {
	if err := c.Update(ctx, obj); err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
		return fmt.Errorf("update %T %s: %w", obj, obj.GetName(), err)
	}
	return nil
}
