package namespace_test

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/builtin"
	"github.com/proa-dev/proa/controllers/internal/clustertest"
	"github.com/proa-dev/proa/controllers/namespace"
)

// alone is a cluster without other API servers, which counts the looks at
// ConfigMaps.
type alone struct {
	*clustertest.Cluster
	looks atomic.Int32
}

func (a *alone) Client() client.WithWatch { return aloneClient{a.Cluster.Client()} }

type aloneClient struct{ client.WithWatch }

func (c aloneClient) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	if _, ok := list.(*apiregistrationv1.APIServiceList); ok {
		return nil
	}
	return c.WithWatch.List(ctx, list, opts...)
}

func (a *alone) Reader() client.Reader { return aloneReader{a.Cluster.Reader(), &a.looks} }

type aloneReader struct {
	client.Reader
	looks *atomic.Int32
}

func (r aloneReader) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	if _, ok := list.(*corev1.ConfigMapList); ok {
		r.looks.Add(1)
	}
	return r.Reader.List(ctx, list, opts...)
}

// What a finalizer keeps is looked at often at first and seldom later.
func TestContentThatStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := metav1.Now()
		kept := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "kept", Finalizers: []string{"test/hold"}}}
		c := &alone{Cluster: clustertest.New(t, kept, &corev1.Namespace{
			ObjectMeta: metav1.ObjectMeta{Name: "ns", DeletionTimestamp: &now, Finalizers: []string{"test/hold"}},
			Spec:       corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{corev1.FinalizerKubernetes}},
			Status:     corev1.NamespaceStatus{Phase: corev1.NamespaceTerminating},
		})}
		env := c.Env(nil)
		env.Cluster = c
		l, err := namespace.New(env, func() []*api.Kind {
			return slices.DeleteFunc(builtin.Kinds(), func(k *api.Kind) bool { return k.Resource != "configmaps" && k.Resource != "pods" })
		}, &rest.Config{})
		c.Do(err)
		c.Run(l)
		looks := func(d time.Duration) int32 {
			before := c.looks.Load()
			time.Sleep(d)
			synctest.Wait()
			return c.looks.Load() - before
		}
		if n := looks(5 * time.Second); n < 5 {
			t.Errorf("%d looks in the first seconds", n)
		}
		time.Sleep(10 * time.Minute)
		if n := looks(time.Hour); n > 2*300 {
			t.Errorf("%d looks in an hour", n)
		}
		c.Get(kept, "ns", "kept")
		if kept.DeletionTimestamp == nil {
			t.Fatal("nothing is deleted")
		}
	})
}
