package scheduler

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/client"
)

// listTimeout bounds how long the pods may take to be listed.
const listTimeout = 10 * time.Second

// resources tells what each pod asks for, when somebody asks.
type resources struct {
	ctx              context.Context
	cluster          client.Cluster
	requests, limits *prometheus.Desc
}

var _ prometheus.Collector = (*resources)(nil)

// Resources collects what pods ask for, as /metrics/resources shows it, until
// ctx ends.
func Resources(ctx context.Context, cluster client.Cluster) prometheus.Collector {
	labels := []string{"namespace", "pod", "node", "scheduler", "priority", "resource", "unit"}
	const rest = " for workloads on the cluster, broken down by pod. This shows the resource usage the scheduler and kubelet expect per pod for resources along with the unit for the resource if any."
	return &resources{ctx, cluster, prometheus.NewDesc("kube_pod_resource_request", "Resources requested by workloads"+strings.TrimPrefix(rest, " for workloads"), labels, nil),
		prometheus.NewDesc("kube_pod_resource_limit", "Resources limit"+rest, labels, nil)}
}

// Describe implements prometheus.Collector.
func (r *resources) Describe(out chan<- *prometheus.Desc) { out <- r.requests; out <- r.limits }

// Collect implements prometheus.Collector.
func (r *resources) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(r.ctx, listTimeout)
	defer cancel()
	var pods corev1.PodList
	if err := r.cluster.Cache().List(ctx, &pods, ctrl.UnsafeDisableDeepCopy); err != nil {
		out <- prometheus.NewInvalidMetric(r.requests, err)
		return
	}
	for i := range pods.Items {
		p := &pods.Items[i]
		if p.Spec.NodeName != "" && (p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed) {
			continue
		}
		priority := ""
		if p.Spec.Priority != nil {
			priority = strconv.FormatInt(int64(*p.Spec.Priority), 10)
		}
		for desc, list := range map[*prometheus.Desc]corev1.ResourceList{
			r.requests: resource.PodRequests(p, resource.PodResourcesOptions{}),
			r.limits:   resource.PodLimits(p, resource.PodResourcesOptions{}),
		} {
			for name, q := range list {
				if !q.IsZero() {
					out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, q.AsApproximateFloat64(),
						p.Namespace, p.Name, p.Spec.NodeName, p.Spec.SchedulerName, priority, string(name), unit(name))
				}
			}
		}
	}
}

func unit(name corev1.ResourceName) string {
	switch {
	case name == corev1.ResourceCPU:
		return "cores"
	case name == corev1.ResourceMemory, name == corev1.ResourceStorage, name == corev1.ResourceEphemeralStorage,
		strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix):
		return "bytes"
	case strings.HasPrefix(string(name), corev1.ResourceAttachableVolumesPrefix):
		return "integer"
	}
	return ""
}
