package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/admission"
	"github.com/proa-dev/proa/apiserver/ownership"
	"github.com/proa-dev/proa/store"
)

// maxAttempts bounds how often a write is tried again because somebody else
// was faster. Each round means that another write succeeded.
const maxAttempts = 100

// change is one way to write to an existing object.
type change struct {
	// make returns the new object, owned by the caller. live is nil when there
	// is no object and create is allowed.
	make func(live *state) (api.Object, error)
	// rules are those of the main resource or of a subresource.
	rules rules
	// manager tracks the fields for the manager with this name; tracked is
	// set when make did that itself (server-side apply).
	manager string
	tracked bool
	// create allows to make the object; createOptions go to admission then.
	create        bool
	createOptions runtime.Object
	options       runtime.Object
	dryRun        bool
	// put marks a replacement, which some kinds want to name the version that
	// it replaces; patches carry the one they began with.
	put bool
	// view, if set, says how admission sees the write; make has asked the plugins
	// that mutate then.
	view func(a *admission.Attributes) error
}

// state is the object that a change starts from, in the version of the kind.
// It is shared.
type state struct {
	api.Object
	resource *resource
	entry    *store.Entry
}

// JSON returns the object's JSON, which is there already if the kind is stored
// in the served version.
func (s *state) JSON() ([]byte, error) {
	if s.resource.kind.Storage == nil {
		return s.entry.JSON(), nil
	}
	return json.Marshal(s.Object)
}

// rules are the parts in which the main resource and subresources differ.
type rules struct {
	prepare  func(obj, old api.Object)
	validate func(obj, old api.Object) field.ErrorList
	warnings func(obj, old api.Object) []string
}

func mainRules(k *api.Kind) rules {
	return rules{prepare: k.PrepareUpdate, validate: k.ValidateUpdate, warnings: k.Warnings}
}

func (c *Core) rulesFor(t Target) (rules, error) {
	k := t.Kind
	switch t.Subresource {
	case "":
		return mainRules(k), nil
	case "status":
		if k.Status != nil {
			return rules{prepare: k.Status.PrepareUpdate, validate: k.Status.ValidateUpdate}, nil
		}
	}
	for _, s := range k.Subresources {
		if s.Name == t.Subresource && s.Update != nil {
			return rules{prepare: s.Update.PrepareUpdate, validate: s.Update.ValidateUpdate}, nil
		}
	}
	return rules{}, apierrors.NewNotFound(k.GR(), t.Name)
}

// Update implements Registry.
func (c *Core) Update(ctx context.Context, t Target, obj runtime.Object, opts *metav1.UpdateOptions) (runtime.Object, error) {
	out, _, err := c.Put(ctx, t, obj, opts)
	return out, err
}

// Put is Update that also says whether it created the object.
func (c *Core) Put(ctx context.Context, t Target, obj runtime.Object, opts *metav1.UpdateOptions) (runtime.Object, bool, error) {
	if err := c.authorize(ctx, "update", t); err != nil {
		return nil, false, err
	}
	if opts == nil {
		opts = &metav1.UpdateOptions{}
	}
	if err := optionsError("UpdateOptions", metavalidation.ValidateUpdateOptions(opts)); err != nil {
		return nil, false, err
	}
	if t.Subresource == "scale" && t.Kind.Scale != nil {
		out, err := c.updateScale(ctx, t, obj, opts)
		return out, false, err
	}
	o, err := asObject(obj)
	if err != nil {
		return nil, false, err
	}
	ru, err := c.rulesFor(t)
	if err != nil {
		return nil, false, err
	}
	if err := checkKind(t, o); err != nil {
		return nil, false, err
	}
	if err := matchName(t, o); err != nil {
		return nil, false, err
	}
	if t.Kind.Default != nil {
		t.Kind.Default(o)
	}
	dedupOwners(ctx, o, false)
	versioned, used := o.GetResourceVersion() != "", false
	ch := change{
		make: func(*state) (api.Object, error) {
			if !versioned {
				return o.DeepCopyObject().(api.Object), nil
			}
			// The store has o since the first round; somebody else was faster.
			if used {
				return nil, conflict(t, errors.New(modifiedText))
			}
			used = true
			return o, nil
		},
		rules: ru, manager: opts.FieldManager, put: true,
		create: t.Kind.CreateOnUpdate && t.Subresource == "", createOptions: createOptions(opts.DryRun, opts.FieldManager, opts.FieldValidation),
		options: opts, dryRun: dryRun(opts.DryRun),
	}
	out, created, err := c.write(ctx, t, ch)
	if err != nil {
		return nil, false, err
	}
	return out, created, nil
}

func createOptions(dry []string, manager, validation string) *metav1.CreateOptions {
	return &metav1.CreateOptions{DryRun: dry, FieldManager: manager, FieldValidation: validation}
}

// write carries out a change, again and again while others are faster, as far
// as the change allows it.
func (c *Core) write(ctx context.Context, t Target, ch change) (obj api.Object, created bool, err error) {
	r, err := c.resource(t.Kind)
	if err != nil {
		return nil, false, err
	}
	done := func() {}
	defer func() { done() }()
	for attempt := range maxAttempts {
		if attempt == 1 {
			turn, err := c.turns.take(ctx, r.stored.StoragePath+"/"+t.key())
			if err != nil {
				return nil, false, storeError(err, t.Kind.GR(), "update")
			}
			done = turn
		}
		e, err := r.store.Latest(ctx, t.key())
		if err != nil {
			return nil, false, storeError(err, t.Kind.GR(), "update")
		}
		if e == nil {
			out, err := c.writeNew(ctx, r, t, ch)
			if ch.create && apierrors.IsAlreadyExists(err) {
				continue
			}
			return out, true, err
		}
		out, err := c.writeOnce(ctx, r, t, ch, e)
		if errors.Is(err, store.ErrChanged) {
			continue
		}
		if err != nil {
			return nil, false, storeError(err, t.Kind.GR(), "update")
		}
		return out, false, nil
	}
	return nil, false, conflict(t, errors.New(modifiedText))
}

func conflict(t Target, err error) error { return apierrors.NewConflict(t.Kind.GR(), t.Name, err) }

// writeNew creates the object of a change that may.
func (c *Core) writeNew(ctx context.Context, r *resource, t Target, ch change) (api.Object, error) {
	if !ch.create {
		return nil, apierrors.NewNotFound(t.Kind.GR(), t.Name)
	}
	if err := c.authorizeAlso(ctx, "create", t); err != nil {
		return nil, err
	}
	obj, err := ch.make(nil)
	if err != nil {
		return nil, err
	}
	if uid := obj.GetUID(); uid != "" {
		return nil, conflict(t, fmt.Errorf("uid mismatch: the provided object specified uid %s, and no existing object was found", uid))
	}
	if ch.put {
		obj.SetResourceVersion("")
	}
	return c.createNew(ctx, r, t, obj, createArgs{options: ch.createOptions, dryRun: ch.dryRun, manager: ch.manager, applied: ch.tracked})
}

// invalidObject is how upstream's storage says that an object is not as it
// should be for what was asked.
func invalidObject(r *resource, t Target, why string) error {
	return fmt.Errorf("StorageError: invalid object, Code: 4, Key: /registry/%s/%s, ResourceVersion: 0, AdditionalErrorMsg: %s", r.stored.StoragePath, t.key(), why)
}

func preconditionError(r *resource, t Target, want, have types.UID) error {
	return invalidObject(r, t, fmt.Sprintf("Precondition failed: UID in precondition: %v, UID in object meta: %v", want, have))
}

// writeOnce is one round; store.ErrChanged asks for another.
func (c *Core) writeOnce(ctx context.Context, r *resource, t Target, ch change, e *store.Entry) (api.Object, error) {
	live, err := r.served(e)
	if err != nil {
		return nil, err
	}
	obj, err := ch.make(&state{Object: live, resource: r, entry: e})
	if err != nil {
		return nil, err
	}
	if err := matchNamespace(t, obj); err != nil {
		return nil, err
	}
	if err := matchName(t, obj); err != nil {
		return nil, err
	}
	if err := c.checkVersion(r, t, ch, obj, live); err != nil {
		return nil, err
	}
	if !ch.tracked {
		c.manageUpdate(r, t.Subresource, live, obj, ch.manager)
	}
	a := c.attributes(ctx, t, admission.Update, obj, live, ch.options, ch.dryRun)
	if ch.view == nil {
		if err := c.admit(ctx, a); err != nil {
			return nil, err
		}
	}
	c.prepare(ctx, t, ch, obj, live)
	claim, err := c.claim(ctx, t, obj, live, ch.dryRun)
	if err != nil {
		return nil, err
	}
	out, err := c.writeClaimed(ctx, r, t, ch, e, a)
	c.settle(ctx, claim, err)
	return out, err
}

// writeClaimed validates and writes the changed object in a.
func (c *Core) writeClaimed(ctx context.Context, r *resource, t Target, ch change, e *store.Entry, a *admission.Attributes) (api.Object, error) {
	obj, live := a.Object.(api.Object), a.OldObject.(api.Object)
	ownership.Share(obj, live)
	if err := c.check(ctx, t, ch, obj, live); err != nil {
		return nil, err
	}
	if ch.view != nil {
		if err := ch.view(a); err != nil {
			return nil, err
		}
	}
	if err := c.validate(ctx, a); err != nil {
		return nil, err
	}
	keepManagedTimes(obj, live)
	if deletedByUpdate(obj, live) {
		return c.finishDelete(ctx, r, t, e, obj, ch.dryRun)
	}
	if ch.dryRun {
		return obj, nil
	}
	stored, err := r.toStored(obj)
	if err != nil {
		return nil, err
	}
	next, err := r.store.Update(ctx, e, stored)
	if err != nil {
		return nil, err
	}
	return r.written(ctx, next)
}

// checkVersion compares the resourceVersion and uid that obj names with live.
func (c *Core) checkVersion(r *resource, t Target, ch change, obj, live api.Object) error {
	switch rv := obj.GetResourceVersion(); {
	case rv == live.GetResourceVersion():
	case rv == "" || rv == "0":
		if t.Kind.RequireVersionOnUpdate && ch.put {
			return apierrors.NewInvalid(t.Kind.GVK.GroupKind(), t.Name, field.ErrorList{
				field.Invalid(field.NewPath("metadata").Child("resourceVersion"), uint64(0), "must be specified for an update"),
			})
		}
		obj.SetResourceVersion(live.GetResourceVersion())
	default:
		if _, err := parseVersion(rv); err != nil {
			return apierrors.NewInvalid(t.Kind.GVK.GroupKind(), t.Name, field.ErrorList{
				field.Invalid(field.NewPath("metadata").Child("resourceVersion"), rv, "must be a number"),
			})
		}
		return conflict(t, errors.New(modifiedText))
	}
	if uid := obj.GetUID(); uid != "" && uid != live.GetUID() {
		return conflict(t, preconditionError(r, t, uid, live.GetUID()))
	}
	return nil
}

// prepare applies the rules of the kind.
func (c *Core) prepare(ctx context.Context, t Target, ch change, obj, live api.Object) {
	if t.Kind.Default != nil {
		t.Kind.Default(obj)
	}
	dedupOwners(ctx, obj, true)
	keepSystemFields(obj, live)
	if ch.rules.prepare != nil {
		ch.rules.prepare(obj, live)
	}
}

// check validates a change and collects its warnings.
func (c *Core) check(ctx context.Context, t Target, ch change, obj, live api.Object) error {
	errs := validateMetaUpdate(obj, live)
	if ch.rules.validate != nil {
		errs = append(errs, ch.rules.validate(obj, live)...)
	}
	if len(errs) > 0 {
		return apierrors.NewInvalid(t.Kind.GVK.GroupKind(), obj.GetName(), errs)
	}
	if ch.rules.warnings != nil {
		for _, w := range ch.rules.warnings(obj, live) {
			warn(ctx, w)
		}
	}
	return nil
}
