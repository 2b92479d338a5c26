// Package horizontalpodautoscaler is the HorizontalPodAutoscaler controller:
// it scales workloads by what metrics say.
//
// Each autoscaler is looked at four times a minute: the metrics give a number
// of replicas (compute.go, replicas.go), which recent numbers, rates and the
// limits of the autoscaler temper (behavior.go).
package horizontalpodautoscaler

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/controllers/internal/loop"
)

// Name is the controller's name in logs and events.
const Name = "horizontal-pod-autoscaler"

const workers = 5

type hpa = autoscalingv2.HorizontalPodAutoscaler

// Config is what the controller is told; zero times and tolerances mean the
// defaults.
type Config struct {
	// Metrics gives the figures.
	Metrics Metrics
	// Period is the time between two looks at an autoscaler; 15 s.
	Period time.Duration
	// Downscale is how long a recommendation keeps the replicas from getting
	// fewer, if an autoscaler does not say; 5 min.
	Downscale time.Duration
	// Tolerance is how far off the target metrics may be, if an autoscaler does
	// not say; 0.1.
	Tolerance float64
	// CPUInitialization is how long after its start a pod's CPU figures count
	// only while it is ready; 5 min.
	CPUInitialization time.Duration
	// InitialReadiness is how long after its start a pod that gets unready may
	// never have been ready; 30 s.
	InitialReadiness time.Duration
}

func (c *Config) complete() error {
	if c.Metrics == nil {
		return errors.New("horizontal pod autoscaler: no metrics")
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&c.Period, 15 * time.Second}, {&c.Downscale, 5 * time.Minute},
		{&c.CPUInitialization, 5 * time.Minute}, {&c.InitialReadiness, 30 * time.Second},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if c.Tolerance == 0 {
		c.Tolerance = 0.1
	}
	return nil
}

// Controller is the loop over autoscalers.
type Controller struct {
	Config
	env    loop.Env
	events record.EventRecorder
	scales scales

	mu        sync.Mutex
	histories map[types.NamespacedName]*history
	selectors map[types.NamespacedName]labels.Selector
}

// New makes the controller.
func New(env loop.Env, cfg Config) (loop.Loop, error) {
	if err := cfg.complete(); err != nil {
		return loop.Loop{}, err
	}
	env = env.Named(Name)
	c := &Controller{
		Config: cfg, env: env, events: env.Cluster.Recorder(Name), scales: scales{env.Cluster.Client()},
		histories: map[types.NamespacedName]*history{}, selectors: map[types.NamespacedName]labels.Selector{},
	}
	add := func(_ context.Context, q loop.Queue, h *hpa) { q.Add(loop.Key(h.Namespace, h.Name)) }
	return loop.New(env, Name, workers, c.reconcile, loop.Watch(env.Cluster, &hpa{}, loop.On[*hpa]{
		Created: add,
		Updated: func(ctx context.Context, q loop.Queue, old, h *hpa) {
			if old.Generation != h.Generation { // the rest has time until the next look
				add(ctx, q, h)
			}
		},
		Deleted: func(_ context.Context, _ loop.Queue, h *hpa) { c.forget(client.ObjectKeyFromObject(h)) },
	}))
}

func (c *Controller) forget(key types.NamespacedName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.histories, key)
	delete(c.selectors, key)
}

// historyOf returns what is remembered of an autoscaler. Only the one look at
// it that is under way may change it.
func (c *Controller) historyOf(key types.NamespacedName) *history {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.histories[key]
	if h == nil {
		h = &history{}
		c.histories[key] = h
	}
	return h
}

// look is one look at an autoscaler.
type look struct {
	*Controller
	hpa     *hpa // our own copy
	history *history
	now     time.Time
	target  *target
	// current is how many replicas are wanted so far.
	current  int32
	statuses []autoscalingv2.MetricStatus
}

// reconcile looks at an autoscaler, and will again after the period whatever
// comes of it.
func (c *Controller) reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	l := &look{Controller: c, hpa: &hpa{}, now: c.env.Clock.Now()}
	if err := c.env.Cluster.Client().Get(ctx, key, l.hpa); err != nil {
		if apierrors.IsNotFound(err) {
			c.forget(key)
		}
		return 0, client.IgnoreNotFound(err)
	}
	l.history = c.historyOf(key)
	if v := l.history.written; v != "" && loop.Older(l.hpa.ResourceVersion, v) {
		return loop.StaleDelay, nil
	}
	before := l.hpa.Status.DeepCopy()
	if err := l.scale(ctx); err != nil {
		c.env.Logger.Debug("scaling", "autoscaler", key, "err", err)
	}
	if equality.Semantic.DeepEqual(before, &l.hpa.Status) {
		return c.Period, nil
	}
	if err := c.env.Cluster.Client().Status().Update(ctx, l.hpa); err != nil {
		if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
			return 0, client.IgnoreNotFound(err) // changed meanwhile: look at what it is now
		}
		c.events.Event(l.hpa, corev1.EventTypeWarning, "FailedUpdateStatus", err.Error())
		return c.Period, nil
	}
	l.history.written = l.hpa.ResourceVersion
	return c.Period, nil
}

// scale brings the target to the number of replicas that the metrics ask for.
func (l *look) scale(ctx context.Context) error {
	ref := &l.hpa.Spec.ScaleTargetRef
	var err error
	if l.target, err = l.scales.get(ctx, l.hpa.Namespace, ref); err != nil {
		l.warn("FailedGetScale", err.Error())
		l.set(autoscalingv2.AbleToScale, corev1.ConditionFalse, "FailedGetScale", "the HPA controller was unable to get the target's current scale: %v", err)
		return err
	}
	l.set(autoscalingv2.AbleToScale, corev1.ConditionTrue, "SucceededGetScale", "the HPA controller was able to get the target's current scale")
	l.current = l.target.scale.Spec.Replicas
	l.history.begin(l.current, l.now)

	d, err := l.decide(ctx)
	if err != nil && d == nil {
		l.status(l.hpa.Status.DesiredReplicas, false)
		l.warn("FailedComputeMetricsReplicas", err.Error())
		return fmt.Errorf("failed to compute desired number of replicas based on listed metrics for %s/%s/%s: %w", ref.Kind, l.hpa.Namespace, ref.Name, err)
	}
	if !d.rescale {
		l.status(l.current, false)
		return err
	}
	if failed := l.scales.set(ctx, l.target, d.replicas); failed != nil {
		l.events.Eventf(l.hpa, corev1.EventTypeWarning, "FailedRescale", "New size: %d; reason: %s; error: %v", d.replicas, d.reason, failed)
		l.set(autoscalingv2.AbleToScale, corev1.ConditionFalse, "FailedUpdateScale", "the HPA controller was unable to update the target scale: %v", failed)
		l.status(l.hpa.Status.DesiredReplicas, false)
		return fmt.Errorf("failed to rescale %s/%s/%s: %w", ref.Kind, l.hpa.Namespace, ref.Name, failed)
	}
	l.set(autoscalingv2.AbleToScale, corev1.ConditionTrue, "SucceededRescale", "the HPA controller was able to update the target scale to %d", d.replicas)
	l.events.Eventf(l.hpa, corev1.EventTypeNormal, "SuccessfulRescale", "New size: %d; reason: %s", d.replicas, d.reason)
	l.history.rescaled(l.hpa.Spec.Behavior, l.current, d.replicas, l.now)
	if l.current > 0 && d.replicas == 0 && l.min() == 0 && l.countsBesidePods() {
		l.set(autoscalingv2.ScaledToZero, corev1.ConditionTrue, "ScaledToZero", "the HPA controller scaled the workload to zero")
	} else {
		l.set(autoscalingv2.ScaledToZero, corev1.ConditionFalse, "NotScaledToZero", "the HPA controller did not scale the workload to zero")
	}
	l.status(d.replicas, true)
	return err
}

// decision is how many replicas there should be, and why.
type decision struct {
	replicas int32
	reason   string
	rescale  bool
}

// decide finds the number of replicas. It may return both a decision and an
// error, when some metrics work and others do not.
func (l *look) decide(ctx context.Context) (*decision, error) {
	spec := &l.hpa.Spec
	switch {
	case l.current == 0:
		// Who scaled to zero by hand wants no pods; who left it to us does.
		if !l.scaledToZero() || l.min() == 0 && !l.countsBesidePods() {
			l.set(autoscalingv2.ScalingActive, corev1.ConditionFalse, "ScalingDisabled", "scaling is disabled since the replica count of the target is zero")
			return &decision{}, nil
		}
	case l.current > spec.MaxReplicas:
		return &decision{spec.MaxReplicas, "Current number of replicas above Spec.MaxReplicas", true}, nil
	case l.current < l.min():
		return &decision{l.min(), "Current number of replicas below Spec.MinReplicas", true}, nil
	}
	proposed, metric, err := l.proposal(ctx)
	if err != nil && proposed < 0 {
		return nil, err
	}
	d := &decision{replicas: max(proposed, 0)}
	switch {
	case d.replicas > l.current:
		d.reason = metric + " above target"
	case d.replicas < l.current:
		d.reason = "All metrics below target"
	}
	if spec.Behavior == nil {
		d.replicas = l.normalize(d.replicas)
	} else {
		d.replicas = l.normalizeByBehavior(d.replicas)
	}
	if l.current == 0 && d.replicas < l.min() {
		d.replicas = l.min()
		if d.reason == "" {
			d.reason = "Current number of replicas below Spec.MinReplicas"
		}
	}
	d.rescale = d.replicas != l.current
	return d, err
}

func (l *look) min() int32 { return ptr.Deref(l.hpa.Spec.MinReplicas, 1) }

// scaledToZero reports whether it was us who scaled to zero.
func (l *look) scaledToZero() bool {
	for _, c := range l.hpa.Status.Conditions {
		if c.Type == autoscalingv2.ScaledToZero {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// countsBesidePods reports whether there is a metric that needs no pods.
func (l *look) countsBesidePods() bool {
	for _, m := range l.hpa.Spec.Metrics {
		if m.Type == autoscalingv2.ObjectMetricSourceType || m.Type == autoscalingv2.ExternalMetricSourceType {
			return true
		}
	}
	return false
}

func (l *look) warn(reason, message string) {
	l.events.Event(l.hpa, corev1.EventTypeWarning, reason, message)
}

// set sets a condition.
func (l *look) set(t autoscalingv2.HorizontalPodAutoscalerConditionType, status corev1.ConditionStatus, reason, format string, args ...any) {
	list := l.hpa.Status.Conditions
	i := 0
	for ; i < len(list) && list[i].Type != t; i++ {
	}
	if i == len(list) {
		list = append(list, autoscalingv2.HorizontalPodAutoscalerCondition{Type: t})
	}
	if list[i].Status != status {
		list[i].LastTransitionTime = metav1.NewTime(l.now)
	}
	list[i].Status, list[i].Reason, list[i].Message = status, reason, fmt.Sprintf(format, args...)
	l.hpa.Status.Conditions = list
}

// status tells what was found and done.
func (l *look) status(desired int32, rescaled bool) {
	s := &l.hpa.Status
	s.CurrentReplicas, s.DesiredReplicas, s.CurrentMetrics = l.current, desired, l.statuses
	s.ObservedGeneration = ptr.To(l.hpa.Generation)
	if rescaled {
		s.LastScaleTime = ptr.To(metav1.NewTime(l.now))
	}
}
