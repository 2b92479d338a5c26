package authz

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/auth/rbac/validation"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"
)

// Bootstrap brings the default policy into the cluster: what is missing is
// created, what exists is extended by what it lacks. What users added stays,
// and an object annotated rbac.authorization.kubernetes.io/autoupdate=false
// is left alone. The namespaces kube-system and kube-public must exist.
//
// It may run in several servers at once, and again at every start.
func Bootstrap(ctx context.Context, c ctrl.Client) error {
	r := &reconciler{client: c}
	r.group, ctx = errgroup.WithContext(ctx)
	r.group.SetLimit(32) // writes at once: the store batches what is concurrent

	reconcileAll(ctx, r, ClusterRoles(), &rbacv1.ClusterRoleList{}, func(l *rbacv1.ClusterRoleList) []rbacv1.ClusterRole { return l.Items }, extendClusterRole)
	reconcileAll(ctx, r, ClusterRoleBindings(), &rbacv1.ClusterRoleBindingList{}, func(l *rbacv1.ClusterRoleBindingList) []rbacv1.ClusterRoleBinding { return l.Items }, extendClusterRoleBinding)
	reconcileAll(ctx, r, Roles(), &rbacv1.RoleList{}, func(l *rbacv1.RoleList) []rbacv1.Role { return l.Items }, extendRole)
	reconcileAll(ctx, r, RoleBindings(), &rbacv1.RoleBindingList{}, func(l *rbacv1.RoleBindingList) []rbacv1.RoleBinding { return l.Items }, extendRoleBinding)
	if err := r.group.Wait(); err != nil {
		return fmt.Errorf("default policy: %w", err)
	}
	return nil
}

type reconciler struct {
	client ctrl.Client
	group  *errgroup.Group
}

// reconcileAll starts the reconciliation of every wanted object of a kind.
// extend changes its first argument where it lacks something of the second
// and says whether it did; "recreate" asks for a new object instead.
func reconcileAll[T any, L any, P interface {
	*T
	ctrl.Object
}, PL interface {
	*L
	ctrl.ObjectList
}](ctx context.Context, r *reconciler, wanted []T, list PL, items func(PL) []T, extend func(have, want P) change) {
	if err := r.client.List(ctx, list); err != nil {
		r.group.Go(func() error { return fmt.Errorf("list %T: %w", list, err) })
		return
	}
	have := map[string]P{}
	existing := items(list)
	for i := range existing {
		p := P(&existing[i])
		have[p.GetNamespace()+"/"+p.GetName()] = p
	}
	for i := range wanted {
		want := P(&wanted[i])
		r.group.Go(func() error {
			err := reconcile(ctx, r.client, have[want.GetNamespace()+"/"+want.GetName()], want, extend)
			if err != nil {
				return fmt.Errorf("%T %s: %w", want, want.GetName(), err)
			}
			return nil
		})
	}
}

// attempts bounds how often others may get in between.
const attempts = 5

func reconcile[T any, P interface {
	*T
	ctrl.Object
}](ctx context.Context, c ctrl.Client, have, want P, extend func(have, want P) change) error {
	var err error
	for try := range attempts {
		if try > 0 {
			if err := pause(ctx, time.Duration(try)*10*time.Millisecond); err != nil {
				return err
			}
			have = P(new(T))
			if err := c.Get(ctx, ctrl.ObjectKeyFromObject(want), have); apierrors.IsNotFound(err) {
				have = nil
			} else if err != nil {
				return err
			}
		}
		err = apply(ctx, c, have, want, extend)
		raced := apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err)
		if !raced {
			return err
		}
	}
	return err
}

func apply[T any, P interface {
	*T
	ctrl.Object
}](ctx context.Context, c ctrl.Client, have, want P, extend func(have, want P) change) error {
	create := func() error { return c.Create(ctx, want.DeepCopyObject().(P)) }
	if have == nil {
		return create()
	}
	if have.GetAnnotations()[rbacv1.AutoUpdateAnnotationKey] == "false" {
		return nil
	}
	have = have.DeepCopyObject().(P)
	did := extend(have, want)
	if did == recreated {
		uid := have.GetUID()
		if err := c.Delete(ctx, have, ctrl.Preconditions{UID: &uid}); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		return create()
	}
	if extendMeta(have, want) || did == extended {
		return c.Update(ctx, have)
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

type change int

const (
	unchanged change = iota
	extended
	recreated
)

// extendMeta adds missing labels and annotations; those set otherwise stay.
func extendMeta(have, want ctrl.Object) bool {
	labels, moreLabels := extendMap(have.GetLabels(), want.GetLabels())
	annotations, moreAnnotations := extendMap(have.GetAnnotations(), want.GetAnnotations())
	have.SetLabels(labels)
	have.SetAnnotations(annotations)
	return moreLabels || moreAnnotations
}

func extendMap(have, want map[string]string) (map[string]string, bool) {
	out := maps.Clone(want)
	maps.Copy(out, have)
	return out, len(out) > len(have)
}

func extendClusterRole(have, want *rbacv1.ClusterRole) change {
	if want.AggregationRule == nil {
		return extendRules(&have.Rules, want.Rules)
	}
	// The rules of an aggregated role are its controller's.
	if have.AggregationRule == nil {
		have.AggregationRule = &rbacv1.AggregationRule{}
	}
	return extendList(&have.AggregationRule.ClusterRoleSelectors, want.AggregationRule.ClusterRoleSelectors,
		func(a, b metav1.LabelSelector) bool { return reflect.DeepEqual(a, b) })
}

func extendRole(have, want *rbacv1.Role) change { return extendRules(&have.Rules, want.Rules) }

func extendRules(have *[]rbacv1.PolicyRule, want []rbacv1.PolicyRule) change {
	covered, missing := validation.Covers(*have, want)
	if covered {
		return unchanged
	}
	*have = append(*have, missing...)
	return extended
}

func extendClusterRoleBinding(have, want *rbacv1.ClusterRoleBinding) change {
	if have.RoleRef != want.RoleRef { // immutable
		return recreated
	}
	return extendList(&have.Subjects, want.Subjects, func(a, b rbacv1.Subject) bool { return a == b })
}

func extendRoleBinding(have, want *rbacv1.RoleBinding) change {
	if have.RoleRef != want.RoleRef {
		return recreated
	}
	return extendList(&have.Subjects, want.Subjects, func(a, b rbacv1.Subject) bool { return a == b })
}

func extendList[E any](have *[]E, want []E, equal func(a, b E) bool) change {
	did := unchanged
	for _, w := range want {
		if !slices.ContainsFunc(*have, func(h E) bool { return equal(h, w) }) {
			*have = append(*have, w)
			did = extended
		}
	}
	return did
}
