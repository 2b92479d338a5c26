package live_test

import (
	"context"
	"log/slog"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/builtin"
	"github.com/proa-dev/proa/apiserver/live"
	"github.com/proa-dev/proa/store"
)

func open(t *testing.T, dir string) *store.Store {
	t.Helper()
	st, err := store.Open(t.Context(), store.Config{DataDir: dir, Scheme: builtin.Scheme(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// After a restart nobody has asked for a resource yet: the first reader must
// find what was there before.
func TestFirstReaderStartsTheCache(t *testing.T) {
	dir := t.TempDir()
	st := open(t, dir)
	var secrets *api.Kind
	for _, k := range builtin.Kinds() {
		if k.GR() == corev1.Resource("secrets") {
			secrets = k
		}
	}
	_, err := st.Resource(secrets).Create(t.Context(), "ns/s", &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s"}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}

	st = open(t, dir)
	t.Cleanup(func() { _ = st.Close() })
	r := live.New(st, builtin.Kinds())
	if r.Revision(corev1.Resource("secrets")) == 0 || len(r.List(corev1.Resource("secrets"), "ns")) != 1 {
		t.Error("the secret is not found")
	}
	if _, ok := r.Get(corev1.Resource("secrets"), "ns", "s"); !ok {
		t.Error("the secret is not found by name")
	}
	if _, ok := r.Get(corev1.Resource("namespaces"), "", "gone"); ok {
		t.Error("found what is not there")
	}
	_, err = st.Resource(secrets).Create(t.Context(), "ns/new", &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "new"}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := r.Live(t.Context(), corev1.Resource("secrets"), "ns", "new"); !ok {
		t.Error("an acknowledged write is not seen")
	}
	unknown := schema.GroupResource{Group: "example.com", Resource: "things"}
	if _, ok := r.Get(unknown, "", "x"); ok || r.List(unknown, "") != nil || r.Revision(unknown) != 0 {
		t.Error("an unknown resource has objects")
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, ok := r.Live(gone, corev1.Resource("secrets"), "ns", "gone"); ok {
		t.Error("found without asking")
	}
}
