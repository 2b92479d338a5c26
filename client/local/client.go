package local

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/store"
)

// localClient implements ctrl.WithWatch. With a cache its reads are of the
// store's cache as it is; without, they are as new as every acknowledged
// write.
type localClient struct {
	*access
	cache *informers
}

// Scheme implements ctrl.Client.
func (c *localClient) Scheme() *runtime.Scheme { return c.access.Scheme }

// RESTMapper implements ctrl.Client.
func (c *localClient) RESTMapper() meta.RESTMapper { return c.mapper }

// GroupVersionKindFor implements ctrl.Client.
func (c *localClient) GroupVersionKindFor(obj runtime.Object) (schema.GroupVersionKind, error) {
	return apiutil.GVKForObject(obj, c.access.Scheme)
}

// IsObjectNamespaced implements ctrl.Client.
func (c *localClient) IsObjectNamespaced(obj runtime.Object) (bool, error) {
	k, err := c.kindOf(obj)
	if err != nil {
		return false, err
	}
	return k.Namespaced, nil
}

// anyVersion asks for whatever the cache has.
const anyVersion = "0"

// Get implements ctrl.Reader.
func (c *localClient) Get(ctx context.Context, key ctrl.ObjectKey, obj ctrl.Object, opts ...ctrl.GetOption) error {
	k, err := c.kindOf(obj)
	if err != nil {
		return err
	}
	o := (&ctrl.GetOptions{}).ApplyOptions(opts)
	if c.cache != nil && c.cache.follows(k) {
		t := target(k, key.Namespace, key.Name, "")
		if found, ok := c.Store.Get(k.GR(), t.Namespace, t.Name); ok {
			return into(obj, found, yes(o.UnsafeDisableDeepCopy))
		}
	}
	get := *o.AsGetOptions()
	if c.cache != nil {
		get.ResourceVersion = anyVersion
	}
	out, err := c.Registry.Get(c.as(ctx), target(k, key.Namespace, key.Name, ""), &get)
	if err != nil {
		return err
	}
	return into(obj, out, yes(o.UnsafeDisableDeepCopy))
}

func yes(b *bool) bool { return b != nil && *b }

// List implements ctrl.Reader.
func (c *localClient) List(ctx context.Context, list ctrl.ObjectList, opts ...ctrl.ListOption) error {
	k, err := c.kindOf(list)
	if err != nil {
		return err
	}
	o := (&ctrl.ListOptions{}).ApplyOptions(opts)
	share := yes(o.UnsafeDisableDeepCopy)
	if done, err := c.listFollowed(k, list, o, share); done {
		return err
	}
	ask := *o.AsListOptions()
	var limit int64
	if c.cache != nil {
		if ask.Continue != "" {
			return errors.New("continue list option is not supported by the cache")
		}
		if o.FieldSelector != nil {
			objs, rev, done, err := c.cache.byField(ctx, k, o)
			if err != nil {
				return err
			}
			if done {
				list.SetResourceVersion(rev)
				return intoList(list, first(objs, o.Limit), share)
			}
		}
		limit = ask.Limit
		ask.ResourceVersion, ask.Limit = anyVersion, 0
	}
	res, err := c.Registry.List(c.as(ctx), target(k, o.Namespace, nameIn(o), ""), &ask)
	if err != nil {
		return err
	}
	objs, err := res.Objects()
	if err != nil {
		return err
	}
	list.SetResourceVersion(res.Meta.ResourceVersion)
	list.SetContinue(res.Meta.Continue)
	list.SetRemainingItemCount(res.Meta.RemainingItemCount)
	list.GetObjectKind().SetGroupVersionKind(k.ListGVK())
	return intoList(list, first(objs, limit), share)
}

// listFollowed lists a kind that an informer follows: its watch was authorized,
// and such lists are made at every turn.
func (c *localClient) listFollowed(k *api.Kind, list ctrl.ObjectList, o *ctrl.ListOptions, share bool) (done bool, err error) {
	if c.cache == nil || o.FieldSelector != nil || o.Continue != "" || o.Raw != nil {
		return false, nil
	}
	if !c.cache.follows(k) {
		return false, nil
	}
	snap := c.Store.Current(k.GR())
	if snap == nil {
		return false, nil
	}
	prefix := ""
	if k.Namespaced && o.Namespace != "" {
		prefix = o.Namespace + "/"
	}
	var objs []api.Object
	if prefix == "" && o.LabelSelector == nil {
		objs = make([]api.Object, 0, snap.Len())
	}
	snap.Ascend(prefix, "", func(e *store.Entry) bool {
		if o.LabelSelector == nil || o.LabelSelector.Matches(labels.Set(e.Object.GetLabels())) {
			objs = append(objs, e.Object)
		}
		return o.Limit <= 0 || int64(len(objs)) < o.Limit
	})
	list.SetResourceVersion(formatRevision(snap.Revision))
	list.SetContinue("")
	list.SetRemainingItemCount(nil)
	if _, ok := list.(runtime.Unstructured); ok { // a Go type says what it is
		list.GetObjectKind().SetGroupVersionKind(k.ListGVK())
	}
	return true, intoList(list, objs, share)
}

// nameIn is the one name that a list or watch is limited to, which counts for
// its authorization: who may see one object may list and watch it.
func nameIn(o *ctrl.ListOptions) string {
	if o.FieldSelector == nil {
		return ""
	}
	name, _ := o.FieldSelector.RequiresExactMatch("metadata.name")
	return name
}

func first(objs []api.Object, limit int64) []api.Object {
	if limit > 0 && int64(len(objs)) > limit {
		return objs[:limit]
	}
	return objs
}

// Create implements ctrl.Writer.
func (c *localClient) Create(ctx context.Context, obj ctrl.Object, opts ...ctrl.CreateOption) error {
	k, err := c.kindOf(obj)
	if err != nil {
		return err
	}
	body, err := c.own(k, obj)
	if err != nil {
		return err
	}
	o := (&ctrl.CreateOptions{}).ApplyOptions(opts)
	meant := o.AsCreateOptions()
	meant.FieldManager = cmp.Or(meant.FieldManager, c.Manager)
	out, err := c.Registry.Create(c.as(ctx), target(k, obj.GetNamespace(), "", ""), body, meant)
	if err != nil {
		return err
	}
	return into(obj, out, false)
}

// Update implements ctrl.Writer.
func (c *localClient) Update(ctx context.Context, obj ctrl.Object, opts ...ctrl.UpdateOption) error {
	o := (&ctrl.UpdateOptions{}).ApplyOptions(opts)
	return c.update(ctx, obj, obj, "", o.AsUpdateOptions())
}

func (c *localClient) update(ctx context.Context, obj, body ctrl.Object, subresource string, opts *metav1.UpdateOptions) error {
	k, err := c.kindOf(obj)
	if err != nil {
		return err
	}
	content, err := c.ownBody(k, body)
	if err != nil {
		return err
	}
	opts.FieldManager = cmp.Or(opts.FieldManager, c.Manager)
	out, err := c.Registry.Update(c.as(ctx), target(k, obj.GetNamespace(), obj.GetName(), subresource), content, opts)
	if err != nil {
		return err
	}
	return into(body, out, false)
}

// Patch implements ctrl.Writer.
func (c *localClient) Patch(ctx context.Context, obj ctrl.Object, patch ctrl.Patch, opts ...ctrl.PatchOption) error {
	o := (&ctrl.PatchOptions{}).ApplyOptions(opts)
	return c.patch(ctx, obj, obj, "", patch, o.AsPatchOptions())
}

func (c *localClient) patch(ctx context.Context, obj, body ctrl.Object, subresource string, patch ctrl.Patch, opts *metav1.PatchOptions) error {
	k, err := c.kindOf(obj)
	if err != nil {
		return err
	}
	data, err := patch.Data(body)
	if err != nil {
		return err
	}
	t := target(k, obj.GetNamespace(), obj.GetName(), subresource)
	opts.FieldManager = cmp.Or(opts.FieldManager, c.Manager)
	out, _, err := c.Registry.Patch(c.as(ctx), t, patch.Type(), data, opts)
	if err != nil {
		return err
	}
	return into(body, out, false)
}

// Apply implements ctrl.Writer.
func (c *localClient) Apply(ctx context.Context, obj runtime.ApplyConfiguration, opts ...ctrl.ApplyOption) error {
	o := (&ctrl.ApplyOptions{}).ApplyOptions(opts)
	return c.apply(ctx, obj, obj, "", o.AsPatchOptions())
}

// apply sends body as the intent for obj. Apply configurations have no common
// accessors: their JSON tells what they are.
func (c *localClient) apply(ctx context.Context, obj, body runtime.ApplyConfiguration, subresource string, opts *metav1.PatchOptions) error {
	var head metav1.PartialObjectMetadata
	data, err := json.Marshal(obj)
	if err != nil {
		return fmt.Errorf("encode the apply configuration: %w", err)
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return fmt.Errorf("read the apply configuration: %w", err)
	}
	k, err := c.kindFor(head.GroupVersionKind())
	if err != nil {
		return err
	}
	if body != obj {
		if data, err = json.Marshal(body); err != nil {
			return fmt.Errorf("encode the apply configuration: %w", err)
		}
	}
	t := target(k, head.Namespace, head.Name, subresource)
	out, _, err := c.Registry.Patch(c.as(ctx), t, types.ApplyPatchType, data, opts)
	if err != nil {
		return err
	}
	if data, err = json.Marshal(out); err != nil {
		return fmt.Errorf("encode %s: %w", k.GVK.Kind, err)
	}
	return json.Unmarshal(data, body)
}

// Delete implements ctrl.Writer.
func (c *localClient) Delete(ctx context.Context, obj ctrl.Object, opts ...ctrl.DeleteOption) error {
	k, err := c.kindOf(obj)
	if err != nil {
		return err
	}
	o := (&ctrl.DeleteOptions{}).ApplyOptions(opts)
	_, _, err = c.Registry.Delete(c.as(ctx), target(k, obj.GetNamespace(), obj.GetName(), ""), o.AsDeleteOptions())
	return err
}

// DeleteAllOf implements ctrl.Writer.
func (c *localClient) DeleteAllOf(ctx context.Context, obj ctrl.Object, opts ...ctrl.DeleteAllOfOption) error {
	k, err := c.kindOf(obj)
	if err != nil {
		return err
	}
	o := (&ctrl.DeleteAllOfOptions{}).ApplyOptions(opts)
	_, err = c.Registry.DeleteCollection(c.as(ctx), target(k, o.ListOptions.Namespace, "", ""), o.AsDeleteOptions(), o.AsListOptions())
	return err
}

// Status implements ctrl.Client.
func (c *localClient) Status() ctrl.SubResourceWriter { return c.SubResource("status") }

// SubResource implements ctrl.Client.
func (c *localClient) SubResource(name string) ctrl.SubResourceClient {
	return &subresource{client: c, name: name}
}
