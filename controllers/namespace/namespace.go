// Package namespace empties and ends namespaces that are being deleted.
package namespace

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/controllers/internal/loop"
)

// Name is the controller's name in logs.
const Name = "namespace-controller"

const workers = 10

// Content with finalizers is looked at again and again, for there is no watch on
// every kind here: often at first, seldom when it has stayed for long.
const (
	often  = time.Second
	seldom = 15 * time.Second
)

type controller struct {
	env   loop.Env
	kinds func() []*api.Kind

	elsewhere *elsewhere
}

// New makes the controller; kinds returns every kind that the API server itself
// serves at the moment. What others serve is reached by cfg.
func New(env loop.Env, kinds func() []*api.Kind, cfg *rest.Config) (loop.Loop, error) {
	env = env.Named(Name)
	others, err := newElsewhere(env.Cluster, cfg)
	if err != nil {
		return loop.Loop{}, err
	}
	c := &controller{env: env, kinds: kinds, elsewhere: others}
	add := func(_ context.Context, q loop.Queue, ns *corev1.Namespace) {
		if ns.DeletionTimestamp != nil {
			q.Add(loop.Key("", ns.Name))
		}
	}
	// What keeps a namespace, such as a server that is down, is asked each minute.
	retries := loop.Retries{First: 5 * time.Millisecond, Longest: time.Minute}
	return loop.NewRetrying(env, Name, workers, retries, c.reconcile,
		loop.Watch(env.Cluster, &corev1.Namespace{}, loop.On[*corev1.Namespace]{
			Created: add,
			Updated: func(ctx context.Context, q loop.Queue, _, ns *corev1.Namespace) { add(ctx, q, ns) },
		}),
		// Pods take longest to go, and nothing else goes before them.
		loop.Watch(env.Cluster, &corev1.Pod{}, loop.On[*corev1.Pod]{
			Deleted: func(ctx context.Context, q loop.Queue, p *corev1.Pod) {
				ns := &corev1.Namespace{}
				if env.Cluster.Client().Get(ctx, types.NamespacedName{Name: p.Namespace}, ns) == nil {
					add(ctx, q, ns)
				}
			},
		}),
	)
}

func (c *controller) reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	// Read past the cache: what is decided here cannot be undone.
	ns := &corev1.Namespace{}
	if err := c.env.Cluster.Reader().Get(ctx, key, ns); err != nil {
		return 0, client.IgnoreNotFound(err)
	}
	if ns.DeletionTimestamp == nil || len(ns.Spec.Finalizers) == 0 {
		return 0, nil
	}
	if ns.Status.Phase != corev1.NamespaceTerminating {
		ns.Status.Phase = corev1.NamespaceTerminating
		if err := c.env.Cluster.Client().Status().Update(ctx, ns); err != nil {
			return 0, client.IgnoreNotFound(err)
		}
	}
	found := c.empty(ctx, ns.Name)
	if err := c.tell(ctx, ns, found); err != nil {
		return 0, client.IgnoreNotFound(err)
	}
	if err := found.err(); err != nil {
		return 0, err
	}
	if len(found.remaining) > 0 {
		if found.wait > 0 {
			return found.wait/2 + time.Second, nil
		}
		return min(max(c.env.Clock.Since(ns.DeletionTimestamp.Time)/8, often), seldom), nil
	}
	return 0, client.IgnoreNotFound(c.finalize(ctx, ns))
}

// finalize lets the API server remove the namespace.
func (c *controller) finalize(ctx context.Context, ns *corev1.Namespace) error {
	var rest []corev1.FinalizerName
	for _, f := range ns.Spec.Finalizers {
		if f != corev1.FinalizerKubernetes {
			rest = append(rest, f)
		}
	}
	if len(rest) == len(ns.Spec.Finalizers) {
		return nil
	}
	ns.Spec.Finalizers = rest
	return c.env.Cluster.Client().SubResource("finalize").Update(ctx, ns)
}

// tell writes the conditions that say how far the deletion is.
func (c *controller) tell(ctx context.Context, ns *corev1.Namespace, found *content) error {
	changed := false
	for _, want := range found.conditions() {
		changed = setCondition(&ns.Status, want, metav1.NewTime(c.env.Clock.Now())) || changed
	}
	if !changed {
		return nil
	}
	return c.env.Cluster.Client().Status().Update(ctx, ns)
}

func setCondition(s *corev1.NamespaceStatus, want corev1.NamespaceCondition, now metav1.Time) bool {
	want.LastTransitionTime = now
	for i := range s.Conditions {
		have := &s.Conditions[i]
		if have.Type != want.Type {
			continue
		}
		if have.Status == want.Status && have.Reason == want.Reason && have.Message == want.Message {
			return false
		}
		if have.Status == want.Status {
			want.LastTransitionTime = have.LastTransitionTime
		}
		*have = want
		return true
	}
	s.Conditions = append(s.Conditions, want)
	return true
}
