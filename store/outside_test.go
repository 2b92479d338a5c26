package store_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/proa-dev/proa/store"
)

func socket(dir string) string { return "unix://" + filepath.Join(dir, "etcd", "client.sock") }

// outside is a store that uses the etcd of another one.
func outside(t *testing.T, dir string) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), store.Config{Endpoints: []string{socket(dir)}, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func etcdClient(t *testing.T, dir string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{socket(dir)}, DialTimeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// TestTwoServers has two stores over one etcd: each sees the other's writes
// with consistent reads.
func TestTwoServers(t *testing.T) {
	dir := t.TempDir()
	a := open(t, dir)
	defer a.Close()
	b := outside(t, dir)
	ra, rb := a.Resource(configMaps()), b.Resource(configMaps())
	for i := range 20 {
		key := fmt.Sprintf("ns/a-%d", i)
		e := create(t, ra, fmt.Sprintf("a-%d", i), "1")
		got, err := rb.Latest(t.Context(), key)
		if err != nil || got == nil || got.Revision != e.Revision {
			t.Fatalf("the other store reads %v, %v", got, err)
		}
		e = update(t, rb, got, "2")
		if got, err = ra.Latest(t.Context(), key); err != nil || got.Revision != e.Revision {
			t.Fatalf("the first store reads %v, %v", got, err)
		}
	}
	// Keys of others raise the revision too.
	if _, err := etcdClient(t, dir).Put(t.Context(), "/elsewhere", "x"); err != nil {
		t.Fatal(err)
	}
	snap, err := rb.Snapshot(t.Context(), store.MatchLatest, 0)
	if err != nil || snap.Len() != 20 {
		t.Fatalf("%v, %v", snap, err)
	}
	if err := b.Healthy(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestReload loses history under a watch: the store reads everything again and
// its watchers get the differences.
func TestReload(t *testing.T) {
	dir, away := t.TempDir(), t.TempDir()
	a := open(t, dir)
	b := outside(t, dir)
	rb := b.Resource(configMaps())
	create(t, rb, "changed", "1")
	create(t, rb, "deleted", "1")
	kept := create(t, rb, "kept", "1")
	w, err := rb.Watch(store.WatchOptions{Since: kept.Revision})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}

	// Where b cannot see it, things happen and their history goes.
	rename(t, filepath.Join(dir, "etcd"), filepath.Join(away, "etcd"))
	a = open(t, away)
	ra := a.Resource(configMaps())
	update(t, ra, ra.Cached("ns/changed"), "2")
	if _, err := ra.Delete(t.Context(), ra.Cached("ns/deleted")); err != nil {
		t.Fatal(err)
	}
	last := create(t, ra, "new", "1")
	if _, err := etcdClient(t, away).Compact(t.Context(), last.Revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	rename(t, filepath.Join(away, "etcd"), filepath.Join(dir, "etcd"))
	a = open(t, dir)
	defer a.Close()

	same(t, events(t, w, 3), "MODIFIED ns/changed=2", "ADDED ns/new=1", "DELETED ns/deleted=1")
	got, err := rb.Latest(t.Context(), "ns/kept")
	if err != nil || got != kept {
		t.Fatalf("an entry that did not change was replaced: %v, %v", got, err)
	}
	again := update(t, rb, got, "2")
	same(t, events(t, w, 1), "MODIFIED ns/kept=2")
	if e := rb.Cached("ns/kept"); e != again {
		t.Fatal("after the reload the cache does not follow")
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	_ = os.Remove(filepath.Join(from, "client.sock"))
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

// TestForeignValues reads what other servers wrote: upstream's protobuf, JSON,
// and nothing that cannot be understood.
func TestForeignValues(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	defer s.Close()
	c := etcdClient(t, dir)
	put := func(name, value string) {
		t.Helper()
		if _, err := c.Put(t.Context(), "/registry/configmaps/ns/"+name, value); err != nil {
			t.Fatal(err)
		}
	}
	// The envelope and the ConfigMap by hand: field 1 type, field 2 the object
	// with metadata{name}.
	put("proto", "k8s\x00\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12\x09\x0a\x07\x0a\x05proto\x1a\x00\x22\x00")
	put("json", `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"json","namespace":"ns"},"data":{"a":"b"}}`)
	put("encrypted", "k8s:enc:aescbc:v1:key1:xxxx")
	put("garbage", "k8s\x00\xff\xff\xff")
	put("other", `{"kind":"Secret","apiVersion":"v1","metadata":{"name":"other"}}`)
	r := s.Resource(configMaps())
	snap, err := r.Snapshot(t.Context(), store.MatchLatest, 0)
	if err != nil || snap.Len() != 2 || snap.Get("ns/proto") == nil || snap.Get("ns/json") == nil {
		t.Fatalf("%d entries, %v", snap.Len(), err)
	}
	if cm := snap.Get("ns/json").Object.(*corev1.ConfigMap); cm.Data["a"] != "b" || cm.ResourceVersion == "" {
		t.Fatalf("JSON was read as %+v", cm)
	}
	// An object that becomes unreadable leaves the cache.
	w, err := r.Watch(store.WatchOptions{Since: snap.Revision})
	if err != nil {
		t.Fatal(err)
	}
	put("json", "rubbish")
	put("late", `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"late","namespace":"ns","labels":{"v":"1"}}}`)
	same(t, events(t, w, 2), "DELETED ns/json=", "ADDED ns/late=1")

	// Who asks for it by name learns that it is there, and may remove it.
	var unreadable *store.Unreadable
	if e, err := r.Latest(t.Context(), "ns/json"); e != nil || !errors.As(err, &unreadable) || unreadable.Path != "/registry/configmaps/ns/json" {
		t.Fatalf("%v, %v", e, err)
	}
	if left := r.Unreadable("ns/"); len(left) != 4 || len(r.Unreadable("ns/e")) != 1 || len(r.Unreadable("other/")) != 0 {
		t.Fatalf("%v", left)
	}
	put("json", "other rubbish")
	if err := r.Remove(t.Context(), unreadable); !errors.Is(err, store.ErrChanged) {
		t.Fatalf("what came instead was removed: %v", err)
	}
	if _, err := r.Latest(t.Context(), "ns/json"); !errors.As(err, &unreadable) {
		t.Fatal(err)
	}
	if err := r.Remove(t.Context(), unreadable); err != nil {
		t.Fatal(err)
	}
	if e, err := r.Latest(t.Context(), "ns/json"); e != nil || err != nil || len(r.Unreadable("")) != 3 {
		t.Fatalf("%v, %v", e, err)
	}
	put("garbage", `{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"garbage","namespace":"ns"}}`) // mended
	if e, err := r.Latest(t.Context(), "ns/garbage"); e == nil || err != nil || len(r.Unreadable("")) != 2 {
		t.Fatalf("%v, %v", e, err)
	}

	// And what is written here is upstream's: no resourceVersion inside.
	create(t, r, "mine", "1")
	resp, err := c.Get(t.Context(), "/registry/configmaps/ns/mine")
	if err != nil || len(resp.Kvs) != 1 {
		t.Fatal(resp, err)
	}
	var unk runtime.Unknown
	var stored corev1.ConfigMap
	raw, isProto := strings.CutPrefix(string(resp.Kvs[0].Value), "k8s\x00")
	if !isProto || unk.Unmarshal([]byte(raw)) != nil || stored.Unmarshal(unk.Raw) != nil {
		t.Fatalf("stored as %q", raw)
	}
	if stored.ResourceVersion != "" || stored.Data["value"] != "1" || unk.Kind != "ConfigMap" {
		t.Fatalf("stored as %s %+v", unk.Kind, stored)
	}
}

// TestLeases: objects with a time to live go by themselves, also after an
// update.
func TestLeases(t *testing.T) {
	r := opened(t).Resource(configMaps())
	w, err := r.Watch(store.WatchOptions{Since: create(t, r, "mark", "1").Revision})
	if err != nil {
		t.Fatal(err)
	}
	e, err := r.Create(t.Context(), "ns/a", configMap("a", "1"), 1)
	if err != nil {
		t.Fatal(err)
	}
	update(t, r, e, "2")
	same(t, events(t, w, 3), "ADDED ns/a=1", "MODIFIED ns/a=2", "DELETED ns/a=2")
}

// TestSpace writes until etcd refuses: the history goes, and writes are taken
// again without anybody's help.
func TestSpace(t *testing.T) {
	s, err := store.Open(t.Context(), store.Config{DataDir: t.TempDir(), Quota: 8 << 20, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r := s.Resource(configMaps())
	e := create(t, r, "a", "0")
	big := strings.Repeat("x", 500_000)
	refused := false
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for i := range 60 {
		obj := configMap("a", fmt.Sprint(i+1))
		obj.Data["big"] = big
		next, err := r.Update(ctx, e, obj)
		for err != nil {
			var status apierrors.APIStatus
			if !errors.As(err, &status) || status.Status().Code != http.StatusInsufficientStorage {
				t.Fatalf("write %d: %v", i, err)
			}
			refused = true
			if ctx.Err() != nil {
				t.Fatal("no space was made")
			}
			again := configMap("a", fmt.Sprint(i+1))
			again.Data["big"] = big
			next, err = r.Update(ctx, e, again)
		}
		e = next
	}
	if !refused {
		t.Fatal("the quota was never reached")
	}
}

func TestOpenRefuses(t *testing.T) {
	foreign := t.TempDir()
	if err := os.MkdirAll(filepath.Join(foreign, "etcd", "photos"), 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	broken := t.TempDir()
	if err := os.MkdirAll(filepath.Join(broken, "etcd", "member", "snap"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(broken, "etcd", "member", "wal"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(broken, "etcd", "member", "wal", "0000000000000000-0000000000000000.wal"), []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]store.Config{
		"nothing":   {Logger: quiet()},
		"no logger": {DataDir: t.TempDir()},
		"foreign":   {DataDir: foreign, Logger: quiet()},
		"a file":    {DataDir: file, Logger: quiet()},
		"broken":    {DataDir: broken, Logger: quiet()},
		"nobody":    {Endpoints: []string{"unix:///nowhere.sock"}, Logger: quiet()},
		"half TLS":  {Endpoints: []string{"https://127.0.0.1:1"}, CertFile: "x", Logger: quiet()},
		"no TLS":    {Endpoints: []string{"https://127.0.0.1:1"}, CAFile: "/nowhere", Logger: quiet()},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		s, err := store.Open(ctx, cfg)
		cancel()
		if err == nil {
			s.Close()
			t.Errorf("%s: opened", name)
			continue
		}
		t.Logf("%s: %v", name, err)
	}
}
