package remote_test

import (
	"log/slog"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/proa-dev/proa/api/builtin"
	"github.com/proa-dev/proa/apiserver/apiservertest"
	"github.com/proa-dev/proa/client"
	"github.com/proa-dev/proa/client/clienttest"
	"github.com/proa-dev/proa/client/remote"
)

func TestCluster(t *testing.T) {
	clienttest.Run(t, func(t *testing.T) client.Cluster {
		s := apiservertest.Start(t, nil)
		c, err := remote.New(remote.Config{
			REST:   s.Config("admin"),
			Scheme: builtin.Scheme(),
			Logger: slog.New(slog.DiscardHandler),
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
	})
}
