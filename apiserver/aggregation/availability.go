package aggregation

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"
	"k8s.io/utils/ptr"
)

const (
	// attempts are made at the same time; one that succeeds is enough, since a
	// Service has good and bad endpoints.
	attempts = 5
	// answerTimeout is how long an attempt may take.
	answerTimeout = 5 * time.Second
)

// check says whether the backend is available; err is worth another try soon.
func (b *backend) check(ctx context.Context) (_ apiregistrationv1.APIServiceCondition, err error) {
	c := apiregistrationv1.APIServiceCondition{Type: apiregistrationv1.Available, Status: apiregistrationv1.ConditionFalse, LastTransitionTime: metav1.Now()}
	if c.Reason, c.Message = b.missing(ctx); c.Reason != "" {
		return c, nil
	}
	if err := b.answers(ctx); err != nil {
		c.Reason, c.Message = "FailedDiscoveryCheck", err.Error()
		return c, err
	}
	c.Status, c.Reason, c.Message = apiregistrationv1.ConditionTrue, "Passed", "all checks passed"
	return c, nil
}

// missing says what the Service lacks to be reached.
func (b *backend) missing(ctx context.Context) (reason, message string) {
	services := schema.GroupResource{Resource: "services"}
	obj, ok := b.s.cfg.Source.Get(services, b.namespace, b.name)
	if !ok {
		obj, ok = b.s.cfg.Source.Live(ctx, services, b.namespace, b.name)
	}
	svc, isService := obj.(*corev1.Service)
	if !ok || !isService {
		return "ServiceNotFound", fmt.Sprintf("service/%s in %q is not present", b.name, b.namespace)
	}
	if svc.Spec.Type != corev1.ServiceTypeClusterIP {
		return "", ""
	}
	i := slices.IndexFunc(svc.Spec.Ports, func(p corev1.ServicePort) bool { return p.Port == b.port })
	if i < 0 {
		return "ServicePortError", fmt.Sprintf("service/%s in %q is not listening on port %d", b.name, b.namespace, b.port)
	}
	found := b.endpoints()
	if len(found) == 0 {
		return "EndpointsNotFound", fmt.Sprintf("cannot find endpointslices for service/%s in %q", b.name, b.namespace)
	}
	port := svc.Spec.Ports[i].Name
	if !slices.ContainsFunc(found, func(s *discoveryv1.EndpointSlice) bool { return serves(s, port) }) {
		return "MissingEndpoints", fmt.Sprintf("endpointslices for service/%s in %q have no addresses with port name %q", b.name, b.namespace, port)
	}
	return "", ""
}

func (b *backend) endpoints() []*discoveryv1.EndpointSlice {
	var out []*discoveryv1.EndpointSlice
	for _, obj := range b.s.cfg.Source.List(schema.GroupResource{Group: "discovery.k8s.io", Resource: "endpointslices"}, b.namespace) {
		if s, ok := obj.(*discoveryv1.EndpointSlice); ok && s.Labels[discoveryv1.LabelServiceName] == b.name {
			out = append(out, s)
		}
	}
	return out
}

// serves says that a ready endpoint serves a port.
func serves(s *discoveryv1.EndpointSlice, port string) bool {
	return slices.ContainsFunc(s.Endpoints, func(e discoveryv1.Endpoint) bool { return ptr.Deref(e.Conditions.Ready, true) }) &&
		slices.ContainsFunc(s.Ports, func(p discoveryv1.EndpointPort) bool { return ptr.Deref(p.Name, "") == port && p.Port != nil })
}

// answers asks several endpoints at a time for what they must serve.
func (b *backend) answers(ctx context.Context) error {
	if b.broken != nil {
		return b.broken
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan error, attempts)
	for range attempts {
		go func() { results <- b.attempt(ctx) }()
	}
	var err error
	for range attempts {
		if err = <-results; err == nil {
			return nil
		}
	}
	b.plain.CloseIdleConnections() // they may lead to pods that are gone
	return err
}

func (b *backend) attempt(ctx context.Context) error {
	to, err := b.url(ctx, b.discoveryPath())
	if err != nil {
		return err
	}
	client := *b.client
	client.Timeout = answerTimeout
	r, err := b.request(ctx, to)
	if err != nil {
		return err
	}
	resp, err := client.Do(r)
	if err == nil {
		_ = resp.Body.Close() // nothing of it was wanted
		if resp.StatusCode < http.StatusOK || resp.StatusCode >= http.StatusMultipleChoices {
			err = fmt.Errorf("bad status from %v: %d", to, resp.StatusCode)
		}
	}
	if err != nil {
		return fmt.Errorf("failing or missing response from %v: %w", to, err)
	}
	return nil
}

// report writes the condition into the status.
func (b *backend) report(ctx context.Context, c apiregistrationv1.APIServiceCondition) error {
	e, err := b.s.cfg.Store.Resource(b.s.services).Latest(ctx, b.apiService)
	if err != nil || e == nil {
		return err
	}
	svc, ok := e.Object.(*apiService)
	if !ok || svc.Spec.Service == nil || targetOf(svc) != b.target {
		return nil // another backend's turn
	}
	b.told.Store(&c)
	if c.Status != apiregistrationv1.ConditionTrue && helper.IsAPIServiceConditionTrue(svc, apiregistrationv1.Available) {
		b.s.metrics.fell(b.apiService, c.Reason)
	}
	if err := b.s.tell(ctx, svc, c); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write the status: %w", err)
	}
	return nil
}
