// Package authz decides whether a user may make a request:
//
//	system:masters ──> allowed
//	a node         ──> what its pods need (Node)
//	anyone         ──> what roles are bound to them (RBAC)
//	               ──> else refused
//
// A decision reads immutable objects and an index of the bindings that is
// built again only when one of the four RBAC resources has changed; it
// allocates nothing.
package authz

import (
	"context"
	"errors"
	"slices"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/proa-dev/proa/apiserver/admission"
)

// Authorizer is the whole decision. Safe for concurrent use.
type Authorizer struct {
	node *Node
	rbac *RBAC
}

var (
	_ authorizer.Authorizer   = (*Authorizer)(nil)
	_ authorizer.RuleResolver = (*Authorizer)(nil)
)

// New returns the authorizer over the cluster's objects.
func New(source admission.Source) *Authorizer {
	return &Authorizer{node: NewNode(source), rbac: NewRBAC(source)}
}

// RBAC is the part that roles decide: the escalation check asks it alone.
func (a *Authorizer) RBAC() *RBAC { return a.rbac }

// Authorize returns DecisionAllow or DecisionNoOpinion (which is a refusal),
// and the reasons of a refusal, a line each.
func (a *Authorizer) Authorize(ctx context.Context, attrs authorizer.Attributes) (authorizer.Decision, string, error) {
	u := attrs.GetUser()
	if u == nil {
		return authorizer.DecisionDeny, "no user", nil
	}
	if slices.Contains(u.GetGroups(), user.SystemPrivilegedGroup) {
		return authorizer.DecisionAllow, "", nil
	}
	decision, nodeReason, _ := a.node.Authorize(ctx, attrs)
	if decision == authorizer.DecisionAllow {
		return decision, nodeReason, nil
	}
	decision, reason, err := a.rbac.Authorize(ctx, attrs)
	if decision == authorizer.DecisionAllow || nodeReason == "" {
		return decision, reason, err
	}
	if reason == "" {
		return decision, nodeReason, err
	}
	return decision, nodeReason + "\n" + reason, err
}

// ConditionsAwareAuthorize is Authorize: no rule of ours is conditional.
func (a *Authorizer) ConditionsAwareAuthorize(ctx context.Context, attrs authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return authorizer.ConditionsAwareDecisionFromParts(a.Authorize(ctx, attrs))
}

// EvaluateConditions refuses: see ConditionsAwareAuthorize.
func (a *Authorizer) EvaluateConditions(context.Context, authorizer.ConditionsAwareDecision, authorizer.ConditionsData) (authorizer.Decision, string, error) {
	return authorizer.DecisionDeny, "", authorizer.ErrorConditionEvaluationNotSupported
}

// RulesFor lists what u may do in namespace. incomplete says that there is
// more than rules can tell.
func (a *Authorizer) RulesFor(ctx context.Context, u user.Info, namespace string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	resource, nonResource, incomplete, err := a.rbac.RulesFor(ctx, u, namespace)
	if slices.Contains(u.GetGroups(), user.SystemPrivilegedGroup) {
		resource = append([]authorizer.ResourceRuleInfo{&authorizer.DefaultResourceRuleInfo{
			Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"},
		}}, resource...)
		nonResource = append([]authorizer.NonResourceRuleInfo{&authorizer.DefaultNonResourceRuleInfo{
			Verbs: []string{"*"}, NonResourceURLs: []string{"*"},
		}}, nonResource...)
	}
	if _, isNode := nodeIdentity(u); isNode {
		incomplete = true
		err = errors.Join(err, errors.New("node authorizer does not support user rule resolution"))
	}
	return resource, nonResource, incomplete, err
}
