package local_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"
)

func pod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"app": "a"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "example.com/image:1"}}},
	}
}

// BenchmarkCreate makes pods with 32 writers, through the whole API server.
func BenchmarkCreate(b *testing.B) {
	c := newCluster(b).Client()
	var n atomic.Int64
	b.SetParallelism(16)
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := c.Create(b.Context(), pod(fmt.Sprintf("p-%d", n.Add(1)))); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkGet reads one pod from the cache.
func BenchmarkGet(b *testing.B) {
	c := newCluster(b).Client()
	p := pod("p")
	if err := c.Create(b.Context(), p); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := c.Get(b.Context(), ctrl.ObjectKeyFromObject(p), p); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkList reads 1,000 pods without copies, as a controller does.
func BenchmarkList(b *testing.B) {
	c := newCluster(b).Client()
	for i := range 1000 {
		if err := c.Create(b.Context(), pod(fmt.Sprintf("p-%d", i))); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		var list corev1.PodList
		if err := c.List(b.Context(), &list, ctrl.InNamespace("default"), ctrl.UnsafeDisableDeepCopy); err != nil || len(list.Items) != 1000 {
			b.Fatal(len(list.Items), err)
		}
	}
}
