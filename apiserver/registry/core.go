package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/warning"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/admission"
	"github.com/proa-dev/proa/apiserver/kinds"
	"github.com/proa-dev/proa/apiserver/ownership"
	"github.com/proa-dev/proa/apiserver/patch"
	"github.com/proa-dev/proa/store"
)

// VirtualFunc answers a create of a kind that is never stored.
type VirtualFunc func(ctx context.Context, obj runtime.Object) (runtime.Object, error)

// TokenFunc issues a token for a service account, unless admit refuses the
// request, which it shows with its defaults.
type TokenFunc func(ctx context.Context, sa *corev1.ServiceAccount, tr *authenticationv1.TokenRequest, admit func(*authenticationv1.TokenRequest) error) (*authenticationv1.TokenRequest, error)

// Config is what a Core is made of. Admission, Virtual and Token may be nil.
type Config struct {
	Store      *store.Store
	Kinds      *kinds.Table
	Authorizer authorizer.UnconditionalAuthorizer
	Admission  admission.Chain
	Virtual    map[schema.GroupVersionKind]VirtualFunc
	// Computed answers reads of kinds that are never stored; may be nil.
	Computed map[schema.GroupVersionKind]*Computed
	Token    TokenFunc
	// Hooks take part in writes, by resource.
	Hooks map[schema.GroupResource]Hook
	// Report is told of failures that no request can answer for; may be nil.
	Report func(error)
	// Types tells server-side apply how fields merge.
	Types managedfields.TypeConverter
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Core implements Registry over a store. Safe for concurrent use.
type Core struct {
	cfg       Config
	resources sync.Map // *api.Kind to *resource
	merger    patch.Merger
	owners    ownership.Memory
	turns     turns
}

var _ Registry = (*Core)(nil)

// New returns a registry over cfg.Store.
func New(cfg Config) (*Core, error) {
	switch {
	case cfg.Store == nil:
		return nil, errors.New("registry: no store")
	case cfg.Kinds == nil:
		return nil, errors.New("registry: no kinds")
	case cfg.Authorizer == nil:
		return nil, errors.New("registry: no authorizer")
	case cfg.Types == nil:
		return nil, errors.New("registry: no type converter")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Core{cfg: cfg}, nil
}

// resource is one served kind with its storage.
type resource struct {
	kind     *api.Kind
	stored   *api.Kind
	store    *store.Resource
	managers sync.Map // subresource to *managedfields.FieldManager
	fields   fieldCache
}

func (c *Core) resource(k *api.Kind) (*resource, error) {
	if r, ok := c.resources.Load(k); ok {
		return r.(*resource), nil
	}
	stored := c.cfg.Kinds.Set().Stored(k)
	if stored == nil {
		return nil, apierrors.NewInternalError(fmt.Errorf("%s is stored as an unknown kind", k.GVK))
	}
	r, _ := c.resources.LoadOrStore(k, &resource{kind: k, stored: stored, store: c.cfg.Store.Resource(stored)})
	return r.(*resource), nil
}

// Forget drops what is kept for a kind that is no longer served.
func (c *Core) Forget(k *api.Kind) {
	c.resources.Delete(k)
	c.resources.Delete(scaleKey{k})
}

// scaleKey is the key of what is kept for the Scales of a kind.
type scaleKey struct{ *api.Kind }

// served returns the entry's object in the version of the kind. It may be
// shared: never mutate it.
func (r *resource) served(e *store.Entry) (api.Object, error) {
	if r.kind.Storage == nil {
		return e.Object, nil
	}
	obj, err := r.kind.Storage.From(e.Object)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	if k := obj.GetObjectKind(); k.GroupVersionKind() != r.kind.GVK {
		k.SetGroupVersionKind(r.kind.GVK)
	}
	return obj, nil
}

// prepare makes ready to serve entries in one go, where that is faster.
func (r *resource) prepare(entries []*store.Entry) error {
	if r.kind.Storage == nil || r.kind.Storage.Prepare == nil || len(entries) < 2 {
		return nil
	}
	objs := make([]api.Object, len(entries))
	for i, e := range entries {
		objs[i] = e.Object
	}
	if err := r.kind.Storage.Prepare(objs); err != nil {
		return apierrors.NewInternalError(err)
	}
	return nil
}

// toStored returns obj in the stored version, ready to be handed to the store.
func (r *resource) toStored(obj api.Object) (api.Object, error) {
	if r.kind.Storage == nil {
		obj.GetObjectKind().SetGroupVersionKind(r.kind.GVK)
		return obj, nil
	}
	out, err := r.kind.Storage.To(obj)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	if k := out.GetObjectKind(); k.GroupVersionKind() != r.stored.GVK {
		k.SetGroupVersionKind(r.stored.GVK)
	}
	return out, nil
}

func (t Target) key() string { return objectKey(t.Kind, t.Namespace, t.Name) }

func objectKey(k *api.Kind, namespace, name string) string {
	if k.Namespaced {
		return namespace + "/" + name
	}
	return name
}

type authorizedKey struct{}

// WithAuthorized marks a request whose main verb the caller has authorized
// already: an HTTP server does so before it reads a body. Additional verbs
// (create by server-side apply) are still checked.
func WithAuthorized(ctx context.Context) context.Context {
	return context.WithValue(ctx, authorizedKey{}, true)
}

type admittedKey struct{}

// WithAdmitted marks deletions about which admission is not asked: those that
// follow from what it let pass already (an eviction, the end of the definition
// of custom resources).
func WithAdmitted(ctx context.Context) context.Context {
	return context.WithValue(ctx, admittedKey{}, true)
}

type ownKey struct{}

// WithOwn marks what the API server writes to come up and to be found. The
// webhooks and policies of users are not asked about it: one that is broken
// would keep the server, and with it the way to remove it, from starting.
func WithOwn(ctx context.Context) context.Context { return context.WithValue(ctx, ownKey{}, true) }

type receiptKey struct{}

// Receipt takes the entry that a write made, for callers that want its bytes.
type Receipt struct{ Entry *store.Entry }

// WithReceipt asks for the entry that a write makes.
func WithReceipt(ctx context.Context, r *Receipt) context.Context {
	return context.WithValue(ctx, receiptKey{}, r)
}

// written returns what the client gets of an entry that was just written.
func (r *resource) written(ctx context.Context, e *store.Entry) (api.Object, error) {
	if receipt, ok := ctx.Value(receiptKey{}).(*Receipt); ok && r.kind.Storage == nil {
		receipt.Entry = e
	}
	r.heed(ctx, e)
	return r.served(e)
}

// heed waits until the cache has a write that governs others. It does not fail
// the write, which has happened: the cache has it a little later then.
func (r *resource) heed(ctx context.Context, e *store.Entry) {
	if r.kind.Governs {
		_, _ = r.store.Latest(ctx, e.Key)
	}
}

// authorize checks the request's main verb.
func (c *Core) authorize(ctx context.Context, verb string, t Target) error {
	if done, _ := ctx.Value(authorizedKey{}).(bool); done {
		return nil
	}
	return c.authorizeAlso(ctx, verb, t)
}

// authorizeAlso checks a verb that the request's URL does not show.
func (c *Core) authorizeAlso(ctx context.Context, verb string, t Target) error {
	attrs, err := attributesOf(ctx, verb, t)
	if err != nil {
		return err
	}
	return Authorize(ctx, c.cfg.Authorizer, attrs)
}

// authorizeMany checks a verb on a collection. What its selectors leave out
// counts: a node may list the pods that are bound to it, and no others.
func (c *Core) authorizeMany(ctx context.Context, verb string, t Target, opts *metav1.ListOptions) error {
	if done, _ := ctx.Value(authorizedKey{}).(bool); done {
		return nil
	}
	attrs, err := attributesOf(ctx, verb, t)
	if err != nil {
		return err
	}
	if opts != nil && opts.FieldSelector != "" {
		if sel, err := fields.ParseSelector(opts.FieldSelector); err != nil {
			attrs.FieldSelectorParsingErr = err
		} else {
			attrs.FieldSelectorRequirements = sel.Requirements()
			if name, ok := sel.RequiresExactMatch("metadata.name"); ok {
				attrs.Name = name // as the HTTP server's request info has it
			}
		}
	}
	if opts != nil && opts.LabelSelector != "" {
		if sel, err := labels.Parse(opts.LabelSelector); err != nil {
			attrs.LabelSelectorParsingErr = err
		} else {
			attrs.LabelSelectorRequirements, _ = sel.Requirements()
		}
	}
	return Authorize(ctx, c.cfg.Authorizer, attrs)
}

func attributesOf(ctx context.Context, verb string, t Target) (authorizer.AttributesRecord, error) {
	u, ok := request.UserFrom(ctx)
	if !ok {
		return authorizer.AttributesRecord{}, apierrors.NewInternalError(errors.New("no user in the request's context"))
	}
	return authorizer.AttributesRecord{
		User: u, Verb: verb, Namespace: t.Namespace, Name: t.Name,
		APIGroup: t.Kind.GVK.Group, APIVersion: t.Kind.GVK.Version,
		Resource: t.Kind.Resource, Subresource: t.Subresource,
		ResourceRequest: true,
	}, nil
}

// Authorize asks a and makes upstream's 403 of a refusal.
func Authorize(ctx context.Context, a authorizer.UnconditionalAuthorizer, attrs authorizer.AttributesRecord) error {
	decision, reason, err := a.Authorize(ctx, attrs)
	if decision == authorizer.DecisionAllow {
		return nil
	}
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	return admission.Unauthorized(attrs, reason)
}

// userOf returns the request's user; every path has authorized it before.
func userOf(ctx context.Context) user.Info {
	u, _ := request.UserFrom(ctx)
	return u
}

// requester is who asks, for objects that record it. What it holds is shared
// with other requests of that user: copies are handed out.
func requester(ctx context.Context) api.Requester {
	u := userOf(ctx)
	if u == nil {
		return api.Requester{}
	}
	r := api.Requester{Name: u.GetName(), UID: u.GetUID(), Groups: slices.Clone(u.GetGroups())}
	for k, v := range u.GetExtra() {
		if r.Extra == nil {
			r.Extra = map[string][]string{}
		}
		r.Extra[k] = slices.Clone(v)
	}
	return r
}

func warn(ctx context.Context, text string) { warning.AddWarning(ctx, "", text) }

// dryRun says whether a write shall change nothing.
func dryRun(values []string) bool { return len(values) > 0 }

// storeError makes a status error of what the store or the context says.
func storeError(err error, gr schema.GroupResource, verb string) error {
	var status apierrors.APIStatus
	var unreadable *store.Unreadable
	switch {
	case errors.As(err, &status):
		return err
	case errors.As(err, &unreadable):
		return apierrors.NewInternalError(err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return apierrors.NewTimeoutError("request did not complete within the allotted timeout", 0)
	}
	return apierrors.NewServerTimeout(gr, verb, 1)
}
