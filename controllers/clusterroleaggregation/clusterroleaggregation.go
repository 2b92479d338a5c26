// Package clusterroleaggregation fills ClusterRoles that have an
// aggregationRule with the rules of the roles that it selects.
package clusterroleaggregation

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/controllers/internal/loop"
)

// Name is the controller's name in logs, and the owner of the rules it applies.
const Name = "clusterrole-aggregation-controller"

type controller struct{ env loop.Env }

// New makes the controller.
func New(env loop.Env) (loop.Loop, error) {
	env = env.Named(Name)
	c := &controller{env: env}
	// Any role may come to be selected, or cease to, by any change.
	all := func(ctx context.Context, q loop.Queue, _ *rbacv1.ClusterRole) {
		roles, err := c.roles(ctx)
		if err != nil {
			env.Logger.Error("list the ClusterRoles", "err", err)
			return
		}
		for _, r := range roles {
			if r.AggregationRule != nil {
				q.Add(loop.Key("", r.Name))
			}
		}
	}
	return loop.New(env, Name, 1, c.reconcile, loop.Watch(env.Cluster, &rbacv1.ClusterRole{}, loop.On[*rbacv1.ClusterRole]{
		Created: all,
		Updated: func(ctx context.Context, q loop.Queue, old, r *rbacv1.ClusterRole) {
			if old.ResourceVersion != r.ResourceVersion {
				all(ctx, q, r)
			}
		},
		Deleted: all,
	}))
}

// roles are shared with the cache, sorted by name: the order of the rules
// must not depend on that of the cache.
func (c *controller) roles(ctx context.Context) ([]rbacv1.ClusterRole, error) {
	var list rbacv1.ClusterRoleList
	if err := c.env.Cluster.Client().List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	slices.SortFunc(list.Items, func(a, b rbacv1.ClusterRole) int { return cmp.Compare(a.Name, b.Name) })
	return list.Items, nil
}

func (c *controller) reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	roles, err := c.roles(ctx)
	if err != nil {
		return 0, err
	}
	at := slices.IndexFunc(roles, func(r rbacv1.ClusterRole) bool { return r.Name == key.Name })
	if at < 0 || roles[at].AggregationRule == nil {
		return 0, nil
	}
	role := &roles[at]
	rules, err := collect(role, roles)
	if err != nil {
		// Only a change of the role mends its selector, and that comes back here.
		c.env.Logger.Error("the aggregationRule cannot be read", "role", role.Name, "err", err)
		return 0, nil
	}
	if equality.Semantic.DeepEqual(rules, role.Rules) {
		return 0, nil
	}
	patch, err := json.Marshal(map[string]any{
		"apiVersion": rbacv1.SchemeGroupVersion.String(), "kind": "ClusterRole",
		"metadata": map[string]any{"name": role.Name}, "rules": rules,
	})
	if err != nil {
		return 0, fmt.Errorf("encode the rules: %w", err)
	}
	target := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: role.Name}}
	return 0, c.env.Cluster.Client().Patch(ctx, target, client.RawPatch(types.ApplyPatchType, patch), client.FieldOwner(Name), client.ForceOwnership)
}

// collect returns the rules of the roles that role selects, each once, in the
// order of the selectors and then of the roles' names.
func collect(role *rbacv1.ClusterRole, roles []rbacv1.ClusterRole) ([]rbacv1.PolicyRule, error) {
	rules := []rbacv1.PolicyRule{}
	for i := range role.AggregationRule.ClusterRoleSelectors {
		selector, err := metav1.LabelSelectorAsSelector(&role.AggregationRule.ClusterRoleSelectors[i])
		if err != nil {
			return nil, err
		}
		for j := range roles {
			if roles[j].Name == role.Name || !selector.Matches(labels.Set(roles[j].Labels)) {
				continue
			}
			for _, rule := range roles[j].Rules {
				known := slices.ContainsFunc(rules, func(r rbacv1.PolicyRule) bool { return equality.Semantic.DeepEqual(r, rule) })
				if !known {
					rules = append(rules, rule)
				}
			}
		}
	}
	return rules, nil
}
