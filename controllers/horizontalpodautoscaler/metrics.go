package horizontalpodautoscaler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	externalv1beta1 "k8s.io/metrics/pkg/apis/external_metrics/v1beta1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

// Metrics gives the figures that autoscalers go by, in thousandths.
type Metrics interface {
	// Resource returns the usage of a resource by each pod that is selected, or
	// by one container of it.
	Resource(ctx context.Context, namespace string, pods labels.Selector, name corev1.ResourceName, container string) (Samples, error)
	// Pods returns a metric of each pod that is selected.
	Pods(ctx context.Context, namespace string, pods labels.Selector, metric string, selector labels.Selector) (Samples, error)
	// Object returns a metric of an object.
	Object(ctx context.Context, namespace string, ref autoscalingv2.CrossVersionObjectReference, metric string, selector labels.Selector) (int64, error)
	// External returns the values of a metric of nothing in the cluster.
	External(ctx context.Context, namespace, metric string, selector labels.Selector) ([]int64, error)
}

// Samples are figures by pod.
type Samples map[string]Sample

// Sample is a figure, measured over the window before a time.
type Sample struct {
	Value  int64
	Time   time.Time
	Window time.Duration
}

// rested reads the metrics APIs over HTTP, whoever serves them.
type rested struct {
	mapper                               meta.RESTMapper
	resources, custom1, custom2, outside rest.Interface
}

const customGroup = "custom.metrics.k8s.io"

// NewMetrics reads metrics through the API server at cfg: metrics.k8s.io,
// custom.metrics.k8s.io and external.metrics.k8s.io.
func NewMetrics(cfg *rest.Config, mapper meta.RESTMapper) (Metrics, error) {
	h, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	r := &rested{mapper: mapper}
	for gv, to := range map[schema.GroupVersion]*rest.Interface{
		metricsv1beta1.SchemeGroupVersion:        &r.resources,
		{Group: customGroup, Version: "v1beta1"}: &r.custom1,
		{Group: customGroup, Version: "v1beta2"}: &r.custom2,
		externalv1beta1.SchemeGroupVersion:       &r.outside,
	} {
		if *to, err = restClient(cfg, h, gv); err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
	}
	return r, nil
}

func restClient(cfg *rest.Config, h *http.Client, gv schema.GroupVersion) (rest.Interface, error) {
	own := rest.CopyConfig(cfg)
	own.APIPath, own.GroupVersion, own.QPS = "/apis", &gv, -1
	own.NegotiatedSerializer = scheme.Codecs.WithoutConversion()
	own.ContentType, own.AcceptContentTypes = "application/json", "application/json"
	return rest.RESTClientForConfigAndClient(own, h)
}

// read sends a request and decodes the answer.
func read(ctx context.Context, req *rest.Request, into any) error {
	data, err := req.Do(ctx).Raw()
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("decode metrics: %w", err)
	}
	return nil
}

func (r *rested) Resource(ctx context.Context, namespace string, pods labels.Selector, name corev1.ResourceName, container string) (Samples, error) {
	var list metricsv1beta1.PodMetricsList
	if err := read(ctx, r.resources.Get().Namespace(namespace).Resource("pods").Param("labelSelector", pods.String()), &list); err != nil {
		return nil, fmt.Errorf("unable to fetch metrics from resource metrics API: %w", err)
	}
	if len(list.Items) == 0 {
		return nil, errors.New("no metrics returned from resource metrics API")
	}
	out := Samples{}
	for i := range list.Items {
		m := &list.Items[i]
		if n, ok := usage(m, name, container); ok {
			out[m.Name] = Sample{Value: n, Time: m.Timestamp.Time, Window: m.Window.Duration}
		}
	}
	return out, nil
}

// usage adds up what the containers of a pod use, or returns what one does. A
// figure that is missing makes the sum worthless.
func usage(m *metricsv1beta1.PodMetrics, name corev1.ResourceName, container string) (int64, bool) {
	var values []int64
	for i := range m.Containers {
		c := &m.Containers[i]
		if container != "" && c.Name != container {
			continue
		}
		q, ok := c.Usage[name]
		if !ok {
			return 0, false
		}
		values = append(values, q.MilliValue())
	}
	return total(values), len(values) > 0
}

// metricValue is what both versions of custom metrics have in common.
type metricValue struct {
	DescribedObject corev1.ObjectReference `json:"describedObject"`
	Timestamp       metav1.Time            `json:"timestamp"`
	Window1         *int64                 `json:"window"`        // v1beta1
	Window2         *int64                 `json:"windowSeconds"` // v1beta2
	Value           resource.Quantity      `json:"value"`
}

// defaultWindow is that of samples that do not name one.
const defaultWindow = time.Minute

func (v *metricValue) window() time.Duration {
	for _, w := range []*int64{v.Window1, v.Window2} {
		if w != nil {
			return time.Duration(*w) * time.Second
		}
	}
	return defaultWindow
}

type metricValues struct {
	Items []metricValue `json:"items"`
}

// custom returns the client of the newest version of custom metrics that is
// served. They come and go with what serves them.
func (r *rested) custom(ctx context.Context) (rest.Interface, error) {
	var group metav1.APIGroup
	err := read(ctx, r.custom2.Get().AbsPath("/apis", customGroup), &group)
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("no custom metrics API (%s) registered", customGroup)
	}
	if err != nil {
		return nil, err
	}
	served := map[string]bool{}
	for _, v := range group.Versions {
		served[v.Version] = true
	}
	switch {
	case served["v1beta2"]:
		return r.custom2, nil
	case served["v1beta1"]:
		return r.custom1, nil
	}
	return nil, errors.New("no known available metric versions found")
}

func (r *rested) Pods(ctx context.Context, namespace string, pods labels.Selector, metric string, selector labels.Selector) (Samples, error) {
	var list metricValues
	c, err := r.custom(ctx)
	if err == nil {
		req := c.Get().Namespace(namespace).Resource("pods").Name("*").SubResource(metric).Param("labelSelector", pods.String())
		err = read(ctx, withMetricSelector(req, selector), &list)
	}
	if err != nil {
		return nil, fmt.Errorf("unable to fetch metrics from custom metrics API: %w", err)
	}
	if len(list.Items) == 0 {
		return nil, errors.New("no metrics returned from custom metrics API")
	}
	out := Samples{}
	for i := range list.Items {
		v := &list.Items[i]
		out[v.DescribedObject.Name] = Sample{Value: v.Value.MilliValue(), Time: v.Timestamp.Time, Window: v.window()}
	}
	return out, nil
}

func withMetricSelector(req *rest.Request, s labels.Selector) *rest.Request {
	if s.Empty() {
		return req
	}
	return req.Param("metricLabelSelector", s.String())
}

func (r *rested) Object(ctx context.Context, namespace string, ref autoscalingv2.CrossVersionObjectReference, metric string, selector labels.Selector) (int64, error) {
	var list metricValues
	if err := r.object(ctx, namespace, ref, metric, selector, &list); err != nil {
		return 0, fmt.Errorf("unable to fetch metrics from custom metrics API: %w", err)
	}
	return list.Items[0].Value.MilliValue(), nil
}

func (r *rested) object(ctx context.Context, namespace string, ref autoscalingv2.CrossVersionObjectReference, metric string, selector labels.Selector, list *metricValues) error {
	c, err := r.custom(ctx)
	if err != nil {
		return err
	}
	gk := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind).GroupKind()
	var req *rest.Request
	if gk == (schema.GroupKind{Kind: "Namespace"}) {
		// The autoscaler's own, whatever the name says.
		req = c.Get().Namespace(namespace).Resource("metrics").Name(metric)
	} else {
		m, err := r.mapper.RESTMapping(gk)
		if err != nil {
			return fmt.Errorf("unable to map kind %s to resource: %w", gk, err)
		}
		req = c.Get().Namespace(namespace).Resource(m.Resource.GroupResource().String()).Name(ref.Name).SubResource(metric)
	}
	if err := read(ctx, withMetricSelector(req, selector), list); err != nil {
		return err
	}
	if len(list.Items) != 1 {
		return fmt.Errorf("the custom metrics API server returned %v results when we asked for exactly one", len(list.Items))
	}
	return nil
}

func (r *rested) External(ctx context.Context, namespace, metric string, selector labels.Selector) ([]int64, error) {
	var list externalv1beta1.ExternalMetricValueList
	if err := read(ctx, r.outside.Get().Namespace(namespace).Resource(metric).Param("labelSelector", selector.String()), &list); err != nil {
		return nil, fmt.Errorf("unable to fetch metrics from external metrics API: %w", err)
	}
	if len(list.Items) == 0 {
		return nil, errors.New("no metrics returned from external metrics API")
	}
	var out []int64
	for i := range list.Items {
		out = append(out, list.Items[i].Value.MilliValue())
	}
	return out, nil
}
