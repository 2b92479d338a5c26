package loop_test

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/controllers/internal/clustertest"
	"github.com/proa-dev/proa/controllers/internal/loop"
)

// stuck is an API that never answers who lists ConfigMaps.
type stuck struct{ client.WithWatch }

func (s stuck) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	if _, ok := list.(*corev1.ConfigMapList); ok {
		<-ctx.Done()
		return ctx.Err()
	}
	return s.WithWatch.List(ctx, list, opts...)
}

// A kind that somebody else watches and that cannot be read does not keep a
// loop from beginning.
func TestOtherKindsAreNotWaitedFor(t *testing.T) {
	c := clustertest.New(t, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
	c.API = stuck{c.API}
	c.Run()
	_, err := c.Cache().GetInformer(t.Context(), &corev1.ConfigMap{}, cache.BlockUntilSynced(false))
	c.Do(err)
	seen := make(chan string, 1)
	l, err := loop.New(c.Env(nil), "test", 1, func(_ context.Context, key types.NamespacedName) (time.Duration, error) {
		seen <- key.Name
		return 0, nil
	}, loop.Self(c, &corev1.Node{}))
	c.Do(err)
	c.Launch(l)
	c.Eventually(func() (bool, string) {
		select {
		case name := <-seen:
			return name == "n1", name
		default:
			return false, "nothing is looked at"
		}
	})
}
