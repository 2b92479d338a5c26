package webhook

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"time"

	reviewv1 "k8s.io/api/admission/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/managedfields"
	upstream "k8s.io/apiserver/pkg/admission"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/admission"
	"github.com/proa-dev/proa/apiserver/admission/match"
	"github.com/proa-dev/proa/apiserver/codec"
	"github.com/proa-dev/proa/apiserver/patch"
)

// Mutating changes objects as webhooks say.
type Mutating struct{ plugin }

var _ admission.Mutator = (*Mutating)(nil)

// Name implements admission.Plugin.
func (*Mutating) Name() string { return "MutatingAdmissionWebhook" }

// Admit implements admission.Mutator.
func (m *Mutating) Admit(ctx context.Context, a *admission.Attributes) error {
	hooks := m.hooks.get(m.cfg.Lookup.Source)
	if len(hooks) == 0 || exempt(a) {
		return nil
	}
	r, recall := match.New(m.cfg.Lookup, a), a.Recall(m.Name())
	for _, h := range hooks {
		in, ok, err := m.relevant(ctx, r, h)
		if err != nil {
			return err
		}
		if !ok || recall.Skips(h.key) {
			continue
		}
		start := time.Now()
		changed, err := m.one(ctx, r, in)
		err = m.judge(ctx, r, h, time.Since(start), err)
		if changed {
			recall.Changed()
		}
		if h.again {
			recall.Called(h.key)
		}
		if err != nil {
			return err
		}
	}
	if err := put(r); err != nil {
		return err
	}
	recall.Done()
	return nil
}

// one calls a webhook and makes the change that it asks for.
func (m *Mutating) one(ctx context.Context, r *match.Request, in invocation) (changed bool, err error) {
	answer, err := m.call(ctx, ask(r, in), true)
	if answer != nil {
		for _, w := range answer.Warnings {
			r.Warn(w)
		}
	}
	if err != nil || len(answer.Patch) == 0 {
		return false, err
	}
	var operations []map[string]json.RawMessage
	if err := json.Unmarshal(answer.Patch, &operations); err != nil {
		return false, &callError{hook: in.name, reason: fmt.Errorf("received undecodable patch in webhook response: %w", err), code: http.StatusServiceUnavailable}
	}
	if len(operations) == 0 {
		return false, nil
	}
	v, err := r.Versioned(in.target.GVK)
	if err != nil {
		return false, err
	}
	before := v.VersionedObject.Object()
	if before == nil {
		return false, apierrors.NewInternalError(fmt.Errorf("admission webhook %q attempted to modify the object, which is not supported for this operation", in.name))
	}
	if *answer.PatchType != reviewv1.PatchTypeJSONPatch {
		return false, &callError{hook: in.name, reason: fmt.Errorf("unsupported patch type %q", *answer.PatchType), code: http.StatusBadRequest}
	}
	after, err := patched(r, v, answer.Patch)
	if err != nil {
		return false, apierrors.NewInternalError(err)
	}
	changed = !api.Equal(before, after)
	r.Update(v, after)
	return changed, nil
}

// patched returns a new object, in the form and with the defaults of its kind.
func patched(r *match.Request, v *upstream.VersionedAttributes, operations []byte) (runtime.Object, error) {
	before := v.VersionedObject.Object()
	doc, err := json.Marshal(before)
	if err != nil {
		return nil, err
	}
	if doc, _, err = patch.Apply(types.JSONPatchType, doc, operations, nil); err != nil {
		return nil, err
	}
	after, ok := reflect.New(reflect.TypeOf(before).Elem()).Interface().(runtime.Object)
	if !ok {
		return nil, fmt.Errorf("%T cannot be made anew", before)
	}
	if _, err := codec.DecodeJSON(doc, after); err != nil {
		return nil, err
	}
	if gvk := after.GetObjectKind().GroupVersionKind(); gvk != v.VersionedKind {
		return nil, fmt.Errorf("the patch makes a %v of a %v", gvk, v.VersionedKind)
	}
	kind := r.Kinds.ByKind(v.VersionedKind)
	obj, ok := after.(api.Object)
	if kind == nil || !ok {
		return after, nil
	}
	if _, custom := after.(*unstructured.Unstructured); custom && kind.Coerce != nil {
		if _, err := codec.Coerce(kind, obj); err != nil { // what it drops is for the webhook to find out
			return nil, err
		}
	}
	if kind.Default != nil {
		kind.Default(obj)
	}
	return after, nil
}

// put writes the outcome into the object under decision. Owners of fields that
// no longer make sense stay what they were.
func put(r *match.Request) error {
	m, err := meta.Accessor(r.Object)
	if err != nil {
		return r.Put()
	}
	before := m.GetManagedFields()
	if err := r.Put(); err != nil {
		return err
	}
	after := m.GetManagedFields()
	if len(after) == 0 || len(before) == len(after) && &before[0] == &after[0] {
		return nil
	}
	if err := managedfields.ValidateManagedFields(after); err != nil {
		m.SetManagedFields(before)
		r.Warn(fmt.Sprintf(".metadata.managedFields was in an invalid state after admission; this could be caused by an outdated mutating admission controller; please fix your requests: %v", err))
	}
	return nil
}
