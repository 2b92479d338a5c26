package horizontalpodautoscaler

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// proposal returns the most replicas that any metric asks for, and the metric.
// If metrics fail and the others would have fewer replicas, it is -1: what
// fails might have asked for more.
func (l *look) proposal(ctx context.Context) (int32, string, error) {
	list, err := l.pods(ctx)
	if err != nil {
		return -1, "", err
	}
	c := l.calculator(list)
	specs := l.hpa.Spec.Metrics
	l.statuses = make([]autoscalingv2.MetricStatus, len(specs))
	var replicas int32
	var name string
	var first *failure
	failed := 0
	for i := range specs {
		n, metric, err := l.metric(ctx, c, &specs[i], &l.statuses[i])
		if err != nil {
			if first == nil {
				first = err
			}
			failed++
			continue
		}
		if replicas == 0 || n > replicas {
			replicas, name = n, metric
		}
	}
	err = nil
	if first != nil {
		err = fmt.Errorf("invalid metrics (%v invalid out of %v), first error is: %w", failed, len(specs), first.err)
	}
	if failed >= len(specs) || failed > 0 && replicas < c.specReplicas {
		if first == nil {
			return -1, "", errors.New("no metrics")
		}
		l.set(autoscalingv2.ScalingActive, corev1.ConditionFalse, first.reason, "the HPA was unable to compute the replica count: %v", first.cause)
		return -1, "", err
	}
	l.set(autoscalingv2.ScalingActive, corev1.ConditionTrue, "ValidMetricFound", "the HPA was able to successfully calculate a replica count from %s", name)
	return replicas, name, err
}

// failure is a metric that gives no number: cause is told in the condition, err
// says more.
type failure struct {
	reason     string
	cause, err error
}

// pods returns the target's pods, which no other autoscaler may scale.
func (l *look) pods(ctx context.Context) ([]*corev1.Pod, error) {
	text := l.target.scale.Status.Selector
	if text == "" {
		l.warn("SelectorRequired", "selector is required")
		l.set(autoscalingv2.ScalingActive, corev1.ConditionFalse, "InvalidSelector", "the HPA target's scale is missing a selector")
		return nil, errors.New("selector is required")
	}
	selector, err := labels.Parse(text)
	if err != nil {
		err = fmt.Errorf("couldn't convert selector into a corresponding internal selector object: %w", err)
		l.warn("InvalidSelector", err.Error())
		l.set(autoscalingv2.ScalingActive, corev1.ConditionFalse, "InvalidSelector", "%s", err)
		return nil, err
	}
	var list corev1.PodList
	if err := l.env.Cluster.Client().List(ctx, &list, client.InNamespace(l.hpa.Namespace), client.UnsafeDisableDeepCopy,
		client.MatchingLabelsSelector{Selector: selector}); err != nil {
		return nil, fmt.Errorf("list pods: %w", err)
	}
	out := make([]*corev1.Pod, len(list.Items))
	for i := range list.Items {
		out[i] = &list.Items[i]
	}
	if others := l.claim(client.ObjectKeyFromObject(l.hpa), selector, out); len(others) > 1 {
		err := fmt.Errorf("pods by selector %v are controlled by more than one HPA (e.g. %v)", text, others)
		l.warn("AmbiguousSelector", err.Error())
		l.set(autoscalingv2.ScalingActive, corev1.ConditionFalse, "AmbiguousSelector", "%s", err)
		return nil, err
	}
	return out, nil
}

// owner is an autoscaler in a message.
type owner struct{ Name, Namespace string }

// claim notes an autoscaler's selector, and returns the first two autoscalers
// that select some of the pods.
func (c *Controller) claim(key types.NamespacedName, selector labels.Selector, list []*corev1.Pod) []owner {
	c.mu.Lock()
	c.selectors[key] = selector
	rivals := map[types.NamespacedName]labels.Selector{}
	for k, s := range c.selectors {
		if k.Namespace == key.Namespace {
			rivals[k] = s
		}
	}
	c.mu.Unlock()
	if len(rivals) == 1 {
		return nil
	}
	var out []owner
	for _, k := range slices.SortedFunc(maps.Keys(rivals), func(a, b types.NamespacedName) int {
		return slices.Compare([]string{a.Name}, []string{b.Name})
	}) {
		if slices.ContainsFunc(list, func(p *corev1.Pod) bool { return rivals[k].Matches(labels.Set(p.Labels)) }) {
			out = append(out, owner{k.Name, k.Namespace})
		}
		if len(out) == 2 {
			break
		}
	}
	return out
}

func (l *look) calculator(list []*corev1.Pod) *calculator {
	c := &calculator{
		pods: list, now: l.now, tolerance: tolerance{l.Tolerance, l.Tolerance},
		cpuInitialization: l.CPUInitialization, initialReadiness: l.InitialReadiness,
		specReplicas: l.target.scale.Spec.Replicas, statusReplicas: l.target.scale.Status.Replicas,
	}
	if b := l.hpa.Spec.Behavior; b != nil {
		if b.ScaleDown != nil && b.ScaleDown.Tolerance != nil {
			c.tolerance.down = b.ScaleDown.Tolerance.AsApproximateFloat64()
		}
		if b.ScaleUp != nil && b.ScaleUp.Tolerance != nil {
			c.tolerance.up = b.ScaleUp.Tolerance.AsApproximateFloat64()
		}
	}
	return c
}

// metric computes the replicas for one metric, and its status.
func (l *look) metric(ctx context.Context, c *calculator, m *autoscalingv2.MetricSpec, status *autoscalingv2.MetricStatus) (int32, string, *failure) {
	var (
		n            int32
		name         string
		reason, what string
		err          error
	)
	switch {
	case m.Type == autoscalingv2.ObjectMetricSourceType && m.Object != nil:
		reason, what = "FailedGetObjectMetric", "object metric value"
		n, name, err = l.object(ctx, c, m.Object, status)
	case m.Type == autoscalingv2.PodsMetricSourceType && m.Pods != nil:
		reason, what = "FailedGetPodsMetric", "pods metric value"
		n, name, err = l.podsMetric(ctx, c, m.Pods, status)
	case m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil:
		reason, what = "FailedGetResourceMetric", string(m.Resource.Name)+" resource metric value"
		var v *autoscalingv2.MetricValueStatus
		if n, name, v, err = l.resource(ctx, c, m.Resource.Name, "", &m.Resource.Target); err == nil {
			*status = autoscalingv2.MetricStatus{Type: m.Type, Resource: &autoscalingv2.ResourceMetricStatus{Name: m.Resource.Name, Current: *v}}
		}
	case m.Type == autoscalingv2.ContainerResourceMetricSourceType && m.ContainerResource != nil:
		r := m.ContainerResource
		reason, what = "FailedGetContainerResourceMetric", r.Container+" container metric value"
		var v *autoscalingv2.MetricValueStatus
		if n, name, v, err = l.resource(ctx, c, r.Name, r.Container, &r.Target); err == nil {
			*status = autoscalingv2.MetricStatus{Type: m.Type, ContainerResource: &autoscalingv2.ContainerResourceMetricStatus{
				Name: r.Name, Container: r.Container, Current: *v,
			}}
		}
	case m.Type == autoscalingv2.ExternalMetricSourceType && m.External != nil:
		reason, what = "FailedGetExternalMetric", m.External.Metric.Name+" external metric value"
		n, name, err = l.external(ctx, c, m.External, status)
	default:
		err := fmt.Errorf("unknown metric source type %q", string(m.Type))
		l.warn("InvalidMetricSourceType", err.Error())
		return 0, "", &failure{"InvalidMetricSourceType", err, err}
	}
	if err != nil {
		l.warn(reason, err.Error())
		return 0, "", &failure{reason, err, fmt.Errorf("failed to get %s: %w", what, err)}
	}
	return n, name, nil
}

func milli(n int64) *resource.Quantity { return resource.NewMilliQuantity(n, resource.DecimalSI) }

func (l *look) object(ctx context.Context, c *calculator, o *autoscalingv2.ObjectMetricSource, status *autoscalingv2.MetricStatus) (int32, string, error) {
	selector, err := metav1.LabelSelectorAsSelector(o.Metric.Selector)
	if err != nil {
		return 0, "", err
	}
	byValue := o.Target.Type == autoscalingv2.ValueMetricType && o.Target.Value != nil
	byAverage := o.Target.Type == autoscalingv2.AverageValueMetricType && o.Target.AverageValue != nil
	if !byValue && !byAverage {
		return 0, "", errors.New("invalid object metric source: neither a value target nor an average value target was set")
	}
	usage, err := l.Metrics.Object(ctx, l.hpa.Namespace, o.DescribedObject, o.Metric.Name, selector)
	if err != nil {
		err = fmt.Errorf("unable to get metric %s on %s %s/%s: %w", o.Metric.Name, o.DescribedObject.Kind, l.hpa.Namespace, o.DescribedObject.Name, err)
		return 0, "", err
	}
	s := &autoscalingv2.ObjectMetricStatus{DescribedObject: o.DescribedObject, Metric: o.Metric}
	*status = autoscalingv2.MetricStatus{Type: autoscalingv2.ObjectMetricSourceType, Object: s}
	if byAverage {
		n, average := c.perPod(usage, o.Target.AverageValue.MilliValue())
		s.Current.AverageValue = milli(average)
		return n, fmt.Sprintf("external metric %s(%+v)", o.Metric.Name, o.Metric.Selector), nil
	}
	n, err := c.byRatio(float64(usage) / float64(o.Target.Value.MilliValue()))
	if err != nil {
		return 0, "", err
	}
	s.Current.Value = milli(usage)
	return n, fmt.Sprintf("%s metric %s", o.DescribedObject.Kind, o.Metric.Name), nil
}

func (l *look) podsMetric(ctx context.Context, c *calculator, p *autoscalingv2.PodsMetricSource, status *autoscalingv2.MetricStatus) (int32, string, error) {
	selector, err := metav1.LabelSelectorAsSelector(p.Metric.Selector)
	if err != nil {
		return 0, "", err
	}
	if p.Target.AverageValue == nil {
		return 0, "", errors.New("invalid pods metric source: no average value target was set")
	}
	pods, err := labels.Parse(l.target.scale.Status.Selector)
	if err != nil {
		return 0, "", err
	}
	samples, err := l.Metrics.Pods(ctx, l.hpa.Namespace, pods, p.Metric.Name, selector)
	if err != nil {
		return 0, "", fmt.Errorf("unable to get metric %s: %w", p.Metric.Name, err)
	}
	n, usage, err := c.byAverage(samples, p.Target.AverageValue.MilliValue(), "")
	if err != nil {
		return 0, "", err
	}
	*status = autoscalingv2.MetricStatus{Type: autoscalingv2.PodsMetricSourceType, Pods: &autoscalingv2.PodsMetricStatus{
		Metric: p.Metric, Current: autoscalingv2.MetricValueStatus{AverageValue: milli(usage)},
	}}
	return n, "pods metric " + p.Metric.Name, nil
}

// resource is for metrics of all containers of a pod, or of one.
func (l *look) resource(ctx context.Context, c *calculator, name corev1.ResourceName, container string, t *autoscalingv2.MetricTarget) (int32, string, *autoscalingv2.MetricValueStatus, error) {
	pods, err := labels.Parse(l.target.scale.Status.Selector)
	if err != nil {
		return 0, "", nil, err
	}
	figure := "utilization"
	switch {
	case t.AverageValue != nil:
		figure = "usage"
	case t.AverageUtilization == nil:
		return 0, "", nil, errors.New("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set")
	}
	fail := func(err error) (int32, string, *autoscalingv2.MetricValueStatus, error) {
		return 0, "", nil, fmt.Errorf("failed to get %s %s: %w", name, figure, err)
	}
	samples, err := l.Metrics.Resource(ctx, l.hpa.Namespace, pods, name, container)
	if err != nil {
		return fail(fmt.Errorf("unable to get metrics for resource %s: %w", name, err))
	}
	format := resource.DecimalSI
	if name == corev1.ResourceMemory {
		format = resource.BinarySI
	}
	if t.AverageValue != nil {
		n, usage, err := c.byAverage(samples, t.AverageValue.MilliValue(), name)
		if err != nil {
			return fail(err)
		}
		return n, string(name) + " resource", &autoscalingv2.MetricValueStatus{AverageValue: resource.NewMilliQuantity(usage, format)}, nil
	}
	n, percent, usage, err := c.byUtilization(samples, *t.AverageUtilization, name, container)
	if err != nil {
		return fail(err)
	}
	what := string(name) + " resource utilization (percentage of request)"
	if container != "" {
		what = string(name) + " container resource utilization (percentage of request)"
	}
	return n, what, &autoscalingv2.MetricValueStatus{AverageUtilization: &percent, AverageValue: resource.NewMilliQuantity(usage, format)}, nil
}

func (l *look) external(ctx context.Context, c *calculator, e *autoscalingv2.ExternalMetricSource, status *autoscalingv2.MetricStatus) (int32, string, error) {
	if e.Target.AverageValue == nil && e.Target.Value == nil {
		return 0, "", errors.New("invalid external metric source: neither a value target nor an average value target was set")
	}
	selector, err := metav1.LabelSelectorAsSelector(e.Metric.Selector)
	if err != nil {
		return 0, "", err
	}
	values, err := l.Metrics.External(ctx, l.hpa.Namespace, e.Metric.Name, selector)
	if err != nil {
		err = fmt.Errorf("unable to get external metric %s/%s/%+v: %w", l.hpa.Namespace, e.Metric.Name, e.Metric.Selector, err)
		if e.Target.AverageValue != nil {
			return 0, "", fmt.Errorf("failed to get %s external metric: %w", e.Metric.Name, err)
		}
		return 0, "", fmt.Errorf("failed to get external metric %s: %w", e.Metric.Name, err)
	}
	usage := total(values)
	s := &autoscalingv2.ExternalMetricStatus{Metric: e.Metric}
	*status = autoscalingv2.MetricStatus{Type: autoscalingv2.ExternalMetricSourceType, External: s}
	what := fmt.Sprintf("external metric %s(%+v)", e.Metric.Name, e.Metric.Selector)
	if e.Target.AverageValue != nil {
		n, average := c.perPod(usage, e.Target.AverageValue.MilliValue())
		s.Current.AverageValue = milli(average)
		return n, what, nil
	}
	n, err := c.byRatio(float64(usage) / float64(e.Target.Value.MilliValue()))
	if err != nil {
		return 0, "", fmt.Errorf("failed to get external metric %s: %w", e.Metric.Name, err)
	}
	s.Current.Value = milli(usage)
	return n, what, nil
}
