package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/codec"
	"github.com/proa-dev/proa/apiserver/patch"
	"github.com/proa-dev/proa/internal/quantities"
)

// Patch implements Registry.
func (c *Core) Patch(ctx context.Context, t Target, pt types.PatchType, data []byte, opts *metav1.PatchOptions) (runtime.Object, bool, error) {
	if err := c.authorize(ctx, "patch", t); err != nil {
		return nil, false, err
	}
	if opts == nil {
		opts = &metav1.PatchOptions{}
	}
	if err := optionsError("PatchOptions", metavalidation.ValidatePatchOptions(opts, pt)); err != nil {
		return nil, false, err
	}
	if t.Subresource == "scale" && t.Kind.Scale != nil {
		out, err := c.patchScale(ctx, t, pt, data, opts)
		return out, false, err
	}
	ru, err := c.rulesFor(t)
	if err != nil {
		return nil, false, err
	}
	r, err := c.resource(t.Kind)
	if err != nil {
		return nil, false, err
	}
	ch := change{
		rules: ru, manager: opts.FieldManager, dryRun: dryRun(opts.DryRun),
		createOptions: createOptions(opts.DryRun, opts.FieldManager, opts.FieldValidation),
		options:       &metav1.UpdateOptions{DryRun: opts.DryRun, FieldManager: opts.FieldManager, FieldValidation: opts.FieldValidation},
	}
	reporter := &faults{ctx: ctx, mode: opts.FieldValidation}
	if pt == types.ApplyPatchType {
		applied, err := decodeApplied(t, data, reporter)
		if err != nil {
			return nil, false, err
		}
		ch.tracked, ch.create = true, t.Subresource == ""
		ch.make = func(live *state) (api.Object, error) {
			return c.applyTo(r, t, live, applied.DeepCopy(), opts)
		}
	} else {
		ch.make = func(live *state) (api.Object, error) {
			if obj, ok := c.mergeInto(t.Kind, pt, live, data); ok {
				return obj, nil
			}
			doc, err := live.JSON()
			if err != nil {
				return nil, apierrors.NewInternalError(err)
			}
			return patchDocument(t.Kind, pt, doc, data, reporter)
		}
	}
	obj, created, err := c.write(ctx, t, ch)
	if err != nil {
		return nil, false, err
	}
	return obj, created, nil
}

// mergeInto is the short way of a merge patch.
func (c *Core) mergeInto(k *api.Kind, pt types.PatchType, live *state, data []byte) (api.Object, bool) {
	if _, custom := live.Object.(runtime.Unstructured); custom || pt != types.MergePatchType {
		return nil, false
	}
	obj := live.DeepCopyObject().(api.Object)
	if !c.merger.Merge(obj, data) || obj.GetObjectKind().GroupVersionKind() != k.GVK {
		return nil, false
	}
	if k.Default != nil {
		k.Default(obj)
	}
	return obj, true
}

// faults reports duplicate and unknown fields as the client wants it, once.
type faults struct {
	ctx  context.Context
	mode string
	told bool
}

func (f *faults) report(errs []error) error {
	if len(errs) == 0 || f.mode == metav1.FieldValidationIgnore {
		return nil
	}
	if f.mode == metav1.FieldValidationStrict {
		return runtime.NewStrictDecodingError(errs)
	}
	if !f.told {
		for _, e := range errs {
			warn(f.ctx, e.Error())
		}
		f.told = true
	}
	return nil
}

// patchDocument makes an object of a patched document.
func patchDocument(k *api.Kind, pt types.PatchType, doc, data []byte, f *faults) (api.Object, error) {
	obj := k.New()
	var like any = obj
	if _, custom := obj.(runtime.Unstructured); custom {
		like = nil
	}
	out, strict, err := patch.Apply(pt, doc, data, like)
	if err != nil {
		return nil, err
	}
	unknown, err := codec.DecodeJSON(out, obj)
	if err == nil && k.Coerce != nil {
		var dropped []error
		dropped, err = codec.Coerce(k, obj)
		unknown = append(unknown, dropped...)
	}
	if err == nil {
		told := f.told
		err = f.report(append(strict, unknown...))
		f.told = f.told || told
	}
	if err != nil {
		return nil, apierrors.NewInvalid(schema.GroupKind{}, "", field.ErrorList{
			field.Invalid(field.NewPath("patch"), shown(pt, out, data), err.Error()),
		})
	}
	if gvk := obj.GetObjectKind().GroupVersionKind(); gvk != k.GVK {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("the patch may not change the kind or version to %s", gvk))
	}
	if k.Default != nil {
		k.Default(obj)
	}
	return obj, nil
}

// shown is what an error quotes: the patched document, or the patch itself
// where it is a strategic one.
func shown(pt types.PatchType, out, data []byte) string {
	if pt != types.StrategicMergePatchType {
		return string(out)
	}
	var m map[string]any
	if err := json.Unmarshal(data, &m); err != nil {
		return string(data)
	}
	return fmt.Sprintf("%+v", m)
}

// decodeApplied reads a configuration to apply (JSON is YAML).
func decodeApplied(t Target, data []byte, f *faults) (*unstructured.Unstructured, error) {
	u := &unstructured.Unstructured{Object: map[string]any{}}
	asJSON, err := yaml.YAMLToJSON(data)
	if err == nil {
		err = kjson.UnmarshalCaseSensitivePreserveInts(asJSON, &u.Object)
	}
	if err == nil {
		err = quantities.CheckJSON(asJSON, t.Kind.New())
	}
	if err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding YAML: %v", err))
	}
	if f.mode != metav1.FieldValidationIgnore {
		if err := yaml.UnmarshalStrict(data, &map[string]any{}); err != nil {
			if err := f.report([]error{fmt.Errorf("error strict decoding YAML: %w", err)}); err != nil {
				return nil, apierrors.NewBadRequest(err.Error())
			}
		}
	}
	if u.Object == nil {
		return nil, apierrors.NewBadRequest("error decoding YAML: the body is empty")
	}
	gvk := u.GroupVersionKind()
	want := t.Kind.GVK
	if t.Subresource == "scale" {
		want = scaleGVK
	}
	if gvk.Empty() {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("invalid object type: %v", gvk))
	}
	if gvk.GroupVersion() != want.GroupVersion() {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("Incorrect version specified in apply patch. Specified patch version: %s, expected: %s", gvk.GroupVersion(), want.GroupVersion()))
	}
	if _, found, err := unstructured.NestedString(u.Object, "metadata", "name"); err != nil || !found {
		if err := unstructured.SetNestedField(u.Object, t.Name, "metadata", "name"); err != nil {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding YAML: %v", err))
		}
	}
	if err := matchName(t, u); err != nil {
		return nil, err
	}
	return u, matchNamespace(t, u)
}

// applyTo merges a configuration into live, which may be nil.
func (c *Core) applyTo(r *resource, t Target, live *state, applied *unstructured.Unstructured, opts *metav1.PatchOptions) (api.Object, error) {
	m, err := c.manager(r, t.Subresource)
	if err != nil {
		return nil, err
	}
	var from runtime.Object
	if live != nil {
		// Merging strips managed fields of what it is given.
		from = live.Object.DeepCopyObject()
	} else {
		from = t.Kind.New()
		from.GetObjectKind().SetGroupVersionKind(t.Kind.GVK)
	}
	out, err := m.Apply(from, applied, opts.FieldManager, opts.Force != nil && *opts.Force)
	if err != nil {
		return nil, applyError(err)
	}
	obj, err := asObject(out)
	if err == nil && r.kind.Coerce != nil {
		// What is applied by schema has no unknown fields, but what is not.
		if _, err := r.kind.Coerce(obj); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
	}
	return obj, err
}

func applyError(err error) error {
	if _, ok := err.(apierrors.APIStatus); ok {
		return err
	}
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Message: err.Error(),
	}}
}
