package webhook

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/admission"
	"github.com/proa-dev/proa/apiserver/admission/match"
	"github.com/proa-dev/proa/apiserver/webhookclient"
	"github.com/proa-dev/proa/internal/expressions"
)

type object = api.Object

// hook is a webhook, compiled.
type hook struct {
	name, key  string // the key is unique
	criteria   *match.Criteria
	conditions *match.Conditions // nil for none
	client     webhookclient.Config
	timeout    time.Duration // 0 for the request's own
	ignore     bool          // failures
	again      bool          // call it a second time if need be
	// sideEffects is nil where nobody knows; versions are those of reviews.
	sideEffects *admissionv1.SideEffectClass
	versions    []string
}

// harmless says that a dry run may call it.
func (h *hook) harmless() bool {
	return *h.sideEffects == admissionv1.SideEffectClassNone || *h.sideEffects == admissionv1.SideEffectClassNoneOnDryRun
}

// compilers returns the compiler of match conditions, made when the first is.
func compilers() func() match.Compiler {
	return sync.OnceValue(func() match.Compiler { return plugincel.NewConditionCompiler(expressions.Environment()) })
}

// configured are the webhooks of all configurations of a kind.
type configured struct {
	resource schema.GroupResource
	list     func(object) []*hook // of a configuration

	mu      sync.Mutex // serializes rebuilding
	current atomic.Pointer[generation]
}

// generation is what the configurations came to at a revision; it never changes.
type generation struct {
	revision int64
	hooks    []*hook
	byObject map[string][]*hook // by a configuration's UID and version
}

// get returns the webhooks in the order in which they are called.
func (c *configured) get(source admission.Source) []*hook {
	revision := source.Revision(c.resource)
	if g := c.current.Load(); g != nil && g.revision == revision {
		return g.hooks
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.current.Load()
	// Read again: a change that comes now is seen the next time.
	revision = source.Revision(c.resource)
	if old != nil && old.revision == revision {
		return old.hooks
	}
	next := &generation{revision: revision, byObject: map[string][]*hook{}}
	objects := source.List(c.resource, "")
	slices.SortFunc(objects, func(a, b object) int { return cmp.Compare(a.GetName(), b.GetName()) })
	for _, o := range objects {
		key := string(o.GetUID()) + "/" + o.GetResourceVersion()
		var hooks []*hook
		if old != nil {
			hooks = old.byObject[key]
		}
		if hooks == nil {
			hooks = c.list(o)
		}
		next.byObject[key] = hooks
		next.hooks = append(next.hooks, hooks...)
	}
	c.current.Store(next)
	return next.hooks
}

func mutatingHooks(compiler func() match.Compiler) func(object) []*hook {
	return func(o object) []*hook {
		c, ok := o.(*admissionv1.MutatingWebhookConfiguration)
		if !ok {
			return nil
		}
		list := make([]admissionv1.ValidatingWebhook, len(c.Webhooks))
		for i := range c.Webhooks {
			h := &c.Webhooks[i]
			list[i] = admissionv1.ValidatingWebhook{
				Name: h.Name, ClientConfig: h.ClientConfig, Rules: h.Rules, FailurePolicy: h.FailurePolicy, MatchPolicy: h.MatchPolicy,
				NamespaceSelector: h.NamespaceSelector, ObjectSelector: h.ObjectSelector, SideEffects: h.SideEffects,
				TimeoutSeconds: h.TimeoutSeconds, AdmissionReviewVersions: h.AdmissionReviewVersions, MatchConditions: h.MatchConditions,
			}
		}
		hooks := compile(c.Name, list, compiler)
		for i, h := range hooks {
			p := c.Webhooks[i].ReinvocationPolicy
			h.again = p != nil && *p == admissionv1.IfNeededReinvocationPolicy
		}
		return hooks
	}
}

func validatingHooks(compiler func() match.Compiler) func(object) []*hook {
	return func(o object) []*hook {
		c, ok := o.(*admissionv1.ValidatingWebhookConfiguration)
		if !ok {
			return nil
		}
		return compile(c.Name, c.Webhooks, compiler)
	}
}

// compile reads the webhooks of a configuration.
func compile(configuration string, list []admissionv1.ValidatingWebhook, compiler func() match.Compiler) []*hook {
	out := make([]*hook, len(list))
	for i := range list {
		w := &list[i]
		h := &hook{
			name: w.Name, key: fmt.Sprintf("%s/%s/%d", configuration, w.Name, i),
			criteria: match.Webhook(w.Rules, w.MatchPolicy, w.NamespaceSelector, w.ObjectSelector),
			client:   clientOf(&w.ClientConfig), sideEffects: w.SideEffects, versions: w.AdmissionReviewVersions,
			ignore: w.FailurePolicy != nil && *w.FailurePolicy == admissionv1.Ignore,
		}
		if w.TimeoutSeconds != nil {
			h.timeout = time.Duration(*w.TimeoutSeconds) * time.Second
		}
		if len(w.MatchConditions) > 0 {
			h.conditions = match.Compile(compiler(), w.MatchConditions, false)
		}
		out[i] = h
	}
	return out
}

func clientOf(c *admissionv1.WebhookClientConfig) webhookclient.Config {
	out := webhookclient.Config{URL: c.URL, CABundle: c.CABundle}
	if s := c.Service; s != nil {
		out.Service = &webhookclient.Service{Namespace: s.Namespace, Name: s.Name}
		if s.Path != nil {
			out.Service.Path = *s.Path
		}
		if s.Port != nil {
			out.Service.Port = *s.Port
		}
	}
	return out
}
