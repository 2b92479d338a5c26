// Package virtual answers the kinds that are questions and are never stored:
// who is this (TokenReview, SelfSubjectReview) and may they
// (SubjectAccessReview and its relatives).
package virtual

import (
	"context"
	"errors"
	"fmt"

	authnv1 "k8s.io/api/authentication/v1"
	authzv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/proa-dev/proa/apiserver/registry"
)

// Authorizer is what reviews ask.
type Authorizer interface {
	authorizer.UnconditionalAuthorizer
	authorizer.RuleResolver
}

// Config says whom to ask.
type Config struct {
	Tokens     authenticator.Token
	Authorizer Authorizer
}

type reviews struct{ Config }

// Functions returns the answers by kind. Each takes the user who asks from its
// context, and fills in the status of the review that it is given.
func Functions(cfg Config) map[schema.GroupVersionKind]registry.VirtualFunc {
	r := reviews{cfg}
	authn, authz := authnv1.SchemeGroupVersion, authzv1.SchemeGroupVersion
	return map[schema.GroupVersionKind]registry.VirtualFunc{
		authn.WithKind("TokenReview"):              r.tokenReview,
		authn.WithKind("SelfSubjectReview"):        r.selfSubjectReview,
		authz.WithKind("SubjectAccessReview"):      r.subjectAccess,
		authz.WithKind("LocalSubjectAccessReview"): r.localSubjectAccess,
		authz.WithKind("SelfSubjectAccessReview"):  r.selfSubjectAccess,
		authz.WithKind("SelfSubjectRulesReview"):   r.selfSubjectRules,
	}
}

func asker(ctx context.Context) (user.Info, error) {
	u, ok := request.UserFrom(ctx)
	if !ok {
		return nil, apierrors.NewBadRequest("no user present on request")
	}
	return u, nil
}

func notA(kind string, obj runtime.Object) error {
	return apierrors.NewBadRequest(fmt.Sprintf("not a %s: %T", kind, obj))
}

func (r reviews) tokenReview(ctx context.Context, obj runtime.Object) (runtime.Object, error) {
	review, ok := obj.(*authnv1.TokenReview)
	if !ok {
		return nil, notA("TokenReview", obj)
	}
	if review.Namespace != "" {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("namespace is not allowed on this type: %v", review.Namespace))
	}
	if review.Spec.Token == "" {
		return nil, apierrors.NewBadRequest("token is required for TokenReview in authentication")
	}
	if r.Tokens == nil {
		return review, nil
	}
	if len(review.Spec.Audiences) > 0 {
		ctx = authenticator.WithAudiences(ctx, review.Spec.Audiences)
	}
	resp, ok, err := r.Tokens.AuthenticateToken(ctx, review.Spec.Token)
	review.Status = authnv1.TokenReviewStatus{Authenticated: ok}
	if err != nil {
		review.Status.Error = err.Error()
	}
	if ok {
		review.Status.User = userInfo(resp.User)
		review.Status.Audiences = resp.Audiences
	}
	return review, nil
}

func userInfo(u user.Info) authnv1.UserInfo {
	info := authnv1.UserInfo{Username: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups()}
	for k, v := range u.GetExtra() {
		if info.Extra == nil {
			info.Extra = map[string]authnv1.ExtraValue{}
		}
		info.Extra[k] = v
	}
	return info
}

func (r reviews) selfSubjectReview(ctx context.Context, obj runtime.Object) (runtime.Object, error) {
	review, ok := obj.(*authnv1.SelfSubjectReview)
	if !ok {
		return nil, notA("SelfSubjectReview", obj)
	}
	u, err := asker(ctx)
	if err != nil {
		return nil, err
	}
	review.Status = authnv1.SelfSubjectReviewStatus{UserInfo: userInfo(u)}
	return review, nil
}

func (r reviews) subjectAccess(ctx context.Context, obj runtime.Object) (runtime.Object, error) {
	review, ok := obj.(*authzv1.SubjectAccessReview)
	if !ok {
		return nil, notA("SubjectAccessReview", obj)
	}
	if errs := validateSpec(&review.Spec); len(errs) > 0 {
		return nil, apierrors.NewInvalid(authzv1.SchemeGroupVersion.WithKind("SubjectAccessReview").GroupKind(), "", errs)
	}
	review.Status = r.decide(ctx, specUser(&review.Spec), review.Spec.ResourceAttributes, review.Spec.NonResourceAttributes)
	return review, nil
}

func (r reviews) localSubjectAccess(ctx context.Context, obj runtime.Object) (runtime.Object, error) {
	review, ok := obj.(*authzv1.LocalSubjectAccessReview)
	if !ok {
		return nil, notA("LocalSubjectAccessReview", obj)
	}
	namespace, ok := request.NamespaceFrom(ctx)
	if !ok || namespace == "" {
		namespace = review.Namespace
	}
	if errs := validateLocal(review); len(errs) > 0 {
		return nil, apierrors.NewInvalid(authzv1.SchemeGroupVersion.WithKind("LocalSubjectAccessReview").GroupKind(), "", errs)
	}
	if namespace == "" {
		return nil, apierrors.NewBadRequest("namespace is required on this type: ")
	}
	if review.Spec.ResourceAttributes.Namespace != namespace {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("spec.resourceAttributes.namespace must match namespace: %v", namespace))
	}
	review.Status = r.decide(ctx, specUser(&review.Spec), review.Spec.ResourceAttributes, nil)
	return review, nil
}

func (r reviews) selfSubjectAccess(ctx context.Context, obj runtime.Object) (runtime.Object, error) {
	review, ok := obj.(*authzv1.SelfSubjectAccessReview)
	if !ok {
		return nil, notA("SelfSubjectAccessReview", obj)
	}
	u, err := asker(ctx)
	if err != nil {
		return nil, err
	}
	if errs := validateAttributes(review.Spec.ResourceAttributes, review.Spec.NonResourceAttributes); len(errs) > 0 {
		return nil, apierrors.NewInvalid(authzv1.SchemeGroupVersion.WithKind("SelfSubjectAccessReview").GroupKind(), "", errs)
	}
	review.Status = r.decide(ctx, u, review.Spec.ResourceAttributes, review.Spec.NonResourceAttributes)
	return review, nil
}

func (r reviews) selfSubjectRules(ctx context.Context, obj runtime.Object) (runtime.Object, error) {
	review, ok := obj.(*authzv1.SelfSubjectRulesReview)
	if !ok {
		return nil, notA("SelfSubjectRulesReview", obj)
	}
	u, err := asker(ctx)
	if err != nil {
		return nil, err
	}
	if review.Spec.Namespace == "" {
		return nil, apierrors.NewBadRequest("no namespace on request")
	}
	resource, nonResource, incomplete, err := r.Authorizer.RulesFor(ctx, u, review.Spec.Namespace)
	review.Status = authzv1.SubjectRulesReviewStatus{
		ResourceRules: []authzv1.ResourceRule{}, NonResourceRules: []authzv1.NonResourceRule{}, Incomplete: incomplete,
	}
	for _, rule := range resource {
		review.Status.ResourceRules = append(review.Status.ResourceRules, authzv1.ResourceRule{
			Verbs: rule.GetVerbs(), APIGroups: rule.GetAPIGroups(), Resources: rule.GetResources(), ResourceNames: rule.GetResourceNames(),
		})
	}
	for _, rule := range nonResource {
		review.Status.NonResourceRules = append(review.Status.NonResourceRules, authzv1.NonResourceRule{
			Verbs: rule.GetVerbs(), NonResourceURLs: rule.GetNonResourceURLs(),
		})
	}
	if err != nil {
		review.Status.EvaluationError = err.Error()
	}
	return review, nil
}

// decide asks the authorizer.
func (r reviews) decide(ctx context.Context, u user.Info, resource *authzv1.ResourceAttributes, path *authzv1.NonResourceAttributes) authzv1.SubjectAccessReviewStatus {
	attrs := authorizer.AttributesRecord{User: u}
	var selectorErr error
	if resource != nil {
		attrs, selectorErr = resourceRecord(u, resource)
	} else if path != nil {
		attrs.Path, attrs.Verb = path.Path, path.Verb
	}
	decision, reason, err := r.Authorizer.Authorize(ctx, &attrs)
	status := authzv1.SubjectAccessReviewStatus{
		Allowed: decision == authorizer.DecisionAllow,
		Denied:  decision == authorizer.DecisionDeny,
		Reason:  reason,
	}
	if err := errors.Join(err, selectorErr); err != nil {
		status.EvaluationError = err.Error()
	}
	return status
}
