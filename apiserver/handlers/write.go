package handlers

import (
	"bytes"
	"context"
	"fmt"
	"mime"
	"net/http"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/warning"
	"sigs.k8s.io/yaml"

	"github.com/proa-dev/proa/apiserver/codec"
	"github.com/proa-dev/proa/apiserver/patch"
	"github.com/proa-dev/proa/apiserver/registry"
)

// empty makes the object that a body is read into, and says of what kind it
// has to be.
func (c *call) empty() (runtime.Object, schema.GroupVersionKind) {
	switch {
	case c.target.Subresource == "scale":
		return &autoscalingv1.Scale{}, autoscalingv1.SchemeGroupVersion.WithKind("Scale")
	case c.sub != nil && c.sub.Body != nil:
		return c.sub.Body.New(), c.sub.GVK
	}
	return c.target.Kind.New(), c.target.Kind.GVK
}

// decode reads the body of a create or an update.
func (c *call) decode(ctx context.Context, validation string) (runtime.Object, error) {
	f, err := codec.BodyFormat(c.r.Header.Get("Content-Type"))
	if err != nil {
		return nil, err
	}
	data, err := c.body()
	if err != nil {
		return nil, err
	}
	obj, want := c.empty()
	strict, err := c.cfg.Codec.Decode(f, data, obj, want)
	if err != nil {
		return nil, err
	}
	if o, ok := obj.(*unstructured.Unstructured); ok && c.target.Kind.Coerce != nil {
		dropped, err := codec.Coerce(c.target.Kind, o)
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		strict = append(strict, dropped...)
	}
	if len(strict) == 0 {
		return obj, nil
	}
	switch validation {
	case metav1.FieldValidationIgnore:
	case metav1.FieldValidationStrict:
		gvk := obj.GetObjectKind().GroupVersionKind()
		return nil, apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v", gvk.Kind, gvk.Version, want.Kind, runtime.NewStrictDecodingError(strict)))
	default:
		for _, e := range strict {
			warning.AddWarning(ctx, "", e.Error())
		}
	}
	return obj, nil
}

// answer writes what a write made; entry has its bytes if there is one.
func (c *call) answer(code int, obj runtime.Object, receipt *registry.Receipt) error {
	if e := receipt.Entry; e != nil && c.accept.As == "" {
		data, err := c.cfg.Codec.Entry(c.accept.Format, e)
		if err != nil {
			return notAcceptable()
		}
		c.write(code, data)
		return nil
	}
	return c.result(code, obj)
}

func (c *call) create(ctx context.Context) error {
	opts := c.query.createOptions()
	obj, err := c.decode(ctx, opts.FieldValidation)
	if err != nil {
		return err
	}
	if opts.FieldManager == "" {
		opts.FieldManager = managerOf(c.r.UserAgent())
	}
	var receipt registry.Receipt
	out, err := c.cfg.Registry.Create(registry.WithReceipt(ctx, &receipt), c.target, obj, opts)
	if err != nil {
		return err
	}
	return c.answer(http.StatusCreated, out, &receipt)
}

func (c *call) update(ctx context.Context) error {
	opts := c.query.updateOptions()
	obj, err := c.decode(ctx, opts.FieldValidation)
	if err != nil {
		return err
	}
	if opts.FieldManager == "" {
		opts.FieldManager = managerOf(c.r.UserAgent())
	}
	var receipt registry.Receipt
	out, created, err := c.cfg.Registry.Put(registry.WithReceipt(ctx, &receipt), c.target, obj, opts)
	if err != nil {
		return err
	}
	code := http.StatusOK
	if created {
		code = http.StatusCreated
	}
	if c.target.Subresource == "scale" {
		receipt.Entry = nil
	}
	return c.answer(code, out, &receipt)
}

func (c *call) patch(ctx context.Context) error {
	opts := c.query.patchOptions()
	media, _, err := mime.ParseMediaType(c.r.Header.Get("Content-Type"))
	pt := types.PatchType(media)
	if err != nil {
		pt = types.PatchType(c.r.Header.Get("Content-Type"))
	}
	accepted := []types.PatchType{types.JSONPatchType, types.MergePatchType}
	if _, custom := c.target.Kind.New().(runtime.Unstructured); !custom {
		accepted = append(accepted, types.StrategicMergePatchType)
	}
	accepted = append(accepted, types.ApplyPatchType)
	known := false
	for _, a := range accepted {
		known = known || a == pt
	}
	if !known {
		return patch.Unsupported(accepted, pt)
	}
	data, err := c.body()
	if err != nil {
		return err
	}
	if opts.FieldManager == "" && pt != types.ApplyPatchType {
		opts.FieldManager = managerOf(c.r.UserAgent())
	}
	var receipt registry.Receipt
	out, created, err := c.cfg.Registry.Patch(registry.WithReceipt(ctx, &receipt), c.target, pt, data, opts)
	if err != nil {
		return err
	}
	code := http.StatusOK
	if created {
		code = http.StatusCreated
	}
	if c.target.Subresource == "scale" {
		receipt.Entry = nil
	}
	return c.answer(code, out, &receipt)
}

// deleteOptions come in the body or, without one, in the query.
func (c *call) deleteOptions() (*metav1.DeleteOptions, error) {
	data, err := c.body()
	if err != nil {
		return nil, err
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return c.query.deleteOptions()
	}
	f, err := codec.BodyFormat(c.r.Header.Get("Content-Type"))
	if err != nil {
		return nil, err
	}
	opts := &metav1.DeleteOptions{}
	if f == codec.YAML {
		if data, err = yaml.YAMLToJSON(data); err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		f = codec.JSON
	}
	if _, err := c.cfg.Codec.Decode(f, data, opts, metav1.SchemeGroupVersion.WithKind("DeleteOptions")); err != nil {
		return nil, err
	}
	if kind := opts.Kind; kind != "DeleteOptions" {
		return nil, apierrors.NewBadRequest("decoded object cannot be converted to DeleteOptions")
	}
	return opts, nil
}

func (c *call) delete(ctx context.Context) error {
	opts, err := c.deleteOptions()
	if err != nil {
		return err
	}
	out, gone, err := c.cfg.Registry.Delete(ctx, c.target, opts)
	if err != nil {
		return err
	}
	code := http.StatusOK
	if !gone && opts.OrphanDependents != nil && !*opts.OrphanDependents {
		code = http.StatusAccepted
	}
	return c.result(code, out)
}

func (c *call) deleteCollection(ctx context.Context) error {
	opts, err := c.deleteOptions()
	if err != nil {
		return err
	}
	list, err := c.query.listOptions()
	if err != nil {
		return err
	}
	out, err := c.cfg.Registry.DeleteCollection(ctx, c.target, opts, list)
	if err != nil {
		return err
	}
	return c.object(http.StatusOK, out)
}
