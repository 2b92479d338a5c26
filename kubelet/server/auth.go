package server

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"
)

// How long answers are kept, as upstream has it.
const (
	tokenTTL   = 2 * time.Minute
	allowTTL   = 5 * time.Minute
	denyTTL    = 30 * time.Second
	maxAnswers = 4096
)

// user is who asks.
type user struct {
	name   string
	uid    string
	groups []string
	extra  map[string]authorizationv1.ExtraValue
}

// reviews asks the API server who somebody is and what they may do, and
// remembers the answers for a while.
type reviews struct {
	client   ctrl.Client
	nodeName string
	clock    clock.Clock

	mu     sync.Mutex
	tokens map[[32]byte]tokenAnswer
	access map[string]accessAnswer
}

type tokenAnswer struct {
	who   *user
	until time.Time
}

type accessAnswer struct {
	allowed bool
	until   time.Time
}

func newReviews(client ctrl.Client, nodeName string, c clock.Clock) *reviews {
	return &reviews{client: client, nodeName: nodeName, clock: c, tokens: map[[32]byte]tokenAnswer{}, access: map[string]accessAnswer{}}
}

// authenticate returns nil without an error when nothing proves who asks.
func (v *reviews) authenticate(r *http.Request) (*user, error) {
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 && len(r.TLS.VerifiedChains[0]) > 0 {
		subject := r.TLS.VerifiedChains[0][0].Subject
		if subject.CommonName == "" {
			return nil, nil
		}
		return &user{name: subject.CommonName, groups: append(append([]string{}, subject.Organization...), "system:authenticated")}, nil
	}
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || strings.TrimSpace(token) == "" {
		return nil, nil
	}
	r.Header.Del("Authorization") // what is proxied on need not know it
	return v.review(r.Context(), strings.TrimSpace(token))
}

func (v *reviews) review(ctx context.Context, token string) (*user, error) {
	key := sha256.Sum256([]byte(token))
	now := v.clock.Now()
	v.mu.Lock()
	have, ok := v.tokens[key]
	v.mu.Unlock()
	if ok && now.Before(have.until) {
		return have.who, nil
	}
	review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := v.client.Create(ctx, review); err != nil {
		return nil, fmt.Errorf("review token: %w", err)
	}
	var who *user
	if review.Status.Authenticated {
		u := review.Status.User
		who = &user{name: u.Username, uid: u.UID, groups: u.Groups, extra: map[string]authorizationv1.ExtraValue{}}
		for k, x := range u.Extra {
			who.extra[k] = authorizationv1.ExtraValue(x)
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.tokens) >= maxAnswers {
		clear(v.tokens)
	}
	v.tokens[key] = tokenAnswer{who: who, until: now.Add(tokenTTL)}
	return who, nil
}

// attributes says what a request is, in terms of the node's subresources.
func attributes(r *http.Request) (verb, subresource string) {
	switch r.Method {
	case http.MethodPost:
		verb = "create"
	case http.MethodPut:
		verb = "update"
	case http.MethodPatch:
		verb = "patch"
	case http.MethodDelete:
		verb = "delete"
	default:
		verb = "get"
	}
	under := func(prefix string) bool {
		return r.URL.Path == prefix || strings.HasPrefix(r.URL.Path, prefix+"/")
	}
	switch {
	case under("/stats"):
		return verb, "stats"
	case under("/metrics"):
		return verb, "metrics"
	case under("/logs"):
		return verb, "log"
	case under("/healthz"):
		return verb, "healthz"
	case under("/exec"), under("/attach"), under("/portForward"), under("/run"):
		return "create", "proxy" // to run a command is no read, whatever a WebSocket begins with
	case under("/pods"), under("/runningpods"):
		return verb, "pods"
	case under("/configz"):
		return verb, "configz"
	}
	return verb, "proxy"
}

// authorize asks whether who may do this. Those subresources that upstream
// split off from nodes/proxy are granted by nodes/proxy too.
func (v *reviews) authorize(r *http.Request, who *user) (bool, string) {
	verb, sub := attributes(r)
	for _, s := range []string{sub, "proxy"} {
		ok, err := v.access1(r.Context(), who, verb, s)
		if err != nil {
			return false, fmt.Sprintf("Authorization error (user=%s, verb=%s, resource=nodes, subresource=%s)", who.name, verb, sub)
		}
		if ok {
			return true, ""
		}
		if sub != "healthz" && sub != "pods" && sub != "configz" {
			break
		}
	}
	return false, fmt.Sprintf("Forbidden (user=%s, verb=%s, resource=nodes, subresource(s)=[%s])", who.name, verb, sub)
}

func (v *reviews) access1(ctx context.Context, who *user, verb, sub string) (bool, error) {
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User: who.name, UID: who.uid, Groups: who.groups, Extra: who.extra,
		ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: verb, Version: "v1", Resource: "nodes", Subresource: sub, Name: v.nodeName},
	}}
	// All that is asked tells answers apart: an authorizer may look at any of it.
	asked, err := json.Marshal(review.Spec)
	if err != nil {
		return false, err
	}
	key, now := string(asked), v.clock.Now()
	v.mu.Lock()
	have, ok := v.access[key]
	v.mu.Unlock()
	if ok && now.Before(have.until) {
		return have.allowed, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := v.client.Create(ctx, review); err != nil {
		return false, fmt.Errorf("review access: %w", err)
	}
	ttl := denyTTL
	if review.Status.Allowed {
		ttl = allowTTL
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.access) >= maxAnswers {
		clear(v.access)
	}
	v.access[key] = accessAnswer{allowed: review.Status.Allowed, until: now.Add(ttl)}
	return review.Status.Allowed, nil
}
