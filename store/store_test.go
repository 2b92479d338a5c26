package store_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/store"
)

func configMaps() *api.Kind {
	return &api.Kind{
		GVK:         corev1.SchemeGroupVersion.WithKind("ConfigMap"),
		Resource:    "configmaps",
		Namespaced:  true,
		StoragePath: "configmaps",
		New:         func() api.Object { return &corev1.ConfigMap{} },
		NewList:     func() runtime.Object { return &corev1.ConfigMapList{} },
	}
}

func configMap(name, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, Labels: map[string]string{"v": value}},
		Data:       map[string]string{"value": value},
	}
}

func quiet() *slog.Logger {
	if testing.Verbose() {
		return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	return slog.New(slog.NewTextHandler(io.Discard, nil))
}

func open(t testing.TB, dir string) *store.Store {
	t.Helper()
	begin := time.Now()
	s, err := store.Open(t.Context(), store.Config{DataDir: dir, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("open after %v", time.Since(begin))
	return s
}

// opened is a store that ends with the test.
func opened(t testing.TB) *store.Store {
	t.Helper()
	s := open(t, t.TempDir())
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func create(t testing.TB, r *store.Resource, name, value string) *store.Entry {
	t.Helper()
	e, err := r.Create(t.Context(), "ns/"+name, configMap(name, value), 0)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func update(t testing.TB, r *store.Resource, old *store.Entry, value string) *store.Entry {
	t.Helper()
	e, err := r.Update(t.Context(), old, configMap(old.Object.GetName(), value))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// events reads n events.
func events(t testing.TB, w *store.Watcher, n int) []store.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var out []store.Event
	for len(out) < n {
		batch, err := w.Next(ctx, nil)
		if err != nil {
			t.Fatalf("after %d of %d events: %v", len(out), n, err)
		}
		out = append(out, batch...)
	}
	if len(out) > n {
		t.Fatalf("%d events, want %d: %v", len(out), n, show(out))
	}
	return out
}

func show(list []store.Event) []string {
	var out []string
	for _, ev := range list {
		text := string(ev.Type)
		if ev.Entry != nil {
			text += " " + ev.Entry.Key + "=" + ev.Entry.Object.GetLabels()["v"]
		}
		if ev.InitialEnd {
			text += " initial"
		}
		out = append(out, text)
	}
	return out
}

func same(t testing.TB, got []store.Event, want ...string) {
	t.Helper()
	if g, w := fmt.Sprint(show(got)), fmt.Sprint(want); g != w {
		t.Fatalf("events\n got %s\nwant %s", g, w)
	}
}

func TestWriteAndRead(t *testing.T) {
	s := opened(t)
	r := s.Resource(configMaps())
	ctx := t.Context()

	a := create(t, r, "a", "1")
	if a.Object.GetResourceVersion() != fmt.Sprint(a.Revision) {
		t.Fatalf("resourceVersion %s at revision %d", a.Object.GetResourceVersion(), a.Revision)
	}
	if _, err := r.Create(ctx, "ns/a", configMap("a", "2"), 0); !apierrors.IsAlreadyExists(err) {
		t.Fatalf("second create: %v", err)
	}
	got, err := r.Latest(ctx, "ns/a")
	if err != nil || got != a {
		t.Fatalf("latest is %p, %v; the writer has %p: the cache must hold the writer's entry", got, err, a)
	}
	if same := update(t, r, a, "1"); same != a {
		t.Fatal("an update that changes nothing made a new entry")
	}
	b := update(t, r, a, "2")
	if _, err := r.Update(ctx, a, configMap("a", "3")); !errors.Is(err, store.ErrChanged) {
		t.Fatalf("update of an old entry: %v", err)
	}
	if _, err := r.Update(ctx, a, configMap("a", "1")); !errors.Is(err, store.ErrChanged) {
		t.Fatalf("empty update of an old entry: %v", err)
	}
	if _, err := r.Delete(ctx, a); !errors.Is(err, store.ErrChanged) {
		t.Fatalf("delete of an old entry: %v", err)
	}
	gone, err := r.Delete(ctx, b)
	if err != nil || gone.Revision <= b.Revision || gone.Object.GetResourceVersion() != fmt.Sprint(gone.Revision) {
		t.Fatalf("delete: %+v, %v", gone, err)
	}
	if e, err := r.Latest(ctx, "ns/a"); e != nil || err != nil {
		t.Fatalf("after delete: %v, %v", e, err)
	}
	if got, want := string(a.JSON()), `"kind":"ConfigMap"`; !strings.Contains(got, want) {
		t.Fatalf("JSON %s lacks %s", got, want)
	}
}

func TestWatch(t *testing.T) {
	s := opened(t)
	r := s.Resource(configMaps())
	a := create(t, r, "a", "1")
	b := create(t, r, "b", "1")

	all, err := r.Watch(store.WatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	same(t, events(t, all, 2), "ADDED ns/a=1", "ADDED ns/b=1")

	initial, err := r.Watch(store.WatchOptions{Initial: true, Bookmarks: true})
	if err != nil {
		t.Fatal(err)
	}
	same(t, events(t, initial, 3), "ADDED ns/a=1", "ADDED ns/b=1", "BOOKMARK initial")

	since, err := r.Watch(store.WatchOptions{
		Since: a.Revision,
		Match: func(o api.Object) bool { return o.GetLabels()["v"] == "1" },
	})
	if err != nil {
		t.Fatal(err)
	}
	a2 := update(t, r, a, "2")
	update(t, r, a2, "1")
	if _, err := r.Delete(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	same(t, events(t, all, 3), "MODIFIED ns/a=2", "MODIFIED ns/a=1", "DELETED ns/b=1")
	got := events(t, since, 4)
	same(t, got, "ADDED ns/b=1", "DELETED ns/a=1", "ADDED ns/a=1", "DELETED ns/b=1")
	if left := got[1].Entry; left.Object.GetResourceVersion() != fmt.Sprint(a2.Revision) {
		t.Fatalf("an object that left the selection carries %s, not the revision of the change %d",
			left.Object.GetResourceVersion(), a2.Revision)
	}

	all.Stop()
	if _, err := all.Next(t.Context(), nil); !errors.Is(err, io.EOF) {
		t.Fatalf("after Stop: %v", err)
	}
}

// TestWatchFallsBehind: who does not read costs no memory beyond the window,
// and is told.
func TestWatchFallsBehind(t *testing.T) {
	r := opened(t).Resource(configMaps())
	e := create(t, r, "a", "0")
	slow, err := r.Watch(store.WatchOptions{Since: e.Revision})
	if err != nil {
		t.Fatal(err)
	}
	big := strings.Repeat("x", 1_000_000)
	for i := range 20 {
		obj := configMap("a", fmt.Sprint(i+1))
		obj.Data["big"] = big
		if e, err = r.Update(t.Context(), e, obj); err != nil {
			t.Fatal(err)
		}
	}
	got := events(t, slow, 1)
	if got[0].Type != watch.Error || !apierrors.IsResourceExpired(got[0].Err) {
		t.Fatalf("a watcher that fell behind got %v %v", show(got), got[0].Err)
	}
	if _, err := slow.Next(t.Context(), nil); !errors.Is(err, io.EOF) {
		t.Fatalf("after the error: %v", err)
	}
	if _, err := r.Watch(store.WatchOptions{Since: e.Revision - 19}); !apierrors.IsResourceExpired(err) {
		t.Fatalf("watch from before the window: %v", err)
	}
	if _, err := r.Snapshot(t.Context(), store.MatchExact, e.Revision-19); !apierrors.IsResourceExpired(err) {
		t.Fatalf("list from before the window: %v", err)
	}
}

// TestBookmark: a watch that reaches its time limit says how far it came.
func TestBookmark(t *testing.T) {
	s := opened(t)
	r := s.Resource(configMaps())
	e := create(t, r, "a", "1")
	w, err := r.Watch(store.WatchOptions{Since: e.Revision, Key: "ns/a", Bookmarks: true})
	if err != nil {
		t.Fatal(err)
	}
	last := create(t, r, "b", "1")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	got, err := w.Next(ctx, nil)
	if err != nil || len(got) != 1 || got[0].Type != watch.Bookmark || got[0].Revision != last.Revision {
		t.Fatalf("got %+v, %v; want a bookmark at %d", got, err, last.Revision)
	}
	if _, err := w.Next(ctx, got); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("after the bookmark: %v", err)
	}
}

// TestForget: a kind that is no longer served costs nothing and comes back
// with what is stored.
func TestForget(t *testing.T) {
	s := opened(t)
	k := configMaps()
	r := s.Resource(k)
	e := create(t, r, "a", "1")
	w, err := r.Watch(store.WatchOptions{Since: e.Revision})
	if err != nil {
		t.Fatal(err)
	}
	s.Forget(k)
	if _, err := w.Next(t.Context(), nil); !errors.Is(err, io.EOF) {
		t.Fatalf("a watch of a forgotten kind: %v", err)
	}
	if _, err := r.Create(t.Context(), "ns/b", configMap("b", "1"), 0); !apierrors.IsServiceUnavailable(err) {
		t.Fatalf("a write to a forgotten kind: %v", err)
	}
	if got := s.Resource(k).Cached("ns/a"); got == nil || got.Revision != e.Revision {
		t.Fatalf("served again, it has %v", got)
	}
}

func TestSnapshots(t *testing.T) {
	s := opened(t)
	r := s.Resource(configMaps())
	ctx := t.Context()
	a := create(t, r, "a", "1")
	b := create(t, r, "b", "1")
	page, err := r.Snapshot(ctx, store.MatchLatest, 0)
	if err != nil || page.Revision != b.Revision || page.Len() != 2 {
		t.Fatalf("%+v %v", page, err)
	}
	update(t, r, a, "2")
	if _, err := r.Delete(ctx, b); err != nil {
		t.Fatal(err)
	}
	create(t, r, "c", "1")
	again, err := r.Snapshot(ctx, store.MatchExact, page.Revision)
	if err != nil || again.Len() != 2 || again.Get("ns/a") != a || again.Get("ns/b") != b || again.Get("ns/c") != nil {
		t.Fatalf("exact: %+v %v", again, err)
	}
	if _, err := r.Snapshot(ctx, store.MatchExact, a.Revision-1); err != nil {
		t.Fatalf("the empty beginning: %v", err)
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := r.Snapshot(short, store.MatchNotOlder, 1000); !apierrors.IsTimeout(err) {
		t.Fatalf("future: %v", err)
	}
}

func TestRestart(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	r := s.Resource(configMaps())
	a := create(t, r, "a", "1")
	for i := range 2500 {
		create(t, r, fmt.Sprintf("many-%04d", i), "x")
	}
	if _, err := store.Open(t.Context(), store.Config{DataDir: dir, Logger: quiet()}); err == nil {
		t.Fatal("two stores opened one directory")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	defer s.Close()
	// Nobody may go on where the last process was, be the cache filled or not.
	var early sync.WaitGroup
	for range 4 {
		early.Go(func() {
			w, err := s.Resource(configMaps()).Watch(store.WatchOptions{Since: a.Revision})
			if err == nil {
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				var got []store.Event
				if got, err = w.Next(ctx, nil); err == nil {
					err = got[0].Err
				}
			}
			if !apierrors.IsResourceExpired(err) {
				t.Errorf("an early watch since before the restart: %v", err)
			}
		})
	}
	early.Wait()
	r = s.Resource(configMaps())
	got, err := r.Latest(t.Context(), "ns/a")
	if err != nil || string(got.JSON()) != string(a.JSON()) {
		t.Fatalf("after restart %s, %v; before %s", got.JSON(), err, a.JSON())
	}
	snap, err := r.Snapshot(t.Context(), store.MatchLatest, 0)
	if err != nil || snap.Len() != 2501 {
		t.Fatalf("%d objects, %v", snap.Len(), err)
	}
	if _, err := r.Watch(store.WatchOptions{Since: a.Revision}); !apierrors.IsResourceExpired(err) {
		t.Fatalf("watch since before the restart: %v", err)
	}
}
