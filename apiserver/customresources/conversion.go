package customresources

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"weak"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/webhookclient"
)

// conversions lead between the versions of a definition. What is stored is
// converted once and kept for as long as the cache keeps the original: many
// watchers, lists and selectors share it.
type conversions struct {
	ctx      context.Context // of the server: what is converted is for many
	group    string
	versions map[string]*version // by name
	review   *review             // nil: versions differ in their schemas alone
	// mixed says that the cache holds objects of several versions, since they
	// cannot be told by schema alone.
	mixed bool
	kept  sync.Map // keptKey to *kept
}

type keptKey struct {
	original weak.Pointer[unstructured.Unstructured]
	to       *version
}

// kept is an object in another version; done is closed when obj or err is there.
type kept struct {
	done chan struct{}
	obj  *unstructured.Unstructured
	err  error
}

func newConversions(ctx context.Context, d *definition, versions map[string]*version, client *webhookclient.Client) (*conversions, error) {
	c := &conversions{ctx: ctx, group: d.Spec.Group, versions: versions}
	if !byWebhook(d) {
		c.mixed = differ(d, versions)
		return c, nil
	}
	c.mixed = len(d.Status.StoredVersions) > 1
	var err error
	c.review, err = newReview(d, client)
	return c, err
}

// differ says that what is stored of one version may have fields that the
// version which is stored now has not: who asks for the first still gets them.
func differ(d *definition, versions map[string]*version) bool {
	var now *version
	for i := range d.Spec.Versions {
		if d.Spec.Versions[i].Storage {
			now = versions[d.Spec.Versions[i].Name]
		}
	}
	return slices.ContainsFunc(d.Status.StoredVersions, func(name string) bool {
		was := versions[name]
		return was != nil && now != nil && was != now && (was.preserve != now.preserve || !reflect.DeepEqual(was.schema, now.schema))
	})
}

func byWebhook(d *definition) bool {
	return d.Spec.Conversion != nil && d.Spec.Conversion.Strategy == apiextensionsv1.WebhookConverter
}

// read brings what is stored into the form of the version that it is stored in
// and, where nothing is lost by that and no webhook is needed, into the version
// to.
func (c *conversions) read(o api.Object, to *version) {
	u, ok := o.(*unstructured.Unstructured)
	if !ok || u.Object == nil {
		return
	}
	own := c.versions[u.GroupVersionKind().Version]
	if own == nil {
		own = to // a version that was removed too early
	}
	// What cannot be coerced stays as it is: better seen, and deleted, than hidden.
	if _, err := own.coerce(u, true); err == nil {
		own.defaults(u)
	}
	if want := to.gvk.GroupVersion().String(); c.review == nil && !c.mixed && u.GetAPIVersion() != want {
		u.SetAPIVersion(want)
		_, _ = to.coerce(u, true)
	}
}

// convert makes objects of a version of others. It shares those that are of
// that version already, and changes none.
func (c *conversions) convert(in []*unstructured.Unstructured, to *version) ([]*unstructured.Unstructured, error) {
	want := to.gvk.GroupVersion().String()
	out := make([]*unstructured.Unstructured, len(in))
	var others []*unstructured.Unstructured
	for i, u := range in {
		gv := u.GroupVersionKind().GroupVersion()
		switch {
		case u.GetAPIVersion() == want:
			out[i] = u
		case gv.Group != c.group || c.versions[gv.Version] == nil:
			return nil, fmt.Errorf("request to convert CR from an invalid group/version: %s", gv)
		default:
			others = append(others, u)
		}
	}
	if len(others) == 0 {
		return out, nil
	}
	converted, err := c.change(others, want)
	if err != nil {
		return nil, err
	}
	for i := range out {
		if out[i] != nil {
			continue
		}
		out[i], converted = converted[0], converted[1:]
		if _, err := to.coerce(out[i], true); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// change makes new objects of those that are of other versions than want.
func (c *conversions) change(in []*unstructured.Unstructured, want string) ([]*unstructured.Unstructured, error) {
	if c.review != nil {
		return c.review.convert(c.ctx, in, want)
	}
	out := make([]*unstructured.Unstructured, len(in))
	for i, u := range in {
		out[i] = u.DeepCopy()
		out[i].SetAPIVersion(want)
	}
	return out, nil
}

// to converts an object that is no reader's yet.
func (c *conversions) to(v *version) func(api.Object) (api.Object, error) {
	return func(o api.Object) (api.Object, error) {
		u, ok := o.(*unstructured.Unstructured)
		if !ok {
			return nil, fmt.Errorf("%T is not a custom resource", o)
		}
		out, err := c.convert([]*unstructured.Unstructured{u}, v)
		if err != nil {
			return nil, err
		}
		return out[0], nil
	}
}

// from converts what is stored.
func (c *conversions) from(v *version) func(api.Object) (api.Object, error) {
	want := v.gvk.GroupVersion().String()
	return func(o api.Object) (api.Object, error) {
		u, ok := o.(*unstructured.Unstructured)
		if !ok {
			return nil, fmt.Errorf("%T is not a custom resource", o)
		}
		if u.GetAPIVersion() == want {
			return u, nil
		}
		k, mine := c.claim(u, v)
		if mine {
			c.fulfil([]*unstructured.Unstructured{u}, []*kept{k}, v)
		}
		<-k.done // ends: whoever claimed it has a time limit
		if k.err != nil {
			return nil, k.err
		}
		return k.obj, nil
	}
}

// atOnce bounds the objects that a webhook gets at a time.
const atOnce = 10_000

// prepare converts what is stored, and not converted yet, in one call.
func (c *conversions) prepare(v *version) func([]api.Object) error {
	want := v.gvk.GroupVersion().String()
	return func(stored []api.Object) error {
		for len(stored) > 0 {
			part := stored[:min(len(stored), atOnce)]
			stored = stored[len(part):]
			var originals []*unstructured.Unstructured
			var claims, others []*kept
			for _, o := range part {
				u, ok := o.(*unstructured.Unstructured)
				if !ok || u.GetAPIVersion() == want {
					continue
				}
				if k, mine := c.claim(u, v); mine {
					originals, claims = append(originals, u), append(claims, k)
				} else {
					others = append(others, k)
				}
			}
			c.fulfil(originals, claims, v)
			for _, k := range append(claims, others...) {
				if <-k.done; k.err != nil {
					return k.err
				}
			}
		}
		return nil
	}
}

// claim returns what is kept of an object, or is going to be; mine says that
// the caller has to fulfil it.
func (c *conversions) claim(u *unstructured.Unstructured, v *version) (k *kept, mine bool) {
	key := keptKey{weak.Make(u), v}
	if have, ok := c.kept.Load(key); ok {
		return have.(*kept), false
	}
	have, taken := c.kept.LoadOrStore(key, &kept{done: make(chan struct{})})
	if !taken {
		runtime.AddCleanup(u, func(key keptKey) { c.kept.Delete(key) }, key)
	}
	return have.(*kept), !taken
}

// fulfil converts what was claimed. Failures are told to all who wait, and
// forgotten.
func (c *conversions) fulfil(originals []*unstructured.Unstructured, claims []*kept, v *version) {
	if len(claims) == 0 {
		return
	}
	out, err := []*unstructured.Unstructured(nil), errors.New("the conversion broke off")
	defer func() {
		for i, k := range claims {
			if err != nil {
				k.err = err
				c.kept.Delete(keptKey{weak.Make(originals[i]), v})
			} else {
				k.obj = out[i]
			}
			close(k.done)
		}
	}()
	out, err = c.convert(originals, v)
}
