package flowschema_test

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"testing"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/api/builtin"
	"github.com/proa-dev/proa/apiserver/apiservertest"
	"github.com/proa-dev/proa/client/local"
	"github.com/proa-dev/proa/controllers/flowschema"
	"github.com/proa-dev/proa/controllers/internal/loop"
)

const (
	found    = `Dangling False Found: This FlowSchema references the PriorityLevelConfiguration object named "level" and it exists`
	notFound = `Dangling True NotFound: This FlowSchema references the PriorityLevelConfiguration object named "level" but there is no such object`
)

func newLevel() *flowcontrolv1.PriorityLevelConfiguration {
	return &flowcontrolv1.PriorityLevelConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "level"},
		Spec: flowcontrolv1.PriorityLevelConfigurationSpec{Type: flowcontrolv1.PriorityLevelEnablementLimited, Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{
			LimitResponse: flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject},
		}},
	}
}

// start runs the controller before an API server.
func start(t *testing.T) client.WithWatch {
	server := apiservertest.Start(t, nil)
	as, err := local.New(local.Config{
		Registry: server.Registry(), Store: server.Store, Kinds: server.Kinds(), Scheme: builtin.Scheme(), Manager: "test",
		User:   &user.DefaultInfo{Name: "admin", Groups: []string{user.SystemPrivilegedGroup}},
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := flowschema.New(loop.Env{Cluster: as, Logger: slog.New(slog.DiscardHandler), Clock: clock.RealClock{}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	wg.Go(func() { _ = as.Start(ctx) })
	wg.Go(func() {
		if err := l.Run(ctx); err != nil && ctx.Err() == nil {
			t.Error(err)
		}
	})
	return as.Client()
}

// The status follows the level that is named, and is written again when
// somebody else wrote it.
func TestDangling(t *testing.T) {
	api, ctx := start(t), t.Context()
	w, err := api.Watch(ctx, &flowcontrolv1.FlowSchemaList{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	schema := &flowcontrolv1.FlowSchema{
		ObjectMeta: metav1.ObjectMeta{Name: "schema"},
		Spec:       flowcontrolv1.FlowSchemaSpec{PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: "level"}},
	}
	wipe := func() error {
		wiped := schema.DeepCopy()
		wiped.Status.Conditions[0] = flowcontrolv1.FlowSchemaCondition{Type: flowcontrolv1.FlowSchemaConditionDangling, Status: flowcontrolv1.ConditionUnknown}
		return api.Status().Update(ctx, wiped)
	}
	for _, step := range []struct {
		what string
		do   func() error
		want string
	}{
		{"a schema before its level", func() error { return api.Create(ctx, schema) }, notFound},
		{"the level", func() error { return api.Create(ctx, newLevel()) }, found},
		{"a status of somebody else", wipe, found},
		{"no level any more", func() error { return api.Delete(ctx, newLevel()) }, notFound},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
		schema = until(t, w, step.want)
	}
	if !slices.ContainsFunc(schema.ManagedFields, func(m metav1.ManagedFieldsEntry) bool {
		return m.Manager == "api-priority-and-fairness-config-consumer-v1" && m.Subresource == "status"
	}) {
		t.Errorf("fields are managed by %v", schema.ManagedFields)
	}
}

// until waits for a condition, written as type, status, reason and message.
func until(t *testing.T, w watch.Interface, want string) *flowcontrolv1.FlowSchema {
	t.Helper()
	for e := range w.ResultChan() {
		s, ok := e.Object.(*flowcontrolv1.FlowSchema)
		if !ok || len(s.Status.Conditions) != 1 {
			continue
		}
		if c := s.Status.Conditions[0]; string(c.Type)+" "+string(c.Status)+" "+c.Reason+": "+c.Message == want {
			return s
		}
	}
	t.Fatalf("the watch ended before %q", want)
	return nil
}
