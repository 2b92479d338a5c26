// Package clienttest is the suite that every implementation of client.Cluster
// passes: a component cannot tell them apart.
package clienttest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	toolscache "k8s.io/client-go/tools/cache"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/client"
)

// Factory makes a cluster with an API server of its own, not yet started. The
// API server ends with the test. Namespaces "default" and "other" exist.
type Factory func(t *testing.T) client.Cluster

// Run runs the suite.
func Run(t *testing.T, make Factory) {
	for name, test := range map[string]func(*testing.T, *env){
		"write and read": writeAndRead,
		"times":          times,
		"lists":          lists,
		"other types":    otherTypes,
		"patches":        patches,
		"apply":          apply,
		"subresources":   subresources,
		"deletes":        deletes,
		"informer":       informer,
		"late handler":   lateHandler,
		"index":          index,
		"fresh reads":    freshReads,
		"watch":          watches,
		"events":         events,
		"unknown kind":   unknownKind,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // HTTP servers take a second to stop
			test(t, start(t, make))
		})
	}
}

// env is a started cluster.
type env struct {
	client.Cluster
	ctx context.Context
}

func start(t *testing.T, make Factory) *env {
	t.Helper()
	c := make(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	ended := goStart(ctx, c)
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Start ended with %v", err)
		}
	})
	return &env{Cluster: c, ctx: ctx}
}

func goStart(ctx context.Context, c client.Cluster) <-chan error {
	ended := make(chan error, 1)
	go func() { ended <- c.Start(ctx) }()
	return ended
}

func configMap(name, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"value": value}},
		Data:       map[string]string{"value": value},
	}
}

func (e *env) create(t *testing.T, obj ctrl.Object) {
	t.Helper()
	if err := e.Client().Create(e.ctx, obj); err != nil {
		t.Fatalf("create %T %s: %v", obj, obj.GetName(), err)
	}
}

// eventually waits until the cache, which may lag, satisfies f.
func (e *env) eventually(t *testing.T, what string, f func() error) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-e.ctx.Done():
			t.Fatalf("%s: %v", what, err)
		}
	}
}

func key(obj ctrl.Object) ctrl.ObjectKey { return ctrl.ObjectKeyFromObject(obj) }

// recorder is an event handler that remembers its calls.
type recorder struct {
	mu    sync.Mutex
	calls []string
	more  chan struct{}
}

func newRecorder() *recorder { return &recorder{more: make(chan struct{}, 1)} }

func (r *recorder) add(text string) {
	r.mu.Lock()
	r.calls = append(r.calls, text)
	r.mu.Unlock()
	select {
	case r.more <- struct{}{}:
	default:
	}
}

// OnAdd implements toolscache.ResourceEventHandler.
func (r *recorder) OnAdd(obj any, initial bool) {
	text := "add " + describe(obj)
	if initial {
		text += " initial"
	}
	r.add(text)
}

// OnUpdate implements toolscache.ResourceEventHandler.
func (r *recorder) OnUpdate(old, obj any) { r.add("update " + describe(old) + " to " + describe(obj)) }

// OnDelete implements toolscache.ResourceEventHandler.
func (r *recorder) OnDelete(obj any) { r.add("delete " + describe(obj)) }

func describe(obj any) string {
	switch o := obj.(type) {
	case toolscache.DeletedFinalStateUnknown:
		return "?" + describe(o.Obj)
	case *corev1.ConfigMap:
		return o.Name + "=" + o.Data["value"]
	case ctrl.Object:
		return fmt.Sprintf("%T %s=%s", o, o.GetName(), o.GetLabels()["value"])
	}
	return fmt.Sprintf("%T", obj)
}

// await returns when the calls are want.
func (r *recorder) await(t *testing.T, ctx context.Context, want ...string) {
	t.Helper()
	for {
		r.mu.Lock()
		got := slices.Clone(r.calls)
		r.mu.Unlock()
		if slices.Equal(got, want) {
			return
		}
		select {
		case <-r.more:
		case <-ctx.Done():
			t.Fatalf("calls of the handler\n got %q\nwant %q", got, want)
		}
	}
}

func unknownKind(t *testing.T, e *env) {
	u := &unstructured.Unstructured{}
	u.SetAPIVersion("example.com/v1")
	u.SetKind("Nothing")
	u.SetNamespace("default")
	u.SetName("a")
	if err := e.Client().Create(e.ctx, u); err == nil {
		t.Fatal("an unknown kind was created")
	}
	if _, err := e.Cache().GetInformer(e.ctx, u); err == nil {
		t.Fatal("an unknown kind has an informer")
	}
	cm := configMap("missing", "")
	if err := e.Client().Get(e.ctx, key(cm), cm); !apierrors.IsNotFound(err) {
		t.Fatalf("get of nothing: %v", err)
	}
}
