package horizontalpodautoscaler

import (
	"errors"
	"fmt"
	"math"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/controllers/internal/pods"
)

// calculator turns figures into numbers of replicas. It is pure.
type calculator struct {
	pods      []*corev1.Pod
	now       time.Time
	tolerance tolerance

	cpuInitialization, initialReadiness time.Duration
	specReplicas, statusReplicas        int32
}

// tolerance is how far a ratio may be off 1 without a change.
type tolerance struct{ down, up float64 }

func (t tolerance) within(ratio float64) bool { return 1-t.down <= ratio && ratio <= 1+t.up }

// replicasOf rounds up to a number of replicas.
func replicasOf(n float64) int32 {
	if math.IsNaN(n) {
		return 0
	}
	return int32(math.Ceil(max(0, min(n, math.MaxInt32))))
}

// total adds values up, to the greatest number at most.
func total(values []int64) int64 {
	var sum int64
	for _, v := range values {
		if v > 0 && sum > math.MaxInt64-v {
			return math.MaxInt64
		}
		sum += v
	}
	return sum
}

// byRatio is for one figure that stands for all pods.
func (c *calculator) byRatio(ratio float64) (int32, error) {
	if c.specReplicas == 0 {
		return replicasOf(ratio), nil
	}
	if c.tolerance.within(ratio) {
		return c.specReplicas, nil
	}
	if len(c.pods) == 0 {
		return 0, errors.New("unable to calculate ready pods: no pods returned by selector while calculating replica count")
	}
	ready := 0
	for _, p := range c.pods {
		if p.Status.Phase == corev1.PodRunning && pods.Ready(p) {
			ready++
		}
	}
	return replicasOf(ratio * float64(ready)), nil
}

// perPod is for one figure that the pods share evenly. It returns the share too.
func (c *calculator) perPod(usage, target int64) (replicas int32, average int64) {
	replicas = c.statusReplicas
	if !c.tolerance.within(float64(usage) / (float64(target) * float64(replicas))) {
		replicas = replicasOf(float64(usage) / float64(target))
	}
	share := math.Ceil(float64(usage) / float64(c.statusReplicas))
	if math.IsNaN(share) || share >= math.MaxInt64 {
		return replicas, usage
	}
	return replicas, int64(share)
}

// group sorts the pods by how far their samples count.
type group struct {
	ready int
	// unready pods count for nothing when scaling up, and not at all otherwise;
	// missing ones have no sample; ignored ones are on their way out.
	unready, missing, ignored sets.Set[string]
}

func (c *calculator) group(samples Samples, resource corev1.ResourceName) group {
	g := group{unready: sets.New[string](), missing: sets.New[string](), ignored: sets.New[string]()}
	for _, p := range c.pods {
		sample, found := samples[p.Name]
		switch {
		case p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodFailed:
			g.ignored.Insert(p.Name)
		case p.Status.Phase == corev1.PodPending:
			g.unready.Insert(p.Name)
		case !found:
			g.missing.Insert(p.Name)
		case resource == corev1.ResourceCPU && c.warmingUp(p, sample):
			g.unready.Insert(p.Name)
		default:
			g.ready++
		}
	}
	return g
}

// warmingUp reports whether a pod's CPU figure tells of its start and not of
// its work.
func (c *calculator) warmingUp(p *corev1.Pod, s Sample) bool {
	ready := pods.Condition(&p.Status, corev1.PodReady)
	if ready == nil || p.Status.StartTime == nil {
		return true
	}
	unready := ready.Status == corev1.ConditionFalse
	if p.Status.StartTime.Add(c.cpuInitialization).After(c.now) {
		return unready || s.Time.Before(ready.LastTransitionTime.Add(s.Window))
	}
	// Unready since its start: it has never been ready.
	return unready && p.Status.StartTime.Add(c.initialReadiness).After(ready.LastTransitionTime.Time)
}

// usable drops the samples that do not count.
func (c *calculator) usable(samples Samples, resource corev1.ResourceName) (group, error) {
	if len(c.pods) == 0 {
		return group{}, errors.New("no pods returned by selector while calculating replica count")
	}
	g := c.group(samples, resource)
	for name := range samples {
		if g.ignored.Has(name) || g.unready.Has(name) {
			delete(samples, name)
		}
	}
	if len(samples) == 0 {
		return group{}, errors.New("did not receive metrics for targeted pods (pods might be unready)")
	}
	return g, nil
}

// settle makes a number of replicas of a ratio. Pods whose figures are not
// known are taken for what speaks against a change: fill gives the samples that
// they have then. again computes the ratio anew.
func (c *calculator) settle(g group, samples Samples, ratio float64, fill func(pod string) int64, again func() (float64, error)) (int32, error) {
	upWithUnready := g.unready.Len() > 0 && ratio > 1
	if !upWithUnready && g.missing.Len() == 0 {
		if c.tolerance.within(ratio) {
			return c.specReplicas, nil
		}
		return replicasOf(ratio * float64(g.ready)), nil
	}
	for name := range g.missing {
		switch {
		case ratio < 1:
			samples[name] = Sample{Value: fill(name)}
		case ratio > 1:
			samples[name] = Sample{}
		}
	}
	if upWithUnready {
		for name := range g.unready {
			samples[name] = Sample{}
		}
	}
	filled, err := again()
	if err != nil {
		return 0, err
	}
	if c.tolerance.within(filled) || ratio < 1 && filled > 1 || ratio > 1 && filled < 1 {
		return c.specReplicas, nil
	}
	n := replicasOf(filled * float64(len(samples)))
	if filled < 1 && n > c.specReplicas || filled > 1 && n < c.specReplicas {
		return c.specReplicas, nil // never against the direction
	}
	return n, nil
}

// byAverage is for figures of each pod with a target for their average, which
// is returned too.
func (c *calculator) byAverage(samples Samples, target int64, resource corev1.ResourceName) (replicas int32, usage int64, err error) {
	g, err := c.usable(samples, resource)
	if err != nil {
		return 0, 0, err
	}
	average := func() int64 {
		var values []int64
		for _, s := range samples {
			values = append(values, s.Value)
		}
		return total(values) / int64(len(samples))
	}
	usage = average()
	replicas, err = c.settle(g, samples, float64(usage)/float64(target), func(string) int64 { return target },
		func() (float64, error) { return float64(average()) / float64(target), nil })
	return replicas, usage, err
}

// byUtilization is for figures of each pod with a target in percent of what the
// pods request. The percentage and the average are returned too.
func (c *calculator) byUtilization(samples Samples, target int32, resource corev1.ResourceName, container string) (replicas, percent int32, usage int64, err error) {
	g, err := c.usable(samples, resource)
	if err != nil {
		return 0, 0, 0, err
	}
	requests, err := c.requests(container, resource)
	if err != nil {
		return 0, 0, 0, err
	}
	percent, usage, err = utilization(samples, requests)
	if err != nil {
		return 0, 0, 0, err
	}
	replicas, err = c.settle(g, samples, float64(percent)/float64(target),
		func(pod string) int64 { return requests[pod] * int64(max(100, target)) / 100 },
		func() (float64, error) {
			filled, _, err := utilization(samples, requests)
			return float64(filled) / float64(target), err
		})
	return replicas, percent, usage, err
}

// utilization relates usage and requests, of pods that have both.
func utilization(samples Samples, requests map[string]int64) (percent int32, average int64, err error) {
	var used, requested []int64
	for pod, s := range samples {
		if r, ok := requests[pod]; ok {
			used, requested = append(used, s.Value), append(requested, r)
		}
	}
	sum, of := total(used), total(requested)
	if of == 0 {
		return 0, 0, errors.New("no metrics returned matched known pods")
	}
	return int32(min(float64(sum)*100/float64(of), math.MaxInt32)), sum / int64(len(used)), nil
}

// requests returns what each pod requests, or one container of it.
func (c *calculator) requests(container string, resource corev1.ResourceName) (map[string]int64, error) {
	out := make(map[string]int64, len(c.pods))
	for _, p := range c.pods {
		n, err := request(p, container, resource)
		if err != nil {
			return nil, err
		}
		out[p.Name] = n
	}
	return out, nil
}

func request(p *corev1.Pod, container string, resource corev1.ResourceName) (int64, error) {
	if container == "" && resourcehelper.IsPodLevelRequestsSet(p) {
		q, ok := resourcehelper.PodRequests(p, resourcehelper.PodResourcesOptions{})[resource]
		if !ok {
			return 0, fmt.Errorf("missing pod-level request for %s in Pod %s", resource, p.Name)
		}
		return q.MilliValue(), nil
	}
	var sum int64
	found := false
	add := func(c *corev1.Container) error {
		if container != "" && c.Name != container {
			return nil
		}
		q, ok := c.Resources.Requests[resource]
		if !ok {
			return fmt.Errorf("missing request for %s in container %s of Pod %s", resource, c.Name, p.Name)
		}
		found = true
		sum = total([]int64{sum, q.MilliValue()})
		return nil
	}
	for i := range p.Spec.Containers {
		if err := add(&p.Spec.Containers[i]); err != nil {
			return 0, err
		}
	}
	for i := range p.Spec.InitContainers {
		if c := &p.Spec.InitContainers[i]; ptr.Deref(c.RestartPolicy, "") == corev1.ContainerRestartPolicyAlways {
			if err := add(c); err != nil {
				return 0, err
			}
		}
	}
	if container != "" && !found {
		return 0, fmt.Errorf("container %s not found in Pod %s", container, p.Name)
	}
	return sum, nil
}
