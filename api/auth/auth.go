// Package auth holds the kinds of the groups authentication.k8s.io and
// authorization.k8s.io, v1: questions that the API server answers and never
// stores.
package auth

import (
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/proa-dev/proa/api"
)

// Kinds lists the kinds of both groups.
func Kinds() []*api.Kind {
	n, z := authenticationv1.SchemeGroupVersion, authorizationv1.SchemeGroupVersion
	local := review(z.WithKind("LocalSubjectAccessReview"), "localsubjectaccessreviews", api.Maker[authorizationv1.LocalSubjectAccessReview]())
	local.Namespaced = true
	kinds := []*api.Kind{
		review(n.WithKind("SelfSubjectReview"), "selfsubjectreviews", api.Maker[authenticationv1.SelfSubjectReview]()),
		review(n.WithKind("TokenReview"), "tokenreviews", api.Maker[authenticationv1.TokenReview]()),
		local,
		review(z.WithKind("SelfSubjectAccessReview"), "selfsubjectaccessreviews", api.Maker[authorizationv1.SelfSubjectAccessReview]()),
		review(z.WithKind("SelfSubjectRulesReview"), "selfsubjectrulesreviews", api.Maker[authorizationv1.SelfSubjectRulesReview]()),
		review(z.WithKind("SubjectAccessReview"), "subjectaccessreviews", api.Maker[authorizationv1.SubjectAccessReview]()),
	}
	for _, k := range kinds {
		k.Validate = validateReview
	}
	return kinds
}

func review(gvk schema.GroupVersionKind, resource string, make func() api.Object) *api.Kind {
	return &api.Kind{
		GVK:      gvk,
		Resource: resource,
		Verbs:    []string{"create"},
		Virtual:  true,
		New:      make,
	}
}

// TokenRequestKind is what is posted to a service account's token subresource.
func TokenRequestKind() schema.GroupVersionKind {
	return authenticationv1.SchemeGroupVersion.WithKind("TokenRequest")
}

// TokenRequest describes what is posted to a service account's token
// subresource.
func TokenRequest() *api.Kind {
	k := review(TokenRequestKind(), "", api.Maker[authenticationv1.TokenRequest]())
	k.Namespaced = true
	k.Default = api.On(func(r *authenticationv1.TokenRequest) {
		if r.Spec.ExpirationSeconds == nil {
			hour := int64(60 * 60)
			r.Spec.ExpirationSeconds = &hour
		}
	})
	k.Validate = validateReview
	return k
}
