// Package serviceaccounttoken fills in Secrets of type
// kubernetes.io/service-account-token, and removes those whose ServiceAccount
// is gone.
package serviceaccounttoken

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/controllers/internal/loop"
)

// Name is the controller's name in logs.
const Name = "serviceaccount-token-controller"

// Issuer makes tokens that are valid while their Secret holds them.
type Issuer interface {
	LegacyToken(sa *corev1.ServiceAccount, secretName string) (string, error)
}

type controller struct {
	env    loop.Env
	tokens Issuer
	ca     []byte
}

// New makes the controller; ca is the authority of the API server in PEM.
func New(env loop.Env, tokens Issuer, ca []byte) (loop.Loop, error) {
	if tokens == nil {
		return loop.Loop{}, errors.New("service account tokens: no issuer")
	}
	env = env.Named(Name)
	c := &controller{env: env, tokens: tokens, ca: ca}
	add := func(_ context.Context, q loop.Queue, s *corev1.Secret) {
		if s.Type == corev1.SecretTypeServiceAccountToken {
			q.Add(loop.Key(s.Namespace, s.Name))
		}
	}
	return loop.New(env, Name, 5, c.reconcile,
		loop.Watch(env.Cluster, &corev1.Secret{}, loop.On[*corev1.Secret]{
			Created: add,
			Updated: func(ctx context.Context, q loop.Queue, _, s *corev1.Secret) { add(ctx, q, s) },
			Deleted: add,
		}),
		loop.Watch(env.Cluster, &corev1.ServiceAccount{}, loop.On[*corev1.ServiceAccount]{Deleted: c.accountGone}),
	)
}

// accountGone queues the Secrets of an account.
func (c *controller) accountGone(ctx context.Context, q loop.Queue, sa *corev1.ServiceAccount) {
	var list corev1.SecretList
	if err := c.env.Cluster.Client().List(ctx, &list, client.InNamespace(sa.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		c.env.Logger.Error("list the Secrets of a ServiceAccount", "account", sa.Name, "namespace", sa.Namespace, "err", err)
		return
	}
	for i := range list.Items {
		s := &list.Items[i]
		if s.Type == corev1.SecretTypeServiceAccountToken && s.Annotations[corev1.ServiceAccountNameKey] == sa.Name {
			q.Add(loop.Key(s.Namespace, s.Name))
		}
	}
}

func (c *controller) reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	api := c.env.Cluster.Client()
	secret := &corev1.Secret{}
	switch err := api.Get(ctx, key, secret); {
	case apierrors.IsNotFound(err):
		return 0, c.forget(ctx, key)
	case err != nil:
		return 0, err
	case secret.DeletionTimestamp != nil:
		return 0, nil
	}
	// The Secret may be older in the cache than the account, and the other way
	// round: only a fresh read may cost a Secret its life.
	sa := &corev1.ServiceAccount{}
	owner := types.NamespacedName{Namespace: key.Namespace, Name: secret.Annotations[corev1.ServiceAccountNameKey]}
	err := api.Get(ctx, owner, sa)
	if apierrors.IsNotFound(err) || err == nil && !owns(sa, secret) {
		err = c.env.Cluster.Reader().Get(ctx, owner, sa)
	}
	if apierrors.IsNotFound(err) || err == nil && !owns(sa, secret) {
		c.env.Logger.Info("deleting the token of a ServiceAccount that is gone", "secret", key, "account", owner.Name)
		uid := secret.UID
		return 0, client.IgnoreNotFound(api.Delete(ctx, secret, client.Preconditions{UID: &uid}))
	}
	if err != nil {
		return 0, err
	}
	return 0, c.fill(ctx, secret, sa)
}

// owns says whether sa is the account that the secret's annotations mean.
func owns(sa *corev1.ServiceAccount, secret *corev1.Secret) bool {
	uid := secret.Annotations[corev1.ServiceAccountUIDKey]
	return uid == "" || uid == string(sa.UID)
}

// fill writes what the secret lacks.
func (c *controller) fill(ctx context.Context, secret *corev1.Secret, sa *corev1.ServiceAccount) error {
	if bytes.Equal(secret.Data[corev1.ServiceAccountRootCAKey], c.ca) && len(secret.Data[corev1.ServiceAccountNamespaceKey]) > 0 &&
		len(secret.Data[corev1.ServiceAccountTokenKey]) > 0 && secret.Annotations[corev1.ServiceAccountUIDKey] != "" {
		return nil
	}
	if secret.Data == nil {
		secret.Data = map[string][]byte{}
	}
	secret.Data[corev1.ServiceAccountRootCAKey] = c.ca
	if len(secret.Data[corev1.ServiceAccountNamespaceKey]) == 0 {
		secret.Data[corev1.ServiceAccountNamespaceKey] = []byte(secret.Namespace)
	}
	if len(secret.Data[corev1.ServiceAccountTokenKey]) == 0 {
		token, err := c.tokens.LegacyToken(sa, secret.Name)
		if err != nil {
			return fmt.Errorf("make the token of Secret %s/%s: %w", secret.Namespace, secret.Name, err)
		}
		secret.Data[corev1.ServiceAccountTokenKey] = []byte(token)
	}
	secret.Annotations[corev1.ServiceAccountUIDKey] = string(sa.UID)
	return client.IgnoreNotFound(c.env.Cluster.Client().Update(ctx, secret))
}

// forget drops a token's Secret that is gone from the accounts that list it.
func (c *controller) forget(ctx context.Context, secret types.NamespacedName) error {
	api := c.env.Cluster.Client()
	var list corev1.ServiceAccountList
	if err := api.List(ctx, &list, client.InNamespace(secret.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return err
	}
	lists := func(r corev1.ObjectReference) bool { return r.Name == secret.Name }
	for i := range list.Items {
		if !slices.ContainsFunc(list.Items[i].Secrets, lists) {
			continue
		}
		sa := list.Items[i].DeepCopy()
		sa.Secrets = slices.DeleteFunc(sa.Secrets, lists)
		if err := api.Update(ctx, sa); client.IgnoreNotFound(err) != nil {
			return err
		}
	}
	return nil
}
