package authn

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4/jwt"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"

	"github.com/proa-dev/proa/api"
)

var (
	errExpired     = errors.New("service account token has expired")
	errNotYet      = errors.New("service account token is not valid yet")
	errInvalidated = errors.New("service account token has been invalidated")
)

// token authenticates a bearer token for the API server itself.
func (a *Authenticator) token(ctx context.Context, token string) (*authenticator.Response, error) {
	if who, err := a.bootstrapper(ctx, token); who != nil || err != nil {
		if err != nil {
			return nil, err
		}
		return &authenticator.Response{User: who, Audiences: a.cfg.Audiences}, nil
	}
	c, err := a.claims(ctx, token)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBadToken, err)
	}
	if !c.isFor(a.cfg.Audiences) {
		return nil, fmt.Errorf("%w: token audiences %q is invalid for the target audiences %q", errBadToken, []string(c.Audience), a.cfg.Audiences)
	}
	return c.resp, nil
}

// AuthenticateToken authenticates a token for the audiences in ctx
// (authenticator.WithAudiences), the API server's own when there are none.
// The answer names those that the token is good for.
func (a *Authenticator) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	wanted, ok := authenticator.AudiencesFrom(ctx)
	if !ok || len(wanted) == 0 {
		wanted = a.cfg.Audiences
	}
	if who, err := a.bootstrapper(ctx, token); who != nil || err != nil {
		if err != nil {
			return nil, false, err
		}
		both, err := a.ownAudiences(wanted)
		if err != nil {
			return nil, false, err
		}
		return &authenticator.Response{User: who, Audiences: both}, true, nil
	}
	c, err := a.claims(ctx, token)
	if err != nil {
		return nil, false, fmt.Errorf("%w: %w", errBadToken, err)
	}
	matching := a.matching(c, wanted)
	if len(matching) == 0 {
		return nil, false, fmt.Errorf("%w: token audiences %q is invalid for the target audiences %q", errBadToken, []string(c.Audience), []string(wanted))
	}
	return &authenticator.Response{User: c.resp.User, Audiences: matching}, true, nil
}

// isFor says whether the token is for one of audiences. Legacy tokens name
// none and are for the API server.
func (c *claims) isFor(own []string) bool {
	return len(c.Audience) == 0 || slices.ContainsFunc(c.Audience, func(a string) bool { return slices.Contains(own, a) })
}

// matching returns the wanted audiences that the token is for. Legacy tokens
// name none and are for the API server.
func (a *Authenticator) matching(c *claims, wanted []string) []string {
	has := []string(c.Audience)
	if len(has) == 0 {
		has = a.cfg.Audiences
	}
	var both []string
	for _, w := range wanted {
		if slices.Contains(has, w) {
			both = append(both, w)
		}
	}
	return both
}

// claims verifies token in every respect but its audience.
func (a *Authenticator) claims(ctx context.Context, token string) (*claims, error) {
	if len(token) > maxToken {
		return nil, errors.New("token is too long")
	}
	key := sha256.Sum256([]byte(token))
	c, known := a.tokens.get(key[:])
	if !known {
		var err error
		if c, err = a.verified(token); err != nil {
			return nil, err
		}
	}
	now := a.cfg.Clock.Now()
	if err := c.expired(now); err != nil {
		return nil, err
	}
	if err := a.alive(ctx, c, token, now); err != nil {
		return nil, err
	}
	if !known {
		a.tokens.put(key[:], c)
	}
	return c, nil
}

// verified checks the signature and the form of the claims.
func (a *Authenticator) verified(token string) (*claims, error) {
	c, err := a.signer.verify(token)
	if err != nil {
		return nil, err
	}
	info := serviceaccount.ServiceAccountInfo{}
	switch c.Issuer {
	case a.cfg.Issuer:
		if c.Kubernetes == nil || c.Expiry == nil {
			return nil, errors.New("token has no kubernetes.io claims or no expiry")
		}
		k := c.Kubernetes
		info.Namespace, info.Name, info.UID = k.Namespace, k.ServiceAccount.Name, k.ServiceAccount.UID
		if k.Pod != nil {
			info.PodName, info.PodUID = k.Pod.Name, k.Pod.UID
		}
		if k.Node != nil {
			info.NodeName, info.NodeUID = k.Node.Name, k.Node.UID
		}
		if c.ID != "" {
			info.CredentialID = "JTI=" + c.ID
		}
	case legacyIssuer:
		if c.LegacySecret == "" {
			return nil, errors.New("secretName claim is missing")
		}
		info.Namespace, info.Name, info.UID = c.LegacyNamespace, c.LegacyName, c.LegacyUID
	default:
		return nil, fmt.Errorf("token was issued by %q", c.Issuer)
	}
	if info.Namespace == "" || info.Name == "" || info.UID == "" {
		return nil, errors.New("token does not name its service account")
	}
	if c.Subject != serviceaccount.MakeUsername(info.Namespace, info.Name) {
		return nil, errors.New("sub claim does not match the service account")
	}
	c.resp = a.response(info.UserInfo())
	return c, nil
}

// alive checks that what the token is bound to exists, under the same UID.
func (a *Authenticator) alive(ctx context.Context, c *claims, token string, now time.Time) error {
	// What was deleted a moment ago still counts, as the holder may be
	// shutting down.
	gone := now.Add(-jwt.DefaultLeeway)
	if c.Kubernetes == nil {
		return a.legacyAlive(ctx, c, token, now, gone)
	}
	k := c.Kubernetes
	if err := a.accountAlive(ctx, k.Namespace, k.ServiceAccount, gone); err != nil {
		return err
	}
	if k.Secret != nil {
		if err := boundAlive("secret", a.object(ctx, "secrets", k.Namespace, k.Secret.Name), k.Secret, gone); err != nil {
			return err
		}
	}
	if k.Pod != nil {
		return boundAlive("pod", a.object(ctx, "pods", k.Namespace, k.Pod.Name), k.Pod, gone)
	}
	// The node of a pod's token is information alone: only a token bound to a
	// node ends with it.
	if k.Node != nil {
		return boundAlive("node", a.object(ctx, "nodes", "", k.Node.Name), k.Node, gone)
	}
	return nil
}

func (a *Authenticator) accountAlive(ctx context.Context, namespace string, r ref, gone time.Time) error {
	sa := a.object(ctx, "serviceaccounts", namespace, r.Name)
	if sa == nil {
		return fmt.Errorf("serviceaccounts %q not found", r.Name)
	}
	if deletedBefore(sa.GetDeletionTimestamp(), gone) {
		return fmt.Errorf("service account %s/%s has been deleted", namespace, r.Name)
	}
	if string(sa.GetUID()) != r.UID {
		return fmt.Errorf("service account UID (%s) does not match claim (%s)", sa.GetUID(), r.UID)
	}
	return nil
}

func boundAlive(what string, obj api.Object, r *ref, gone time.Time) error {
	if obj == nil || deletedBefore(obj.GetDeletionTimestamp(), gone) {
		return errInvalidated
	}
	if string(obj.GetUID()) != r.UID {
		return fmt.Errorf("%s UID (%s) does not match service account %s ref claim (%s)", what, obj.GetUID(), what, r.UID)
	}
	return nil
}

func (a *Authenticator) legacyAlive(ctx context.Context, c *claims, token string, now, gone time.Time) error {
	obj := a.object(ctx, "secrets", c.LegacyNamespace, c.LegacySecret)
	secret, ok := obj.(*corev1.Secret)
	if !ok || deletedBefore(secret.DeletionTimestamp, gone) || secret.Type != corev1.SecretTypeServiceAccountToken {
		return errInvalidated
	}
	if string(secret.Data[corev1.ServiceAccountTokenKey]) != token {
		return errors.New("token does not match server's copy")
	}
	if err := a.accountAlive(ctx, c.LegacyNamespace, ref{Name: c.LegacyName, UID: c.LegacyUID}, gone); err != nil {
		return err
	}
	a.used(secret, now)
	if secret.Labels[invalidSince] != "" {
		return fmt.Errorf("the token in secret %s/%s for service account %s/%s has been marked invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, "+
			"or remove the '%s' label from the secret to temporarily allow use of this token", c.LegacyNamespace, c.LegacySecret, c.LegacyNamespace, c.LegacyName, invalidSince)
	}
	return nil
}

func deletedBefore(t *metav1.Time, gone time.Time) bool {
	return t != nil && t.Time.Before(gone)
}
