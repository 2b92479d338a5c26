package local

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	toolscache "k8s.io/client-go/tools/cache"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/store"
)

// What an informer tells when its watch was lost, or an object cannot be
// converted any more.
func TestGoneUnseen(t *testing.T) {
	broken := false
	i := newInformer(nil, corev1.SchemeGroupVersion.WithKind("ConfigMap"), func(o api.Object) (api.Object, error) {
		if broken {
			return nil, errors.New("no conversion")
		}
		return o, nil
	})
	told := make(chan string, 16)
	uid := func(o any) string {
		if gone, ok := o.(toolscache.DeletedFinalStateUnknown); ok {
			o = gone.Obj
		}
		return string(o.(*corev1.ConfigMap).UID)
	}
	if _, err := i.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { told <- "+" + uid(o) },
		UpdateFunc: func(old, o any) { told <- uid(old) + ">" + uid(o) },
		DeleteFunc: func(o any) { told <- "-" + uid(o) },
	}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer func() { cancel(); i.wg.Wait() }()
	i.mu.Lock()
	i.running = ctx
	i.startLocked(i.handlers[0])
	i.mu.Unlock()

	event := func(kind watch.EventType, name, uid string, rev int64) store.Event {
		o := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(uid), ResourceVersion: fmt.Sprint(rev)}}
		return store.Event{Type: kind, Entry: &store.Entry{Key: "ns/" + name, Object: o, Revision: rev}, Revision: rev}
	}
	state := func(r *round, events ...store.Event) {
		t.Helper()
		if err := i.take(r, append(events, store.Event{Type: watch.Bookmark, InitialEnd: true})); err != nil {
			t.Fatal(err)
		}
	}
	heard := func(want ...string) {
		t.Helper()
		var got []string
		for range want {
			got = append(got, <-told)
		}
		if !slices.Equal(got, want) {
			t.Errorf("heard %q, want %q", got, want)
		}
	}
	state(&round{present: map[string]bool{}}, event(watch.Added, "a", "a1", 1), event(watch.Added, "b", "b1", 2), event(watch.Added, "c", "c1", 3))
	heard("+a1", "+b1", "+c1")
	r := &round{present: map[string]bool{}}
	state(r, event(watch.Added, "a", "a2", 7), event(watch.Added, "b", "b1", 6))
	heard("-a1", "+a2", "b1>b1", "-c1")
	broken = true
	if err := i.take(r, []store.Event{event(watch.Deleted, "b", "b1", 9)}); err != nil {
		t.Fatal(err)
	}
	heard("-b1")
	if keys := i.indexer.ListKeys(); !slices.Equal(keys, []string{"ns/a"}) {
		t.Errorf("left: %q", keys)
	}
}
