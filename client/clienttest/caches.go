package clienttest

import (
	"fmt"
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	toolscache "k8s.io/client-go/tools/cache"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"
)

// handle adds a handler for config maps that carry a value; the API server may
// have made some of its own.
func (e *env) handle(t *testing.T, obj ctrl.Object) *recorder {
	t.Helper()
	i, err := e.Cache().GetInformer(e.ctx, obj)
	if err != nil {
		t.Fatal(err)
	}
	r := newRecorder()
	reg, err := i.AddEventHandler(toolscache.FilteringResourceEventHandler{
		FilterFunc: func(o any) bool {
			if d, ok := o.(toolscache.DeletedFinalStateUnknown); ok {
				o = d.Obj
			}
			return o.(ctrl.Object).GetLabels()["value"] != ""
		},
		Handler: r,
	})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-reg.HasSyncedChecker().Done():
	case <-e.ctx.Done():
		t.Fatal("the handler did not sync")
	}
	if !reg.HasSynced() || !i.HasSynced() {
		t.Fatal("synced, but says it is not")
	}
	return r
}

func informer(t *testing.T, e *env) {
	e.create(t, configMap("before", "1"))
	r := e.handle(t, &corev1.ConfigMap{})
	r.await(t, e.ctx, "add before=1 initial")

	cm := configMap("a", "1")
	e.create(t, cm)
	r.await(t, e.ctx, "add before=1 initial", "add a=1")
	cm.Data["value"] = "2"
	if err := e.Client().Update(e.ctx, cm); err != nil {
		t.Fatal(err)
	}
	r.await(t, e.ctx, "add before=1 initial", "add a=1", "update a=1 to a=2")
	if err := e.Client().Delete(e.ctx, cm); err != nil {
		t.Fatal(err)
	}
	r.await(t, e.ctx, "add before=1 initial", "add a=1", "update a=1 to a=2", "delete a=2")
}

func lateHandler(t *testing.T, e *env) {
	e.create(t, configMap("a", "1"))
	first := e.handle(t, &corev1.ConfigMap{})
	first.await(t, e.ctx, "add a=1 initial")
	second := e.handle(t, &corev1.ConfigMap{})
	second.await(t, e.ctx, "add a=1 initial")

	i, err := e.Cache().GetInformer(e.ctx, &corev1.ConfigMap{})
	if err != nil {
		t.Fatal(err)
	}
	third := newRecorder()
	reg, err := i.AddEventHandler(third)
	if err != nil {
		t.Fatal(err)
	}
	if err := i.RemoveEventHandler(reg); err != nil {
		t.Fatal(err)
	}
	meta := &metav1.PartialObjectMetadata{}
	meta.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("ConfigMap"))
	e.handle(t, meta).await(t, e.ctx, "add *v1.PartialObjectMetadata a=1 initial")

	if err := e.Cache().RemoveInformer(e.ctx, &corev1.ConfigMap{}); err != nil {
		t.Fatal(err)
	}
	if !i.IsStopped() {
		e.eventually(t, "removed informer", func() error {
			if !i.IsStopped() {
				return fmt.Errorf("still runs")
			}
			return nil
		})
	}
}

func index(t *testing.T, e *env) {
	byValue := func(o ctrl.Object) []string { return []string{o.(*corev1.ConfigMap).Data["value"]} }
	if err := e.Cache().IndexField(e.ctx, &corev1.ConfigMap{}, "data.value", byValue); err != nil {
		t.Fatal(err)
	}
	if err := e.Cache().IndexField(e.ctx, &corev1.ConfigMap{}, "data.value", byValue); err == nil {
		t.Fatal("the same field was indexed twice")
	}
	for i := range 6 {
		e.create(t, configMap(fmt.Sprintf("cm-%d", i), fmt.Sprint(i%3)))
	}
	other := configMap("cm-0", "1")
	other.Namespace = "other"
	e.create(t, other)
	check := func(want int, opts ...ctrl.ListOption) {
		t.Helper()
		e.eventually(t, "list by index", func() error {
			var list corev1.ConfigMapList
			if err := e.Client().List(e.ctx, &list, opts...); err != nil {
				return err
			}
			if len(list.Items) != want {
				return fmt.Errorf("%d items, want %d", len(list.Items), want)
			}
			return nil
		})
	}
	one := ctrl.MatchingFields{"data.value": "1"}
	check(3, one)
	check(2, one, ctrl.InNamespace("default"))
	check(0, one, ctrl.MatchingLabels{"value": "2"})
	check(0, ctrl.MatchingFields{"data.value": "7"})
}

// freshReads: what woke a reconciler is what it reads, or older.
func freshReads(t *testing.T, e *env) {
	i, err := e.Cache().GetInformer(e.ctx, &corev1.ConfigMap{})
	if err != nil {
		t.Fatal(err)
	}
	const rounds = 200
	done := make(chan error, 1)
	seen := func(obj any) {
		cm := obj.(*corev1.ConfigMap)
		if cm.Name != "a" {
			return
		}
		var got corev1.ConfigMap
		if err := e.Client().Get(e.ctx, key(cm), &got); err != nil {
			done <- err
			return
		}
		event, _ := strconv.ParseInt(cm.ResourceVersion, 10, 64)
		read, _ := strconv.ParseInt(got.ResourceVersion, 10, 64)
		if read < event {
			done <- fmt.Errorf("read version %d after an event of %d", read, event)
		}
		if cm.Data["value"] == fmt.Sprint(rounds) {
			done <- nil
		}
	}
	if _, err := i.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc:    seen,
		UpdateFunc: func(_, obj any) { seen(obj) },
	}); err != nil {
		t.Fatal(err)
	}
	cm := configMap("a", "0")
	e.create(t, cm)
	for n := 1; n <= rounds; n++ {
		cm.Data["value"] = fmt.Sprint(n)
		if err := e.Client().Update(e.ctx, cm); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-done:
		if err != nil {
			t.Fatal(err)
		}
	case <-e.ctx.Done():
		t.Fatal("the last event did not come")
	}
}

func watches(t *testing.T, e *env) {
	e.create(t, configMap("a", "1"))
	w, err := e.Client().Watch(e.ctx, &corev1.ConfigMapList{}, ctrl.InNamespace("default"), ctrl.MatchingLabels{"value": "1"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	next := func(want watch.EventType, name string) {
		t.Helper()
		select {
		case ev := <-w.ResultChan():
			if cm, ok := ev.Object.(*corev1.ConfigMap); !ok || ev.Type != want || cm.Name != name {
				t.Fatalf("event %s %+v, want %s %s", ev.Type, ev.Object, want, name)
			}
		case <-e.ctx.Done():
			t.Fatalf("no %s %s", want, name)
		}
	}
	next(watch.Added, "a")
	b := configMap("b", "1")
	e.create(t, b)
	next(watch.Added, "b")
	b.Labels["value"] = "2"
	if err := e.Client().Update(e.ctx, b); err != nil {
		t.Fatal(err)
	}
	next(watch.Deleted, "b")
	w.Stop()
	for range w.ResultChan() {
	}
}

func events(t *testing.T, e *env) {
	cm := configMap("a", "1")
	e.create(t, cm)
	rec := e.Recorder("tester")
	for range 3 {
		rec.Event(cm, corev1.EventTypeWarning, "Strange", "something is strange")
	}
	e.eventually(t, "event", func() error {
		var list corev1.EventList
		if err := e.Reader().List(e.ctx, &list, ctrl.InNamespace("default")); err != nil {
			return err
		}
		for _, ev := range list.Items {
			if ev.Reason == "Strange" && ev.Count == 3 && ev.Source.Component == "tester" && ev.InvolvedObject.UID == cm.UID {
				return nil
			}
		}
		return fmt.Errorf("%d events, none as expected", len(list.Items))
	})
}
