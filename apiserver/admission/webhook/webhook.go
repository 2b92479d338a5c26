// Package webhook admits writes by asking webhooks: the servers that
// MutatingWebhookConfigurations and ValidatingWebhookConfigurations name.
//
// Configurations are read and compiled when they change, and looked up by every
// write: a cluster without any pays for two reads of a revision. Mutating
// webhooks are called one after the other, by the name of their configuration
// and their place in it; validating ones all at once.
package webhook

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/proa-dev/proa/apiserver/admission"
	"github.com/proa-dev/proa/apiserver/admission/match"
	"github.com/proa-dev/proa/apiserver/webhookclient"
)

// Config is what both plugins need.
type Config struct {
	Lookup     admission.Lookup
	Authorizer authorizer.UnconditionalAuthorizer
	Client     *webhookclient.Client
	// Metrics registers metrics; nil: none.
	Metrics prometheus.Registerer
	Logger  *slog.Logger
}

// New returns the plugins, which share their metrics.
func New(cfg Config) (*Mutating, *Validating, error) {
	if cfg.Lookup.Source == nil || cfg.Authorizer == nil || cfg.Client == nil || cfg.Logger == nil {
		return nil, nil, errors.New("webhook: every field of the configuration but the metrics is required")
	}
	m, err := newMetrics(cfg.Metrics)
	if err != nil {
		return nil, nil, fmt.Errorf("webhook: register metrics: %w", err)
	}
	conditions := compilers()
	base := func(resource, kind, step string, list func(object) []*hook) plugin {
		return plugin{cfg: cfg, metrics: m, kind: kind, step: step, hooks: configured{
			resource: admissionv1.SchemeGroupVersion.WithResource(resource).GroupResource(), list: list,
		}}
	}
	return &Mutating{base("mutatingwebhookconfigurations", "admit", "admit", mutatingHooks(conditions))},
		&Validating{base("validatingwebhookconfigurations", "validating", "validate", validatingHooks(conditions))}, nil
}

// plugin is what mutating and validating webhooks have in common.
type plugin struct {
	cfg     Config
	metrics *metrics
	hooks   configured
	// kind and step are how metrics name the calls and the match conditions of
	// this plugin: upstream spells them in two ways.
	kind, step string
}

// exempt says that no webhook is asked: about what configures admission, lest a
// webhook keeps itself from being removed; about questions that change nothing,
// which webhooks themselves may ask; and about what the server needs to start.
func exempt(a *admission.Attributes) bool {
	switch a.GVR.Group {
	case admissionv1.GroupName, "authentication.k8s.io", "authorization.k8s.io":
		return true
	}
	return a.Own
}

// invocation is a webhook that is for a request.
type invocation struct {
	*hook
	target match.Target
}

// relevant says whether a webhook is to be called. Errors are status errors.
func (p *plugin) relevant(ctx context.Context, r *match.Request, h *hook) (invocation, bool, error) {
	target, ok, err := r.Matches(ctx, h.criteria)
	if err != nil || !ok {
		return invocation{}, false, err
	}
	if h.conditions == nil {
		return invocation{h, target}, true, nil
	}
	start := time.Now()
	met, failed, err := h.conditions.Met(ctx, r, target, plugincel.OptionalVariableBindings{Authorizer: p.cfg.Authorizer})
	p.metrics.conditions(h.name, p.step, r.Operation, time.Since(start), failed)
	switch {
	case err != nil && h.ignore:
		return invocation{}, false, nil
	case err != nil:
		p.cfg.Logger.Warn("match conditions of a webhook fail", "webhook", h.name, "error", err)
		return invocation{}, false, apierrors.NewForbidden(r.GVR.GroupResource(), r.Name, err)
	case !met:
		p.metrics.excluded(h.name, p.step, r.Operation)
	}
	return invocation{h, target}, met, nil
}

// callError is a webhook that could not be asked, or answered nonsense: its
// failure policy decides.
type callError struct {
	hook   string
	reason error
	code   int32
}

// Error implements error.
func (e *callError) Error() string {
	return fmt.Sprintf("failed calling webhook %q: %v", e.hook, e.reason)
}

// Unwrap implements errors' interface.
func (e *callError) Unwrap() error { return e.reason }

// denial is a webhook's no.
type denial struct{ *apierrors.StatusError }

// judge makes of the outcome of a call what becomes of the request: nil where
// the webhook does not refuse, or may fail.
func (p *plugin) judge(ctx context.Context, r *match.Request, h *hook, took time.Duration, err error) error {
	var failed *callError
	var no denial
	call := observed{hook: h.name, kind: p.kind, operation: r.Operation, took: took}
	switch {
	case err == nil:
		call.code = 200
		p.metrics.observe(call)
		return nil
	case errors.As(err, &failed):
		call.code, call.rejected = failed.code, !h.ignore
		if call.rejected && !errors.Is(failed.reason, context.Canceled) {
			p.metrics.refused(call, "calling_webhook_error")
		}
		p.metrics.observe(call)
		if !h.ignore {
			p.cfg.Logger.Warn("a webhook fails, and the request with it", "webhook", h.name, "error", err)
			return apierrors.NewInternalError(err)
		}
		if !errors.Is(failed.reason, context.Canceled) {
			p.cfg.Logger.Warn("a webhook fails, which it may", "webhook", h.name, "error", err)
			p.metrics.ignored(call)
		}
		if ctx.Err() != nil {
			return timedOut()
		}
		return nil
	case errors.As(err, &no):
		call.code, call.rejected = no.ErrStatus.Code, true
		p.metrics.refused(call, "no_error")
		p.metrics.observe(call)
		return no.StatusError
	}
	call.rejected = true
	p.metrics.refused(call, "apiserver_internal_error")
	p.metrics.observe(call)
	return err
}

// timedOut is what is left to say when the request's own time is over.
func timedOut() error {
	return apierrors.NewTimeoutError("request did not complete within requested timeout", 0)
}
