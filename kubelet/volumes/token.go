package volumes

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// maxTokens bounds the cache. Full, it forgets what expired, or else all:
// a token can always be asked for again.
const maxTokens = 4096

type tokenKey struct {
	pod      types.UID
	account  string
	audience string
	seconds  int64
}

type token struct {
	value   string
	expires time.Time
	refresh time.Time
}

// tokenCache keeps tokens until 80 % of their life, or a day, has passed.
type tokenCache struct {
	source Tokens
	now    func() time.Time

	mu     sync.Mutex
	tokens map[tokenKey]token
}

func newTokenCache(source Tokens, now func() time.Time) *tokenCache {
	return &tokenCache{source: source, now: now, tokens: map[tokenKey]token{}}
}

func (c *tokenCache) get(ctx context.Context, pod *corev1.Pod, audience string, seconds int64) (token, error) {
	key := tokenKey{pod.UID, pod.Spec.ServiceAccountName, audience, seconds}
	now := c.now()
	c.mu.Lock()
	have, ok := c.tokens[key]
	c.mu.Unlock()
	if ok && now.Before(have.refresh) {
		return have, nil
	}
	got, err := c.request(ctx, pod, audience, seconds)
	if err != nil {
		if ok && now.Before(have.expires) { // still good: try again soon
			have.refresh = now.Add(time.Minute)
			return have, nil
		}
		return token{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.tokens) >= maxTokens {
		for k, t := range c.tokens {
			if now.After(t.refresh) {
				delete(c.tokens, k)
			}
		}
		if len(c.tokens) >= maxTokens {
			clear(c.tokens)
		}
	}
	c.tokens[key] = got
	return got, nil
}

func (c *tokenCache) request(ctx context.Context, pod *corev1.Pod, audience string, seconds int64) (token, error) {
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: &seconds,
		BoundObjectRef: &authenticationv1.BoundObjectReference{
			Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID},
	}}
	if audience != "" {
		request.Spec.Audiences = []string{audience}
	}
	answer, err := c.source.Token(ctx, pod.Namespace, pod.Spec.ServiceAccountName, request)
	if err != nil {
		return token{}, fmt.Errorf("failed to fetch token: %w", err)
	}
	expires := answer.Status.ExpirationTimestamp.Time
	now := c.now()
	life := min(expires.Sub(now)*8/10, 24*time.Hour)
	if life <= 0 {
		return token{}, fmt.Errorf("failed to fetch token: it expired at %s already", expires.UTC().Format(time.RFC3339))
	}
	// A little earlier than need be, so that pods of one moment spread.
	life -= rand.N(life/20 + 1)
	return token{value: answer.Status.Token, expires: expires, refresh: now.Add(life)}, nil
}

func (p *payloads) addToken(ctx context.Context, out *payload, req Request, s *corev1.ServiceAccountTokenProjection, mode int32) error {
	seconds := int64(3600)
	if s.ExpirationSeconds != nil {
		seconds = *s.ExpirationSeconds
	}
	t, err := p.tokens.get(ctx, req.Pod, s.Audience, seconds)
	if err != nil {
		return err
	}
	user := commonUser(req.Pod)
	if user != nil || fsGroup(req.Pod) != nil {
		mode = 0o600 // its owner is known: nobody else needs to read it
	}
	out.files[s.Path] = file{data: []byte(t.value), mode: mode, uid: user}
	out.refresh = soonest(out.refresh, t.refresh)
	return nil
}

// commonUser is the user that every container of the pod runs as, or nil.
func commonUser(pod *corev1.Pod) *int64 {
	var user *int64
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			var own *int64
			if sc := list[i].SecurityContext; sc != nil {
				own = sc.RunAsUser
			}
			if own == nil && pod.Spec.SecurityContext != nil {
				own = pod.Spec.SecurityContext.RunAsUser
			}
			if own == nil || (user != nil && *user != *own) {
				return nil
			}
			user = own
		}
	}
	return user
}
