package registry

import (
	"context"
	"fmt"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/admission"
)

func isPod(k *api.Kind) bool { return k.GVK == corev1.SchemeGroupVersion.WithKind("Pod") }

// createSubresource carries out a POST to a subresource.
func (c *Core) createSubresource(ctx context.Context, t Target, obj runtime.Object, opts *metav1.CreateOptions) (runtime.Object, error) {
	switch {
	case t.Kind.Virtual: // the old way to bind: POST to bindings
		b, ok := obj.(*corev1.Binding)
		if !ok {
			return nil, wrongObject("Binding", obj)
		}
		pods := c.cfg.Kinds.Set().ByKind(corev1.SchemeGroupVersion.WithKind("Pod"))
		if pods == nil {
			return nil, apierrors.NewNotFound(t.Kind.GR(), b.Name)
		}
		return c.bind(ctx, t, Target{Kind: pods, Namespace: t.Namespace, Name: b.Name, Subresource: "binding"}, b, opts)
	case isPod(t.Kind) && t.Subresource == "binding":
		b, ok := obj.(*corev1.Binding)
		if !ok {
			return nil, wrongObject("Binding", obj)
		}
		return c.bind(ctx, t, t, b, opts)
	case isPod(t.Kind) && t.Subresource == "eviction":
		e, ok := obj.(*policyv1.Eviction)
		if !ok {
			return nil, wrongObject("Eviction", obj)
		}
		return c.evict(ctx, t, e, opts)
	case t.Kind.GVK == corev1.SchemeGroupVersion.WithKind("ServiceAccount") && t.Subresource == "token":
		tr, ok := obj.(*authenticationv1.TokenRequest)
		if !ok {
			return nil, wrongObject("TokenRequest", obj)
		}
		return c.issueToken(ctx, t, tr, opts)
	}
	return nil, apierrors.NewMethodNotSupported(t.Kind.GR(), "create")
}

func wrongObject(want string, obj runtime.Object) error {
	return apierrors.NewBadRequest(fmt.Sprintf("not a %s object: %T", want, obj))
}

// issueToken answers serviceaccounts/token.
func (c *Core) issueToken(ctx context.Context, t Target, tr *authenticationv1.TokenRequest, opts *metav1.CreateOptions) (runtime.Object, error) {
	if c.cfg.Token == nil {
		return nil, apierrors.NewMethodNotSupported(t.Kind.GR(), "create")
	}
	if err := matchNamespace(t, tr); err != nil {
		return nil, err
	}
	_, e, err := c.entry(ctx, Target{Kind: t.Kind, Namespace: t.Namespace, Name: t.Name}, nil)
	if err != nil {
		return nil, err
	}
	sa, ok := e.Object.(*corev1.ServiceAccount)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("service account has type %T", e.Object))
	}
	a := c.attributes(ctx, t, admission.Create, tr, nil, opts, dryRun(opts.DryRun))
	a.GVK = authenticationv1.SchemeGroupVersion.WithKind("TokenRequest")
	if err := c.admit(ctx, a); err != nil {
		return nil, err
	}
	if tr.Name != "" && tr.Name != t.Name {
		return nil, apierrors.NewInvalid(a.GVK.GroupKind(), t.Name, field.ErrorList{
			field.Invalid(field.NewPath("metadata", "name"), tr.Name, "must match the service account name if specified"),
		})
	}
	out, err := c.cfg.Token(ctx, sa, tr, func(whole *authenticationv1.TokenRequest) error {
		a.Object = whole
		return c.validate(ctx, a)
	})
	if err != nil {
		return nil, storeError(err, t.Kind.GR(), "create")
	}
	out.SetGroupVersionKind(authenticationv1.SchemeGroupVersion.WithKind("TokenRequest"))
	return out, nil
}

// AdmitConnect asks the admission plugins about a request that leads out of
// the API server (exec, attach, port forwarding, proxies). opts are its options,
// which the plugins may change.
func (c *Core) AdmitConnect(ctx context.Context, t Target, opts runtime.Object) error {
	a := c.attributes(ctx, t, admission.Connect, opts, nil, nil, false)
	a.GVK = opts.GetObjectKind().GroupVersionKind()
	if err := c.admit(ctx, a); err != nil {
		return err
	}
	return c.validate(ctx, a)
}
