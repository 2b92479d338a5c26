package admission

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	podresource "k8s.io/component-helpers/resource"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/validate"
)

// limitRangerAnnotation tells what the plugin filled in.
const limitRangerAnnotation = "kubernetes.io/limit-ranger"

// LimitRanger fills in the requests and limits that a namespace's LimitRanges
// give by default, and refuses what is outside of their bounds.
type LimitRanger struct{ lookup Lookup }

var (
	_ Mutator   = (*LimitRanger)(nil)
	_ Validator = (*LimitRanger)(nil)
)

// NewLimitRanger returns the plugin.
func NewLimitRanger(l Lookup) *LimitRanger { return &LimitRanger{l} }

// Name implements Plugin.
func (*LimitRanger) Name() string { return "LimitRanger" }

// ranges are the LimitRanges that bear on a. Pods change what they ask for
// by the resize subresource alone.
func (p *LimitRanger) ranges(a *Attributes) []*corev1.LimitRange {
	switch gr := a.GVR.GroupResource(); {
	case a.Namespace == "" || a.Operation != Create && a.Operation != Update:
		return nil
	case gr == corev1.Resource("pods"):
		if (a.Operation == Create) != (a.Subresource == "") || a.Operation == Update && a.Subresource != "resize" {
			return nil
		}
	case gr != corev1.Resource("persistentvolumeclaims") || a.Subresource != "":
		return nil
	}
	if old, ok := a.OldObject.(api.Object); ok && old.GetDeletionTimestamp() != nil {
		return nil
	}
	var out []*corev1.LimitRange
	for _, obj := range p.lookup.Source.List(corev1.Resource("limitranges"), a.Namespace) {
		if l, ok := obj.(*corev1.LimitRange); ok {
			out = append(out, l)
		}
	}
	return out
}

// Admit implements Mutator.
func (p *LimitRanger) Admit(_ context.Context, a *Attributes) error {
	pod, ok := a.Object.(*corev1.Pod)
	if !ok {
		return nil
	}
	for _, l := range p.ranges(a) {
		fillIn(pod, l)
	}
	return nil
}

func fillIn(pod *corev1.Pod, l *corev1.LimitRange) {
	var requests, limits corev1.ResourceList
	for i := range l.Spec.Limits {
		if item := &l.Spec.Limits[i]; item.Type == corev1.LimitTypeContainer {
			requests, limits = item.DefaultRequest, item.Default // of a type there is one
		}
	}
	var told []string
	fill := func(kind string, c *corev1.Container) {
		if names := fillList(&c.Resources.Requests, requests); len(names) > 0 {
			told = append(told, fmt.Sprintf("%s request for %s %s", strings.Join(names, ", "), kind, c.Name))
		}
		if names := fillList(&c.Resources.Limits, limits); len(names) > 0 {
			told = append(told, fmt.Sprintf("%s limit for %s %s", strings.Join(names, ", "), kind, c.Name))
		}
	}
	for i := range pod.Spec.Containers {
		fill("container", &pod.Spec.Containers[i])
	}
	for i := range pod.Spec.InitContainers {
		fill("init container", &pod.Spec.InitContainers[i])
	}
	if len(told) == 0 {
		return
	}
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[limitRangerAnnotation] = "LimitRanger plugin set: " + strings.Join(told, "; ")
}

// fillList adds what to lacks and returns the names of that.
func fillList(to *corev1.ResourceList, from corev1.ResourceList) []string {
	var names []string
	for _, name := range validate.SortedResources(from) {
		if _, ok := (*to)[name]; ok {
			continue
		}
		if *to == nil {
			*to = corev1.ResourceList{}
		}
		(*to)[name] = from[name].DeepCopy()
		names = append(names, string(name))
	}
	return names
}

// Validate implements Validator.
func (p *LimitRanger) Validate(_ context.Context, a *Attributes) error {
	for _, l := range p.ranges(a) {
		var errs []error
		for i := range l.Spec.Limits {
			item := &l.Spec.Limits[i]
			switch o := a.Object.(type) {
			case *corev1.Pod:
				errs = append(errs, podWithin(o, item)...)
			case *corev1.PersistentVolumeClaim:
				if item.Type == corev1.LimitTypePersistentVolumeClaim {
					errs = append(errs, claimWithin(o, item)...)
				}
			}
		}
		if err := utilerrors.NewAggregate(errs); err != nil {
			return Forbidden(a, err)
		}
	}
	return nil
}

func podWithin(pod *corev1.Pod, l *corev1.LimitRangeItem) (errs []error) {
	switch l.Type {
	case corev1.LimitTypeContainer:
		for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
			for i := range list {
				errs = append(errs, bounded(l, list[i].Resources.Requests, list[i].Resources.Limits)...)
			}
		}
	case corev1.LimitTypePod:
		opts := podresource.PodResourcesOptions{ExcludeOverhead: true}
		errs = bounded(l, podresource.PodRequests(pod, opts), podresource.PodLimits(pod, opts))
	}
	return errs
}

// bounded compares with the minimum, the maximum and the ratio of l.
func bounded(l *corev1.LimitRangeItem, requests, limits corev1.ResourceList) []error {
	errs := atLeast(l, requests, limits)
	for _, name := range validate.SortedResources(l.Max) {
		bound := l.Max[name]
		limit, limited := limits[name]
		request, requested := requests[name]
		switch what := fmt.Sprintf("maximum %s usage per %s is %s", name, l.Type, bound.String()); {
		case !limited:
			errs = append(errs, fmt.Errorf("%s.  No limit is specified", what))
		case more(limit, bound):
			errs = append(errs, fmt.Errorf("%s, but limit is %s", what, limit.String()))
		case requested && more(request, bound):
			errs = append(errs, fmt.Errorf("%s, but request is %s", what, request.String()))
		}
	}
	for _, name := range validate.SortedResources(l.MaxLimitRequestRatio) {
		bound := l.MaxLimitRequestRatio[name]
		limit, request := limits[name], requests[name]
		what := fmt.Sprintf("%s max limit to request ratio per %s is %s", name, l.Type, bound.String())
		low, high := precise(request, limit)
		switch {
		case low == 0:
			errs = append(errs, fmt.Errorf("%s, but no request is specified or request is 0", what))
		case high == 0:
			errs = append(errs, fmt.Errorf("%s, but no limit is specified or limit is 0", what))
		default:
			if ratio := float64(high) / float64(low); ratio > bound.AsApproximateFloat64() {
				errs = append(errs, fmt.Errorf("%s, but provided ratio is %f", what, ratio))
			}
		}
	}
	return errs
}

func atLeast(l *corev1.LimitRangeItem, requests, limits corev1.ResourceList) (errs []error) {
	for _, name := range validate.SortedResources(l.Min) {
		bound := l.Min[name]
		limit, limited := limits[name]
		request, requested := requests[name]
		switch what := fmt.Sprintf("minimum %s usage per %s is %s", name, l.Type, bound.String()); {
		case !requested:
			errs = append(errs, fmt.Errorf("%s.  No request is specified", what))
		case more(bound, request):
			errs = append(errs, fmt.Errorf("%s, but request is %s", what, request.String()))
		case limited && more(bound, limit):
			errs = append(errs, fmt.Errorf("%s, but limit is %s", what, limit.String()))
		}
	}
	return errs
}

func claimWithin(pvc *corev1.PersistentVolumeClaim, l *corev1.LimitRangeItem) []error {
	requests := pvc.Spec.Resources.Requests
	errs := atLeast(l, requests, nil)
	for _, name := range validate.SortedResources(l.Max) {
		bound := l.Max[name]
		request, requested := requests[name]
		switch what := fmt.Sprintf("maximum %s usage per %s is %s", name, l.Type, bound.String()); {
		case !requested:
			errs = append(errs, fmt.Errorf("%s.  No request is specified", what))
		case more(request, bound):
			errs = append(errs, fmt.Errorf("%s, but request is %s", what, request.String()))
		}
	}
	return errs
}

// more compares in thousandths, or in whole pieces what is too large for that.
func more(a, b resource.Quantity) bool {
	x, y := precise(a, b)
	return x > y
}

func precise(a, b resource.Quantity) (x, y int64) {
	x, y = a.Value(), b.Value()
	if max(x, y) <= resource.MaxMilliValue {
		x, y = a.MilliValue(), b.MilliValue()
	}
	return x, y
}
