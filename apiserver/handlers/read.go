package handlers

import (
	"context"
	"errors"
	"net/http"
	"strconv"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

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
	k := c.target.Kind
	if _, scale := obj.(*autoscalingv1.Scale); scale {
		k = table.Scales()
	} else if obj.GetObjectKind().GroupVersionKind() != k.GVK {
		return c.object(code, obj) // a TokenRequest
	}
	switch c.accept.As {
	case "Table":
		include, err := c.include()
		if err != nil {
			return err
		}
		return c.object(code, c.versioned(table.Of(k, o, metav1.ListMeta{ResourceVersion: o.GetResourceVersion()}, include)))
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
	f, err := c.cfg.Registry.Find(ctx, t, opts)
	if err != nil {
		return err
	}
	if c.accept.As != "" {
		l, err := f.List()
		if err != nil {
			return err
		}
		return c.transformedList(l)
	}
	var parts codec.Parts
	switch {
	case c.accept.Format == codec.Protobuf:
		parts, err = c.protobufList(f)
	case f.Same != nil:
		parts, err = c.sameList(f)
	default:
		var l *registry.List
		if l, err = f.List(); err == nil {
			if parts, err = c.jsonItems(l); err == nil {
				parts, err = withHead(t.Kind.ListGVK(), l.Meta, parts)
			}
		}
	}
	if err == nil && c.accept.Format == codec.YAML {
		var data []byte
		data, err = codec.YAMLOf(parts.Join())
		parts = codec.Parts{data}
	}
	if errors.Is(err, codec.ErrNoProtobuf) {
		return notAcceptable()
	}
	if err != nil {
		var status apierrors.APIStatus
		if errors.As(err, &status) {
			return err
		}
		return apierrors.NewInternalError(err)
	}
	writeParts(c.w, c.r, http.StatusOK, c.accept.Format, parts)
	return nil
}

func (c *call) protobufList(f *registry.Found) (codec.Parts, error) {
	l, err := f.List()
	if err != nil {
		return nil, err
	}
	items, err := itemsOf(l)
	if err != nil {
		return nil, err
	}
	return c.cfg.Codec.ProtobufList(c.target.Kind.GVK, l.Meta, items)
}

// sameList is a large list in JSON, whose items may be at hand in one piece.
func (c *call) sameList(f *registry.Found) (codec.Parts, error) {
	items, err := c.lists.get(f.Same, func() (codec.Parts, error) {
		l, err := f.List()
		if err != nil {
			return nil, err
		}
		return c.jsonItems(l)
	})
	if err != nil {
		return nil, err
	}
	meta := metav1.ListMeta{ResourceVersion: strconv.FormatInt(f.Revision, 10)}
	return withHead(c.target.Kind.ListGVK(), meta, items)
}

func withHead(gvk schema.GroupVersionKind, meta metav1.ListMeta, items codec.Parts) (codec.Parts, error) {
	head, err := codec.JSONListHead(gvk, meta)
	return append(codec.Parts{head}, items...), err
}

func (c *call) jsonItems(l *registry.List) (codec.Parts, error) {
	items, err := itemsOf(l)
	if err != nil {
		return nil, err
	}
	_, custom := c.target.Kind.New().(runtime.Unstructured)
	return c.cfg.Codec.JSONListItems(c.target.Kind.GVK, items, custom)
}

// itemsOf makes the kind's version of the entries where they are of another.
func itemsOf(l *registry.List) ([]codec.Item, error) {
	items := make([]codec.Item, len(l.Entries))
	if l.Convert == nil {
		for i, e := range l.Entries {
			items[i].Entry = e
		}
		return items, nil
	}
	objs, err := l.Objects()
	for i, o := range objs {
		items[i].Object = o
	}
	return items, err
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
		return c.object(http.StatusOK, c.versioned(table.OfList(c.target.Kind, objs, l.Meta, include)))
	case "PartialObjectMetadataList":
		return c.object(http.StatusOK, c.versioned(table.PartialList(objs, l.Meta)))
	}
	return notAcceptable()
}
