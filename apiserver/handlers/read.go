package handlers

import (
	"context"
	"errors"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/codec"
	"github.com/proa-dev/proa/apiserver/registry"
	"github.com/proa-dev/proa/apiserver/table"
)

func (c *call) get(ctx context.Context) error {
	opts := &metav1.GetOptions{ResourceVersion: c.query.get("resourceVersion")}
	if c.target.Subresource == "scale" {
		obj, err := c.cfg.Registry.Get(ctx, c.target, opts)
		if err != nil {
			return err
		}
		return c.result(http.StatusOK, obj)
	}
	e, convert, err := c.cfg.Registry.Entry(ctx, c.target, opts)
	if err != nil {
		return err
	}
	if convert == nil && c.accept.As == "" {
		data, err := c.cfg.Codec.Entry(c.accept.Format, e)
		if err != nil {
			return notAcceptable()
		}
		c.write(http.StatusOK, data)
		return nil
	}
	obj := e.Object
	if convert != nil {
		if obj, err = convert(obj); err != nil {
			return err
		}
	}
	return c.result(http.StatusOK, obj)
}

// result answers with an object, transformed as the client wants it.
func (c *call) result(code int, obj runtime.Object) error {
	o, ok := obj.(api.Object)
	if !ok || c.accept.As == "" {
		return c.object(code, obj)
	}
	if obj.GetObjectKind().GroupVersionKind() != c.target.Kind.GVK {
		return c.object(code, obj) // a Scale, a TokenRequest
	}
	switch c.accept.As {
	case "Table":
		include, err := c.include()
		if err != nil {
			return err
		}
		return c.object(code, c.versioned(table.Of(c.target.Kind, []api.Object{o}, metav1.ListMeta{ResourceVersion: o.GetResourceVersion()}, include)))
	case "PartialObjectMetadata":
		return c.object(code, c.versioned(table.Partial(o)))
	}
	return notAcceptable()
}

// versioned names the version of meta.k8s.io that the client asked for.
func (c *call) versioned(obj runtime.Object) runtime.Object {
	k := obj.GetObjectKind()
	gvk := k.GroupVersionKind()
	gvk.Version = c.accept.Version
	k.SetGroupVersionKind(gvk)
	return obj
}

func (c *call) include() (table.Include, error) {
	switch p := table.Include(c.query.get("includeObject")); p {
	case "", metav1.IncludeMetadata, metav1.IncludeObject, metav1.IncludeNone:
		return p, nil
	default:
		return "", apierrors.NewBadRequest(`Invalid value: "` + string(p) + `": must be one of "Metadata", "None", "Object"`)
	}
}

func (c *call) list(ctx context.Context) error {
	opts, err := c.query.listOptions()
	if err != nil {
		return err
	}
	t := c.target
	t.Name = "" // a name in the field selector
	l, err := c.cfg.Registry.List(ctx, t, opts)
	if err != nil {
		return err
	}
	if c.accept.As != "" {
		return c.transformedList(l)
	}
	items := make([]codec.Item, len(l.Entries))
	for i, e := range l.Entries {
		if l.Convert == nil {
			items[i].Entry = e
			continue
		}
		if items[i].Object, err = l.Convert(e.Object); err != nil {
			return err
		}
	}
	var parts codec.Parts
	switch c.accept.Format {
	case codec.Protobuf:
		parts, err = c.cfg.Codec.ProtobufList(t.Kind.GVK, l.Meta, items)
	default:
		_, custom := t.Kind.New().(runtime.Unstructured)
		parts, err = c.cfg.Codec.JSONList(t.Kind.GVK, l.Meta, items, custom)
		if err == nil && c.accept.Format == codec.YAML {
			var data []byte
			data, err = codec.YAMLOf(parts.Join())
			parts = codec.Parts{data}
		}
	}
	if errors.Is(err, codec.ErrNoProtobuf) {
		return notAcceptable()
	}
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	writeParts(c.w, c.r, http.StatusOK, c.accept.Format, parts)
	return nil
}

func (c *call) transformedList(l *registry.List) error {
	objs, err := l.Objects()
	if err != nil {
		return err
	}
	switch c.accept.As {
	case "Table":
		include, err := c.include()
		if err != nil {
			return err
		}
		return c.object(http.StatusOK, c.versioned(table.Of(c.target.Kind, objs, l.Meta, include)))
	case "PartialObjectMetadataList":
		return c.object(http.StatusOK, c.versioned(table.PartialList(objs, l.Meta)))
	}
	return notAcceptable()
}
