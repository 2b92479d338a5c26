// Package admission decides on writes after authorization and before
// validation: plugins may change an object (Mutator) or refuse it
// (Validator), in upstream's order. One file (or folder) a plugin.
package admission

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/kinds"
)

// Operation is what a request does.
type Operation string

// The operations, as AdmissionReview spells them.
const (
	Create  Operation = "CREATE"
	Update  Operation = "UPDATE"
	Delete  Operation = "DELETE"
	Connect Operation = "CONNECT"
)

// Attributes is one write under decision.
type Attributes struct {
	Operation   Operation
	GVK         schema.GroupVersionKind
	GVR         schema.GroupVersionResource
	Subresource string
	Namespace   string
	Name        string // empty for generateName
	// Object is the new object; mutators may change it in place. Nil on
	// delete. For subresources with a kind of their own (Binding, Eviction,
	// TokenRequest) it is that kind.
	Object runtime.Object
	// OldObject is shared with the cache: never mutate it. Nil on create.
	OldObject runtime.Object
	// Options are the CreateOptions, UpdateOptions, PatchOptions or
	// DeleteOptions of the request.
	Options runtime.Object
	DryRun  bool
	// Own marks the server's own writes, about which users' webhooks and policies
	// are not asked.
	Own  bool
	User user.Info
	// Warn adds a warning to the response.
	Warn func(text string)
	// Kinds is what is served while the write is decided on; nil: no kind is
	// known in other versions.
	Kinds *kinds.Set

	rounds
}

// Plugin is one admission plugin; it implements Mutator, Validator or both.
type Plugin interface {
	// Name is upstream's, as in --enable-admission-plugins.
	Name() string
}

// Mutator may change a.Object. Errors are status errors (403 by NewForbidden
// where the plugin refuses).
type Mutator interface {
	Admit(ctx context.Context, a *Attributes) error
}

// Validator may refuse, and changes nothing.
type Validator interface {
	Validate(ctx context.Context, a *Attributes) error
}

// Source is what plugins, authenticators and authorizers read: the cache of
// the store, immutable objects. *store.Store is one.
type Source interface {
	Get(gr schema.GroupResource, namespace, name string) (api.Object, bool)
	List(gr schema.GroupResource, namespace string) []api.Object
	Revision(gr schema.GroupResource) int64
}

// Chain is all plugins in order.
type Chain []Plugin

// Admit runs the mutators in order, up to the first error, and once more if one
// of them says by Recall that others have to see what it changed.
func (c Chain) Admit(ctx context.Context, a *Attributes) error {
	if err := c.round(ctx, a); err != nil || !a.wanted {
		return err
	}
	a.again = true
	return c.round(ctx, a)
}

func (c Chain) round(ctx context.Context, a *Attributes) error {
	for _, p := range c {
		if m, ok := p.(Mutator); ok {
			if err := m.Admit(ctx, a); err != nil {
				return err
			}
		}
	}
	return nil
}

// Validate runs the validators in order, up to the first error.
func (c Chain) Validate(ctx context.Context, a *Attributes) error {
	for _, p := range c {
		if v, ok := p.(Validator); ok {
			if err := v.Validate(ctx, a); err != nil {
				return err
			}
		}
	}
	return nil
}
