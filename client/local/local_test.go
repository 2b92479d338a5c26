package local_test

import (
	"context"
	"io"
	"log/slog"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/proa-dev/proa/api/builtin"
	"github.com/proa-dev/proa/apiserver/kinds"
	"github.com/proa-dev/proa/apiserver/registry"
	"github.com/proa-dev/proa/client"
	"github.com/proa-dev/proa/client/clienttest"
	"github.com/proa-dev/proa/client/local"
	"github.com/proa-dev/proa/store"
)

type allowAll struct{}

func (allowAll) Authorize(context.Context, authorizer.Attributes) (authorizer.Decision, string, error) {
	return authorizer.DecisionAllow, "", nil
}

func newCluster(t *testing.T) client.Cluster {
	t.Helper()
	logger := slog.New(slog.NewTextHandler(io.Discard, nil))
	scheme := builtin.Scheme()
	s, err := store.Open(t.Context(), store.Config{DataDir: t.TempDir(), Scheme: scheme, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	table := kinds.New(builtin.Kinds())
	core, err := registry.New(registry.Config{
		Store:      s,
		Kinds:      table,
		Authorizer: allowAll{},
		Types:      managedfields.NewDeducedTypeConverter(),
	})
	if err != nil {
		t.Fatal(err)
	}
	c, err := local.New(local.Config{
		Registry: core,
		Store:    s,
		Kinds:    table,
		Scheme:   scheme,
		User:     &user.DefaultInfo{Name: "tester"},
		Logger:   logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"default", "other"} {
		if err := c.Client().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

func TestCluster(t *testing.T) { clienttest.Run(t, newCluster) }
