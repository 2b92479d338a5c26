package matching_test

import (
	"context"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/proa-dev/proa/controllers/internal/loop"
	"github.com/proa-dev/proa/controllers/internal/matching"
)

func set(namespace, name string, selector map[string]string) *appsv1.ReplicaSet {
	return &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: appsv1.ReplicaSetSpec{Selector: &metav1.LabelSelector{MatchLabels: selector}}}
}

// An object is found by what it selects now, and before it is queued for that.
func TestIndex(t *testing.T) {
	x := matching.New(func(rs *appsv1.ReplicaSet) labels.Selector { return matching.Adopting(rs.Spec.Selector) })
	names := func(namespace, app string) []string {
		return slices.Sorted(slices.Values(x.Names(namespace, labels.Set{"app": app, "tier": "web"})))
	}
	want := func(got []string, want ...string) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	var handled []string // what is found when a change is handled
	look := func(context.Context, loop.Queue, *appsv1.ReplicaSet) { handled = names("n", "a") }
	fed := x.Fed(loop.On[*appsv1.ReplicaSet]{Created: look, Deleted: look,
		Updated: func(ctx context.Context, q loop.Queue, _, rs *appsv1.ReplicaSet) { look(ctx, q, rs) }})
	want(names("n", "a"))
	one, two := set("n", "one", map[string]string{"app": "a"}), set("n", "two", map[string]string{"tier": "web"})
	fed.Created(t.Context(), nil, one)
	want(handled, "one")
	fed.Created(t.Context(), nil, two)
	fed.Created(t.Context(), nil, set("n", "all", nil)) // it would adopt everything there is
	fed.Created(t.Context(), nil, set("other", "one", map[string]string{"app": "a"}))
	want(handled, "one", "two")
	want(names("n", "b"), "two")
	want(names("other", "a"), "one")
	fed.Updated(t.Context(), nil, two, set("n", "two", map[string]string{"tier": "db"}))
	want(handled, "one")
	fed.Deleted(t.Context(), nil, one)
	want(handled)
	want(names("other", "a"), "one")
}
