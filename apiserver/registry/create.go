package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/admission"
)

// eventTTL is how long events are kept.
const eventTTL = 3600

func optionsError(kind string, errs field.ErrorList) error {
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: kind}, "", errs)
}

// Create implements Registry.
func (c *Core) Create(ctx context.Context, t Target, obj runtime.Object, opts *metav1.CreateOptions) (runtime.Object, error) {
	if err := c.authorize(ctx, "create", t); err != nil {
		return nil, err
	}
	if opts == nil {
		opts = &metav1.CreateOptions{}
	}
	if err := optionsError("CreateOptions", metavalidation.ValidateCreateOptions(opts)); err != nil {
		return nil, err
	}
	switch {
	case t.Subresource != "":
		return c.createSubresource(ctx, t, obj, opts)
	case t.Kind.Virtual:
		return c.createVirtual(ctx, t, obj, opts)
	}
	o, err := asObject(obj)
	if err != nil {
		return nil, err
	}
	r, err := c.resource(t.Kind)
	if err != nil {
		return nil, err
	}
	if err := checkKind(t, o); err != nil {
		return nil, err
	}
	return c.createNew(ctx, r, t, o, createArgs{options: opts, dryRun: dryRun(opts.DryRun), manager: opts.FieldManager})
}

// createVirtual answers a kind that is never stored.
func (c *Core) createVirtual(ctx context.Context, t Target, obj runtime.Object, opts *metav1.CreateOptions) (runtime.Object, error) {
	if t.Kind.GVK.Kind == "Binding" && t.Kind.GVK.Group == "" {
		return c.createSubresource(ctx, t, obj, opts)
	}
	f := c.cfg.Virtual[t.Kind.GVK]
	if f == nil {
		return nil, apierrors.NewMethodNotSupported(t.Kind.GR(), "create")
	}
	if o, ok := obj.(api.Object); ok {
		if err := checkKind(t, o); err != nil {
			return nil, err
		}
		if t.Kind.Namespaced {
			if err := matchNamespace(t, o); err != nil {
				return nil, err
			}
		}
		if t.Kind.Default != nil {
			t.Kind.Default(o)
		}
		if t.Kind.Validate != nil {
			if errs := t.Kind.Validate(o); len(errs) > 0 {
				return nil, apierrors.NewInvalid(t.Kind.GVK.GroupKind(), o.GetName(), errs)
			}
		}
	}
	out, err := f(ctx, obj)
	if err != nil {
		return nil, storeError(err, t.Kind.GR(), "create")
	}
	out.GetObjectKind().SetGroupVersionKind(t.Kind.GVK)
	return out, nil
}

// createArgs is what the ways to create differ in.
type createArgs struct {
	options runtime.Object
	dryRun  bool
	// manager owns the fields of the new object; applied objects bring their
	// managed fields along.
	manager string
	applied bool
}

// createNew stores obj, which it owns, as a new object.
func (c *Core) createNew(ctx context.Context, r *resource, t Target, obj api.Object, args createArgs) (api.Object, error) {
	k := t.Kind
	if err := c.mayCreate(k, obj.GetName()); err != nil {
		return nil, err
	}
	if err := matchNamespace(t, obj); err != nil {
		return nil, err
	}
	if err := matchName(t, obj); err != nil {
		return nil, err
	}
	if err := versionOfNew(obj); err != nil {
		return nil, err
	}
	c.fillSystemFields(obj)
	if k.Default != nil {
		k.Default(obj)
	}
	dedupOwners(ctx, obj, false)
	if !args.applied {
		c.manageUpdate(r, "", nil, obj, args.manager)
	}
	a := c.attributes(ctx, t, admission.Create, obj, nil, args.options, args.dryRun)
	if err := c.admit(ctx, a); err != nil {
		return nil, err
	}
	if err := admitted(obj); err != nil {
		return nil, err
	}
	if err := matchNamespace(t, obj); err != nil {
		return nil, err
	}
	if k.Default != nil {
		k.Default(obj)
	}
	dedupOwners(ctx, obj, true)
	obj.SetGeneration(0)
	generated := obj.GetName() == "" && obj.GetGenerateName() != ""
	unnamed := obj
	for attempt := 1; ; attempt++ {
		if generated {
			// A fresh copy for each name: defaults and what is prepared follow from
			// it (a namespace's label, those of a job's pods).
			obj = unnamed.DeepCopyObject().(api.Object)
			obj.SetName(generateName(obj.GetGenerateName()))
			a.Object, a.Name = obj, ""
			if k.Default != nil {
				k.Default(obj)
			}
		}
		if k.PrepareCreate != nil {
			k.PrepareCreate(obj)
		}
		if k.SetRequester != nil {
			k.SetRequester(obj, requester(ctx))
		}
		out, err := c.storeNew(ctx, r, t, obj, a)
		if generated && apierrors.IsAlreadyExists(err) {
			if attempt < generateAttempts {
				continue
			}
			return nil, apierrors.NewGenerateNameConflict(k.GR(), obj.GetName(), 1)
		}
		return out, err
	}
}

// versionOfNew refuses a new object that says which version it is. What names
// none, zero or anything but a number, is taken as upstream takes it.
func versionOfNew(obj api.Object) error {
	if rev, err := parseVersion(obj.GetResourceVersion()); err != nil || rev == 0 {
		return nil
	}
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusInternalServerError,
		Message: "resourceVersion should not be set on objects to be created",
	}}
}

// admitted checks that admission left a new object what only the server gives.
func admitted(obj api.Object) error {
	if created := obj.GetCreationTimestamp(); obj.GetUID() == "" || created.IsZero() {
		return apierrors.NewInternalError(errors.New("system metadata was not initialized"))
	}
	if err := versionOfNew(obj); err != nil {
		return err
	}
	obj.SetResourceVersion("")
	obj.SetDeletionTimestamp(nil)
	obj.SetDeletionGracePeriodSeconds(nil)
	return nil
}

// mayCreate refuses objects of custom resources that go.
func (c *Core) mayCreate(k *api.Kind, name string) error {
	if k.Coerce == nil {
		return nil
	}
	if now := c.cfg.Kinds.Set().ByResource(k.GVR()); now != nil {
		k = now
	}
	if k.NoCreate != "" {
		return apierrors.NewForbidden(k.GR(), name, errors.New(k.NoCreate))
	}
	return nil
}

// storeNew claims what an object that is ready holds, and writes it.
func (c *Core) storeNew(ctx context.Context, r *resource, t Target, obj api.Object, a *admission.Attributes) (api.Object, error) {
	claim, err := c.claim(ctx, t, obj, nil, a.DryRun)
	if err != nil {
		return nil, storeError(err, t.Kind.GR(), "create")
	}
	out, err := c.storeClaimed(ctx, r, t, obj, a)
	c.settle(ctx, claim, err)
	return out, err
}

// storeClaimed validates and writes a new object.
func (c *Core) storeClaimed(ctx context.Context, r *resource, t Target, obj api.Object, a *admission.Attributes) (api.Object, error) {
	k := t.Kind
	errs := validateMeta(k, obj)
	if k.Validate != nil {
		errs = append(errs, k.Validate(obj)...)
	}
	if len(errs) > 0 {
		return nil, apierrors.NewInvalid(k.GVK.GroupKind(), obj.GetName(), errs)
	}
	if k.Warnings != nil {
		for _, w := range k.Warnings(obj, nil) {
			warn(ctx, w)
		}
	}
	if a.Name == "" {
		a.Name = obj.GetName()
	}
	if err := c.validate(ctx, a); err != nil {
		return nil, err
	}
	key := objectKey(k, obj.GetNamespace(), obj.GetName())
	if a.DryRun {
		e, err := r.store.Latest(ctx, key)
		if err != nil {
			return nil, storeError(err, k.GR(), "create")
		}
		if e != nil {
			return nil, c.alreadyExists(t, obj, e.Object)
		}
		return obj, nil
	}
	// Once more: the definition of the kind may have begun to go meanwhile.
	if err := c.mayCreate(k, obj.GetName()); err != nil {
		return nil, err
	}
	stored, err := r.toStored(obj)
	if err != nil {
		return nil, err
	}
	var ttl int64
	if k.GVK.Kind == "Event" && r.stored.StoragePath == "events" {
		ttl = eventTTL
	}
	e, err := r.store.Create(ctx, key, stored, ttl)
	if apierrors.IsAlreadyExists(err) {
		old := r.store.Cached(key)
		if old == nil {
			return nil, apierrors.NewAlreadyExists(k.GR(), obj.GetName())
		}
		return nil, c.alreadyExists(t, obj, old.Object)
	}
	if err != nil {
		return nil, storeError(err, k.GR(), "create")
	}
	return r.written(ctx, e)
}

// alreadyExists says, as upstream does, that the object in the way is going.
func (c *Core) alreadyExists(t Target, obj, old api.Object) error {
	err := apierrors.NewAlreadyExists(t.Kind.GR(), obj.GetName())
	if old.GetDeletionTimestamp() != nil {
		err.ErrStatus.Message = fmt.Sprintf("object is being deleted: %s", err.ErrStatus.Message)
	}
	return err
}

// attributes describes a write to the admission plugins.
func (c *Core) attributes(ctx context.Context, t Target, op admission.Operation, obj, old, opts runtime.Object, dry bool) *admission.Attributes {
	a := &admission.Attributes{
		Operation: op, GVK: t.Kind.GVK, GVR: t.Kind.GVR(), Subresource: t.Subresource,
		Namespace: t.Namespace, Name: t.Name, Object: obj, OldObject: old, Options: opts, DryRun: dry,
		User: userOf(ctx), Warn: func(text string) { warn(ctx, text) }, Kinds: c.cfg.Kinds.Set(),
	}
	a.Own, _ = ctx.Value(ownKey{}).(bool)
	if a.Name == "" {
		if o, ok := obj.(metav1.Object); ok {
			a.Name = o.GetName()
		}
	}
	return a
}

func (c *Core) admit(ctx context.Context, a *admission.Attributes) error {
	if err := c.cfg.Admission.Admit(ctx, a); err != nil {
		return storeError(err, a.GVR.GroupResource(), string(a.Operation))
	}
	return nil
}

func (c *Core) validate(ctx context.Context, a *admission.Attributes) error {
	if err := c.cfg.Admission.Validate(ctx, a); err != nil {
		return storeError(err, a.GVR.GroupResource(), string(a.Operation))
	}
	return nil
}
