package objects_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/proa-dev/proa/kubelet/objects"
)

func TestStoreFollowsOnlyWhatIsReferredTo(t *testing.T) {
	api := fake.NewClientBuilder().WithIndex(&corev1.ConfigMap{}, "metadata.name", func(o ctrl.Object) []string { return []string{o.GetName()} }).Build()
	ctx, cancel := context.WithCancel(context.Background())
	s := objects.New(ctx, api, slog.New(slog.DiscardHandler))
	defer s.Wait()
	defer cancel()
	ref := objects.Ref{Kind: objects.ConfigMap, Namespace: "ns", Name: "a"}
	if _, err := s.Get(ctx, ref); err == nil || apierrors.IsNotFound(err) {
		t.Errorf("an object that nobody refers to: %v", err)
	}
	changed := make(chan struct{}, 10)
	s.Register("pod", map[objects.Ref]bool{ref: true}, func() { changed <- struct{}{} })
	if _, err := s.Get(ctx, ref); !apierrors.IsNotFound(err) || err.Error() != `configmap "a" not found` {
		t.Errorf("an object that does not exist: %v", err)
	}
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "a"}, Data: map[string]string{"k": "1"}}
	// The watch may begin just after this: then its list tells.
	if err := api.Create(ctx, cm); err != nil {
		t.Fatal(err)
	}
	await := func(want string) {
		t.Helper()
		deadline := time.After(10 * time.Second)
		for {
			if got, err := s.Get(ctx, ref); err == nil && got.(*corev1.ConfigMap).Data["k"] == want { //nolint:forcetypeassert // a test
				return
			}
			// The fake's watch has no history: what happened between its list
			// and its watch is told by the next change only.
			if err := api.Update(ctx, cm); err != nil {
				t.Fatal(err)
			}
			select {
			case <-changed:
			case <-time.After(20 * time.Millisecond):
			case <-deadline:
				t.Fatalf("never saw %q", want)
			}
		}
	}
	cm.Data["k"] = "2"
	await("2")
	s.Unregister("pod")
	if _, err := s.Get(ctx, ref); err == nil {
		t.Error("an object is still held of which no pod speaks")
	}
}
