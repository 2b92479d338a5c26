package local_test

import (
	"context"
	"log/slog"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/api/builtin"
	"github.com/proa-dev/proa/apiserver"
	"github.com/proa-dev/proa/apiserver/apiservertest"
	"github.com/proa-dev/proa/client"
	"github.com/proa-dev/proa/client/clienttest"
	"github.com/proa-dev/proa/client/local"
)

func newCluster(t testing.TB) client.Cluster {
	t.Helper()
	s := apiservertest.Start(t, nil)
	c, err := local.New(local.Config{
		Registry: s.Registry(),
		Store:    s.Store,
		Kinds:    s.Kinds(),
		Scheme:   builtin.Scheme(),
		User:     &user.DefaultInfo{Name: "tester"},
		Logger:   slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"default", "other"} {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if err := c.Client().Create(t.Context(), ns); err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
	return c
}

func TestCluster(t *testing.T) {
	clienttest.Run(t, func(t *testing.T) client.Cluster { return newCluster(t) })
}

type denyAll struct{}

func (denyAll) Authorize(context.Context, authorizer.Attributes) (authorizer.Decision, string, error) {
	return authorizer.DecisionDeny, "", nil
}

// TestForbidden: being in the same process is no right.
func TestForbidden(t *testing.T) {
	s := apiservertest.Start(t, func(c *apiserver.Config) { c.Authorizer = denyAll{} })
	c, err := local.New(local.Config{
		Registry: s.Registry(), Store: s.Store, Kinds: s.Kinds(), Scheme: builtin.Scheme(),
		User: &user.DefaultInfo{Name: "nobody"}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	for what, err := range map[string]error{
		"cached get":  c.Client().Get(t.Context(), ctrl.ObjectKeyFromObject(ns), ns),
		"live get":    c.Reader().Get(t.Context(), ctrl.ObjectKeyFromObject(ns), ns),
		"cached list": c.Cache().List(t.Context(), &corev1.NamespaceList{}),
		"create":      c.Client().Create(t.Context(), ns),
		"delete":      c.Client().Delete(t.Context(), ns),
	} {
		if !apierrors.IsForbidden(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := c.Client().Watch(t.Context(), &corev1.NamespaceList{}); !apierrors.IsForbidden(err) {
		t.Errorf("watch: %v", err)
	}
}
