package local

import (
	"cmp"
	"context"

	"k8s.io/apimachinery/pkg/runtime"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"
)

// subresource implements ctrl.SubResourceClient.
type subresource struct {
	client *localClient
	name   string
}

// Get implements ctrl.SubResourceReader.
func (s *subresource) Get(ctx context.Context, obj, sub ctrl.Object, opts ...ctrl.SubResourceGetOption) error {
	k, err := s.client.kindOf(obj)
	if err != nil {
		return err
	}
	o := (&ctrl.SubResourceGetOptions{}).ApplyOptions(opts)
	t := target(k, obj.GetNamespace(), obj.GetName(), s.name)
	out, err := s.client.Registry.Get(s.client.as(ctx), t, o.AsGetOptions())
	if err != nil {
		return err
	}
	return into(sub, out, false)
}

// Create implements ctrl.SubResourceWriter.
func (s *subresource) Create(ctx context.Context, obj, sub ctrl.Object, opts ...ctrl.SubResourceCreateOption) error {
	k, err := s.client.kindOf(obj)
	if err != nil {
		return err
	}
	if sub.GetName() == "" {
		sub.SetName(obj.GetName())
	}
	body, err := s.client.ownBody(k, sub)
	if err != nil {
		return err
	}
	o := (&ctrl.SubResourceCreateOptions{}).ApplyOptions(opts)
	t := target(k, obj.GetNamespace(), obj.GetName(), s.name)
	meant := o.AsCreateOptions()
	meant.FieldManager = cmp.Or(meant.FieldManager, s.client.Manager)
	out, err := s.client.Registry.Create(s.client.as(ctx), t, body, meant)
	if err != nil {
		return err
	}
	return into(sub, out, false)
}

// Update implements ctrl.SubResourceWriter.
func (s *subresource) Update(ctx context.Context, obj ctrl.Object, opts ...ctrl.SubResourceUpdateOption) error {
	o := (&ctrl.SubResourceUpdateOptions{}).ApplyOptions(opts)
	body := obj
	if o.SubResourceBody != nil {
		body = o.SubResourceBody
		if body.GetName() == "" {
			body.SetName(obj.GetName())
		}
		if body.GetNamespace() == "" {
			body.SetNamespace(obj.GetNamespace())
		}
	}
	return s.client.update(ctx, obj, body, s.name, o.AsUpdateOptions())
}

// Patch implements ctrl.SubResourceWriter.
func (s *subresource) Patch(ctx context.Context, obj ctrl.Object, patch ctrl.Patch, opts ...ctrl.SubResourcePatchOption) error {
	o := (&ctrl.SubResourcePatchOptions{}).ApplyOptions(opts)
	body := obj
	if o.SubResourceBody != nil {
		body = o.SubResourceBody
	}
	return s.client.patch(ctx, obj, body, s.name, patch, o.AsPatchOptions())
}

// Apply implements ctrl.SubResourceWriter.
func (s *subresource) Apply(ctx context.Context, obj runtime.ApplyConfiguration, opts ...ctrl.SubResourceApplyOption) error {
	o := (&ctrl.SubResourceApplyOptions{}).ApplyOpts(opts)
	body := obj
	if o.SubResourceBody != nil {
		body = o.SubResourceBody
	}
	return s.client.apply(ctx, obj, body, s.name, o.AsPatchOptions())
}
