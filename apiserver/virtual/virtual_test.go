package virtual_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	authnv1 "k8s.io/api/authentication/v1"
	authzv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/proa-dev/proa/apiserver/virtual"
)

// oracle allows bob to get pods, and tells what it was asked.
type oracle struct{ asked authorizer.Attributes }

func (o *oracle) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	o.asked = a
	if a.GetUser().GetName() == "bob" && a.GetVerb() == "get" && (a.GetResource() == "pods" || a.GetPath() == "/logs") {
		return authorizer.DecisionAllow, "because", nil
	}
	return authorizer.DecisionNoOpinion, "no", nil
}

func (o *oracle) RulesFor(_ context.Context, _ user.Info, namespace string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	return []authorizer.ResourceRuleInfo{&authorizer.DefaultResourceRuleInfo{Verbs: []string{"get"}, Resources: []string{namespace}}}, nil, true, errors.New("not all")
}

func tokens(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	if token != "good" {
		return nil, false, errors.New("invalid bearer token")
	}
	auds, _ := authenticator.AudiencesFrom(ctx)
	return &authenticator.Response{Audiences: auds, User: &user.DefaultInfo{Name: "bob", UID: "7", Groups: []string{"g"}, Extra: map[string][]string{"k": {"v"}}}}, true, nil
}

func TestReviews(t *testing.T) {
	o := &oracle{}
	functions := virtual.Functions(virtual.Config{Tokens: authenticator.TokenFunc(tokens), Authorizer: o})
	authn, authz := authnv1.SchemeGroupVersion, authzv1.SchemeGroupVersion
	ctx := request.WithNamespace(request.WithUser(t.Context(), &user.DefaultInfo{Name: "bob", Groups: []string{"g"}}), "ns")
	ask := func(obj runtime.Object) (runtime.Object, error) {
		for gvk, f := range functions {
			if fmt.Sprintf("%T", obj) == "*v1."+gvk.Kind {
				return f(ctx, obj)
			}
		}
		t.Fatalf("no function for %T", obj)
		return nil, nil
	}
	if len(functions) != 6 || functions[authn.WithKind("TokenReview")] == nil || functions[authz.WithKind("SubjectAccessReview")] == nil {
		t.Errorf("%d functions", len(functions))
	}

	pods := &authzv1.ResourceAttributes{Namespace: "ns", Verb: "get", Resource: "pods"}
	for _, c := range []struct {
		name    string
		obj     runtime.Object
		wantErr string
		check   func(runtime.Object) bool
	}{
		{"good token", &authnv1.TokenReview{Spec: authnv1.TokenReviewSpec{Token: "good", Audiences: []string{"a"}}}, "", func(o runtime.Object) bool {
			s := o.(*authnv1.TokenReview).Status
			return s.Authenticated && s.User.Username == "bob" && s.User.UID == "7" && s.User.Extra["k"][0] == "v" && s.Audiences[0] == "a"
		}},
		{"bad token", &authnv1.TokenReview{Spec: authnv1.TokenReviewSpec{Token: "bad"}}, "", func(o runtime.Object) bool {
			s := o.(*authnv1.TokenReview).Status
			return !s.Authenticated && s.Error == "invalid bearer token" && s.User.Username == ""
		}},
		{"no token", &authnv1.TokenReview{}, "token is required for TokenReview in authentication", nil},
		{"oneself", &authnv1.SelfSubjectReview{}, "", func(o runtime.Object) bool { return o.(*authnv1.SelfSubjectReview).Status.UserInfo.Username == "bob" }},
		{"access", &authzv1.SubjectAccessReview{Spec: authzv1.SubjectAccessReviewSpec{User: "bob", ResourceAttributes: pods}}, "", func(o runtime.Object) bool {
			s := o.(*authzv1.SubjectAccessReview).Status
			return s.Allowed && !s.Denied && s.Reason == "because"
		}},
		{"no access", &authzv1.SubjectAccessReview{Spec: authzv1.SubjectAccessReviewSpec{Groups: []string{"g"}, ResourceAttributes: pods}}, "", func(o runtime.Object) bool {
			s := o.(*authzv1.SubjectAccessReview).Status
			return !s.Allowed && !s.Denied && s.Reason == "no"
		}},
		{"path", &authzv1.SubjectAccessReview{Spec: authzv1.SubjectAccessReviewSpec{User: "bob", NonResourceAttributes: &authzv1.NonResourceAttributes{Path: "/logs", Verb: "get"}}}, "",
			func(o runtime.Object) bool { return o.(*authzv1.SubjectAccessReview).Status.Allowed }},
		{"nobody", &authzv1.SubjectAccessReview{Spec: authzv1.SubjectAccessReviewSpec{ResourceAttributes: pods}},
			`SubjectAccessReview.authorization.k8s.io "" is invalid: spec.user: Invalid value: "": at least one of user or group must be specified`, nil},
		{"nothing", &authzv1.SelfSubjectAccessReview{}, `exactly one of nonResourceAttributes or resourceAttributes must be specified`, nil},
		{"both", &authzv1.SelfSubjectAccessReview{Spec: authzv1.SelfSubjectAccessReviewSpec{ResourceAttributes: pods, NonResourceAttributes: &authzv1.NonResourceAttributes{}}}, `cannot be specified in combination with resourceAttributes`, nil},
		{"own access", &authzv1.SelfSubjectAccessReview{Spec: authzv1.SelfSubjectAccessReviewSpec{ResourceAttributes: pods}}, "",
			func(o runtime.Object) bool { return o.(*authzv1.SelfSubjectAccessReview).Status.Allowed }},
		{"local", &authzv1.LocalSubjectAccessReview{ObjectMeta: metav1.ObjectMeta{Namespace: "ns"}, Spec: authzv1.SubjectAccessReviewSpec{User: "bob", ResourceAttributes: pods}}, "",
			func(o runtime.Object) bool { return o.(*authzv1.LocalSubjectAccessReview).Status.Allowed }},
		{"local elsewhere", &authzv1.LocalSubjectAccessReview{ObjectMeta: metav1.ObjectMeta{Namespace: "ns"}, Spec: authzv1.SubjectAccessReviewSpec{User: "bob",
			ResourceAttributes: &authzv1.ResourceAttributes{Namespace: "other", Verb: "get", Resource: "pods"}}}, "must match metadata.namespace", nil},
		{"local path", &authzv1.LocalSubjectAccessReview{ObjectMeta: metav1.ObjectMeta{Namespace: "ns"}, Spec: authzv1.SubjectAccessReviewSpec{User: "bob",
			NonResourceAttributes: &authzv1.NonResourceAttributes{Path: "/"}}}, "disallowed on this kind of request", nil},
		{"field selector", &authzv1.SelfSubjectAccessReview{Spec: authzv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authzv1.ResourceAttributes{Verb: "list", Resource: "pods",
			FieldSelector: &authzv1.FieldSelectorAttributes{RawSelector: "spec.nodeName=n1"}}}}, "", func(runtime.Object) bool {
			reqs, err := o.asked.GetFieldSelector()
			return err == nil && len(reqs) == 1 && reqs[0].Value == "n1"
		}},
		{"odd selector", &authzv1.SelfSubjectAccessReview{Spec: authzv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authzv1.ResourceAttributes{Verb: "list", Resource: "pods",
			FieldSelector: &authzv1.FieldSelectorAttributes{Requirements: []metav1.FieldSelectorRequirement{{Key: "a", Operator: "Exists"}}}}}}, "", func(obj runtime.Object) bool {
			reqs, _ := o.asked.GetFieldSelector()
			return len(reqs) == 0 && strings.Contains(obj.(*authzv1.SelfSubjectAccessReview).Status.EvaluationError, "not a valid field selector operator")
		}},
		{"rules", &authzv1.SelfSubjectRulesReview{Spec: authzv1.SelfSubjectRulesReviewSpec{Namespace: "ns"}}, "", func(o runtime.Object) bool {
			s := o.(*authzv1.SelfSubjectRulesReview).Status
			return s.Incomplete && s.EvaluationError == "not all" && s.ResourceRules[0].Resources[0] == "ns" && s.NonResourceRules != nil
		}},
		{"rules of nowhere", &authzv1.SelfSubjectRulesReview{}, "no namespace on request", nil},
	} {
		out, err := ask(c.obj)
		switch {
		case c.wantErr == "" && err != nil, c.wantErr != "" && (err == nil || !strings.Contains(err.Error(), c.wantErr)):
			t.Errorf("%s: error %v, want %q", c.name, err, c.wantErr)
		case c.check != nil && !c.check(out):
			t.Errorf("%s: %+v", c.name, out)
		}
	}
}
