package policy

import (
	"context"
	"errors"
	"fmt"
	"slices"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/admission"
)

// Access refuses policies and bindings whose writer may not read the
// parameters: expressions and messages could tell what is in them.
type Access struct{ cfg Config }

var _ admission.Validator = (*Access)(nil)

// NewAccess returns the plugin.
func NewAccess(cfg Config) (*Access, error) { return &Access{cfg}, cfg.Validate() }

// Name implements Plugin. Upstream does this in the registry of the kinds.
func (*Access) Name() string { return "PolicyParamAccess" }

// Validate implements admission.Validator.
func (p *Access) Validate(ctx context.Context, a *admission.Attributes) error {
	if a.GVR.Group != admissionv1.GroupName || a.Subresource != "" || a.Operation != admission.Create && a.Operation != admission.Update ||
		a.User != nil && slices.Contains(a.User.GetGroups(), user.SystemPrivilegedGroup) {
		return nil
	}
	var path *field.Path
	var err error
	if kind, ok := kindIn(a.Object); ok {
		path = field.NewPath("spec", "paramKind")
		if old, _ := kindIn(a.OldObject); kind != nil && (old == nil || *old != *kind) {
			err = p.mayGet(ctx, a, kind)
		}
	} else if b, ok := boundIn(a.Object); ok {
		path = field.NewPath("spec", "paramRef")
		if old, _ := boundIn(a.OldObject); b.ref != nil && (old.policy != b.policy || !equality.Semantic.DeepEqual(old.ref, b.ref)) {
			err = p.mayRead(ctx, a, b)
		}
	}
	if err == nil {
		return nil
	}
	return apierrors.NewInvalid(a.GVK.GroupKind(), a.Name, field.ErrorList{field.Forbidden(path, err.Error())})
}

// kindIn returns the kind of the parameters of obj, if it is a policy.
func kindIn(obj runtime.Object) (*admissionv1.ParamKind, bool) {
	switch p := obj.(type) {
	case *admissionv1.ValidatingAdmissionPolicy:
		return p.Spec.ParamKind, true
	case *admissionv1.MutatingAdmissionPolicy:
		return p.Spec.ParamKind, true
	}
	return nil, false
}

// bound is what a binding binds.
type bound struct {
	policies schema.GroupResource
	policy   string
	ref      *admissionv1.ParamRef
}

func boundIn(obj runtime.Object) (bound, bool) {
	switch b := obj.(type) {
	case *admissionv1.ValidatingAdmissionPolicyBinding:
		return bound{resource("validatingadmissionpolicies"), b.Spec.PolicyName, b.Spec.ParamRef}, true
	case *admissionv1.MutatingAdmissionPolicyBinding:
		return bound{resource("mutatingadmissionpolicies"), b.Spec.PolicyName, b.Spec.ParamRef}, true
	}
	return bound{}, false
}

// resolve returns what is to be read: everything that could be meant, as far as
// it is not known.
func resolve(a *admission.Attributes, kind *admissionv1.ParamKind) (gvr schema.GroupVersionResource, parseErr, findErr error) {
	gvr = schema.GroupVersionResource{Group: "*", Version: "*", Resource: "*"}
	gv, parseErr := schema.ParseGroupVersion(kind.APIVersion)
	if parseErr != nil {
		return gvr, parseErr, nil
	}
	gvr.Group, gvr.Version = gv.Group, gv.Version
	var k *api.Kind
	if a.Kinds != nil {
		k = a.Kinds.ByKind(gv.WithKind(kind.Kind))
	}
	if k == nil {
		return gvr, nil, fmt.Errorf("no matches for kind %q in version %q", kind.Kind, kind.APIVersion)
	}
	gvr.Resource = k.Resource
	return gvr, nil, nil
}

func (p *Access) allowed(ctx context.Context, who user.Info, verb, namespace, name string, gvr schema.GroupVersionResource) (bool, error) {
	d, _, err := p.cfg.Authorizer.Authorize(ctx, authorizer.AttributesRecord{
		User: who, Verb: verb, ResourceRequest: true, Namespace: namespace, Name: name,
		APIGroup: gvr.Group, APIVersion: gvr.Version, Resource: gvr.Resource,
	})
	return d == authorizer.DecisionAllow, err
}

func (p *Access) mayGet(ctx context.Context, a *admission.Attributes, kind *admissionv1.ParamKind) error {
	who := a.User
	if who == nil {
		return errors.New("cannot identify user to authorize read access to paramKind resources")
	}
	gvr, _, _ := resolve(a, kind) // what cannot be found out widens what is asked for
	ok, err := p.allowed(ctx, who, "get", "*", "*", gvr)
	if err == nil && !ok {
		err = fmt.Errorf(`user %v must have "get" permission on all objects of the referenced paramKind (kind=%s, apiVersion=%s)`, who, kind.Kind, kind.APIVersion)
	}
	return err
}

func (p *Access) mayRead(ctx context.Context, a *admission.Attributes, b bound) error {
	who := a.User
	if who == nil {
		return errors.New("cannot identify user to authorize read access to paramRef object")
	}
	gvr := schema.GroupVersionResource{Group: "*", Version: "*", Resource: "*"}
	var parseErr, findErr error
	var kind *admissionv1.ParamKind
	policy, known := p.cfg.Lookup.Get(ctx, b.policies, "", b.policy)
	if known {
		if kind, _ = kindIn(policy); kind != nil {
			gvr, parseErr, findErr = resolve(a, kind)
		}
	}
	verb := "get"
	if b.ref.Name == "" {
		verb = "list"
	}
	ok, err := p.allowed(ctx, who, verb, b.ref.Namespace, b.ref.Name, gvr)
	switch {
	case err != nil:
		return fmt.Errorf("failed to authorize request: %w", err)
	case ok:
		return nil
	case !known:
		return fmt.Errorf(`unable to get policy %s to determine minimum required permissions and user %v does not have "%v" permission for all groups, versions and resources`, b.policy, who, verb)
	case parseErr != nil:
		return fmt.Errorf(`unable to parse paramKind %v to determine minimum required permissions and user %v does not have "%v" permission for all groups, versions and resources`, kind, who, verb)
	case findErr != nil:
		return fmt.Errorf(`unable to resolve paramKind %v to determine minimum required permissions and user %v does not have "%v" permission for all groups, versions and resources`, kind, who, verb)
	}
	return fmt.Errorf(`user %v does not have "%v" permission on the object referenced by paramRef`, who, verb)
}
