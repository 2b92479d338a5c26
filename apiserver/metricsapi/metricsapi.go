// Package metricsapi answers metrics.k8s.io: what nodes and pods use now, from
// the figures of the nodes' kubelets.
//
// Nothing runs while nobody asks. Whoever asks first has all nodes looked at
// twice, a short time apart; the next looks are compared with the one before,
// so that a steady reader gets averages over the time between its questions.
package metricsapi

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/registry"
)

const (
	// resolution is how long figures are as good as new ones.
	resolution = 10 * time.Second
	// stale is the age of a look that says nothing of now any more.
	stale = 2 * time.Minute
	// glance is the time between the two looks where there is no look before.
	glance = 2 * time.Second
	// leastWindow is the shortest time that an average is told of.
	leastWindow = time.Second
)

// Source reads objects from a cache.
type Source interface {
	Get(gr schema.GroupResource, namespace, name string) (api.Object, bool)
	List(gr schema.GroupResource, namespace string) []api.Object
}

// Config is what a Reader is made of.
type Config struct {
	Source Source
	// Transport reaches kubelets, with the client certificate for them.
	Transport http.RoundTripper
	Logger    *slog.Logger
}

// Reader reads what nodes and pods use. Safe for concurrent use.
type Reader struct {
	cfg Config
	// turn is held by whoever looks at the nodes; it guards what is below.
	turn       chan struct{}
	last, prev *look
}

// New returns a reader that has not looked at any node yet.
func New(cfg Config) (*Reader, error) {
	switch {
	case cfg.Source == nil:
		return nil, errors.New("metricsapi: no source")
	case cfg.Transport == nil:
		return nil, errors.New("metricsapi: no transport to kubelets")
	case cfg.Logger == nil:
		return nil, errors.New("metricsapi: no logger")
	}
	return &Reader{cfg: cfg, turn: make(chan struct{}, 1)}, nil
}

// Functions returns what makes the objects of each kind.
func (r *Reader) Functions() map[schema.GroupVersionKind]*registry.Computed {
	gv := metricsv1beta1.SchemeGroupVersion
	return map[schema.GroupVersionKind]*registry.Computed{
		gv.WithKind("NodeMetrics"): {Make: r.nodes, Missing: r.missing("nodes", "nodemetrics")},
		gv.WithKind("PodMetrics"):  {Make: r.pods, Missing: r.missing("pods", "podmetrics")},
	}
}

// missing tells, as metrics-server does, an object that is not there from one
// of which there are no metrics.
func (r *Reader) missing(objects, metrics string) func(namespace, name string) error {
	return func(namespace, name string) error {
		if _, ok := r.cfg.Source.Get(corev1.Resource(objects), namespace, name); !ok {
			return apierrors.NewNotFound(corev1.Resource(objects), name)
		}
		if namespace != "" {
			name = namespace + "/" + name
		}
		return apierrors.NewNotFound(metricsv1beta1.Resource(metrics), name)
	}
}

func (r *Reader) nodes(ctx context.Context, _ string) []api.Object {
	prev, last := r.looks(ctx)
	var out []api.Object
	for _, obj := range r.cfg.Source.List(corev1.Resource("nodes"), "") {
		u, ok := use(prev, last, obj.GetName(), subject{})
		if !ok {
			continue
		}
		out = append(out, &metricsv1beta1.NodeMetrics{
			ObjectMeta: metav1.ObjectMeta{Name: obj.GetName(), Labels: obj.GetLabels(), CreationTimestamp: metav1.Now()},
			Timestamp:  metav1.NewTime(u.at), Window: metav1.Duration{Duration: u.window}, Usage: u.list(),
		})
	}
	return out
}

// pods leaves out those of which a running container has no figures yet: half
// a pod's use is no pod's use.
func (r *Reader) pods(ctx context.Context, namespace string) []api.Object {
	prev, last := r.looks(ctx)
	var out []api.Object
	for _, obj := range r.cfg.Source.List(corev1.Resource("pods"), namespace) {
		pod, ok := obj.(*corev1.Pod)
		if !ok || pod.Status.Phase != corev1.PodRunning {
			continue
		}
		if m := podMetrics(prev, last, pod); m != nil {
			out = append(out, m)
		}
	}
	return out
}

func podMetrics(prev, last *look, pod *corev1.Pod) *metricsv1beta1.PodMetrics {
	m := &metricsv1beta1.PodMetrics{ObjectMeta: metav1.ObjectMeta{
		Name: pod.Name, Namespace: pod.Namespace, Labels: pod.Labels, CreationTimestamp: metav1.Now(),
	}}
	for _, list := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for i := range list {
			if list[i].State.Running == nil {
				continue
			}
			u, ok := use(prev, last, pod.Spec.NodeName, subject{pod.Namespace, pod.Name, list[i].Name})
			if !ok {
				return nil
			}
			// One time and window for all: the latest, and the longest.
			if m.Timestamp.Time.Before(u.at) {
				m.Timestamp = metav1.NewTime(u.at)
			}
			m.Window.Duration = max(m.Window.Duration, u.window)
			m.Containers = append(m.Containers, metricsv1beta1.ContainerMetrics{Name: list[i].Name, Usage: u.list()})
		}
	}
	if len(m.Containers) == 0 {
		return nil
	}
	return m
}

// usage is what a node or container used in the window before at.
type usage struct {
	cores  float64
	memory int64
	at     time.Time
	window time.Duration
}

func (u usage) list() corev1.ResourceList {
	return corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewScaledQuantity(int64(u.cores*1e9), resource.Nano),
		corev1.ResourceMemory: *resource.NewQuantity(u.memory, resource.BinarySI),
	}
}

// use compares two looks. A container that began after the first one had used
// nothing then.
func use(prev, last *look, node string, s subject) (usage, bool) {
	now, ok := last.point(node, s)
	if !ok || !now.hasCPU || !now.hasMemory {
		return usage{}, false
	}
	old, ok := prev.point(node, s)
	if prev != nil && !now.start.IsZero() && now.start.After(prev.at) {
		old, ok = point{hasCPU: true, at: now.start}, true
	}
	window := now.at.Sub(old.at)
	if !ok || !old.hasCPU || window < leastWindow || now.cpu < old.cpu {
		return usage{}, false
	}
	return usage{cores: (now.cpu - old.cpu) / window.Seconds(), memory: now.memory, at: now.at, window: window}, true
}

// looks returns the last two looks at the nodes, made anew where they are old.
// Either may be nil when ctx ends before.
func (r *Reader) looks(ctx context.Context) (prev, last *look) {
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return nil, nil
	}
	if r.prev != nil && time.Since(r.last.at) < resolution {
		return r.prev, r.last
	}
	before := r.last
	if before == nil || time.Since(before.at) > stale {
		before = r.look(ctx)
		wait := time.NewTimer(glance)
		defer wait.Stop()
		select {
		case <-wait.C:
		case <-ctx.Done():
			return nil, nil
		}
	}
	now := r.look(ctx)
	if ctx.Err() != nil {
		return nil, nil // what was looked at is not all
	}
	r.prev, r.last = before, now
	return r.prev, r.last
}
