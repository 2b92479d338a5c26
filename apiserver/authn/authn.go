// Package authn finds out who makes a request. In order: a front proxy's
// headers, a client certificate, a bearer token (in the Authorization header
// or as a WebSocket subprotocol), else anonymous.
//
//	           ┌ headers of a front proxy with a certificate of its own CA
//	request ──>├ client certificate of the cluster's CA: CN is the user, O the groups
//	           ├ bearer token: a service account's, or a bootstrap token
//	           └ nothing at all: system:anonymous
//
// A credential that is present but wrong is an error (401), never anonymous.
// Signatures are verified once per credential and remembered; whether the
// objects a token is bound to still exist is looked up on every request, so
// that a deleted pod's token ends with the pod.
package authn

import (
	"context"
	"crypto/x509"
	"errors"
	"net/http"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/utils/clock"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/admission"
	"github.com/proa-dev/proa/internal/certs"
)

// DefaultIssuer names the cluster in service account tokens.
const DefaultIssuer = "https://kubernetes.default.svc.cluster.local"

// Config says whom to trust.
type Config struct {
	// Issuer is DefaultIssuer when empty. Audiences are those of the API
	// server itself: the issuer when empty.
	Issuer    string
	Audiences []string
	Key       *certs.SigningKey
	// MaxTokenLife bounds what token requests get; zero is no bound.
	MaxTokenLife time.Duration

	// ClientCAs verify client certificates. FrontProxyCAs verify the clients
	// that may name their user in headers, FrontProxyNames are their common
	// names (none: any).
	ClientCAs       *x509.CertPool
	FrontProxyCAs   *x509.CertPool
	FrontProxyNames []string

	// Source answers whether bound objects exist. Live is asked, when set,
	// for what Source does not have: a token may be used faster than the
	// cache learns of the service account that was just created.
	Source admission.Source
	Live   admission.Live
	Clock  clock.PassiveClock
}

// Authenticator implements authenticator.Request and authenticator.Token.
// Safe for concurrent use.
type Authenticator struct {
	cfg     Config
	signer  *signer
	certs   *cache[*certUser]
	tokens  *cache[*claims]
	lookups admission.Lookup
	uses    chan types.NamespacedName // of legacy tokens, by their Secrets
}

var (
	_ authenticator.Request = (*Authenticator)(nil)
	_ authenticator.Token   = (*Authenticator)(nil)
)

// New checks cfg and returns the authenticator.
func New(cfg Config) (*Authenticator, error) {
	if cfg.Key == nil || cfg.Source == nil || cfg.ClientCAs == nil {
		return nil, errors.New("authn: Key, Source and ClientCAs are required")
	}
	if cfg.Issuer == "" {
		cfg.Issuer = DefaultIssuer
	}
	if len(cfg.Audiences) == 0 {
		cfg.Audiences = []string{cfg.Issuer}
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	s, err := newSigner(cfg.Key)
	if err != nil {
		return nil, err
	}
	return &Authenticator{
		cfg:     cfg,
		signer:  s,
		certs:   newCache[*certUser](),
		tokens:  newCache[*claims](),
		lookups: admission.Lookup{Source: cfg.Source, Live: cfg.Live},
		uses:    make(chan types.NamespacedName, maxUses),
	}, nil
}

var anonymous = &authenticator.Response{User: &user.DefaultInfo{
	Name: user.Anonymous, Groups: []string{user.AllUnauthenticated},
}}

// AuthenticateRequest returns the user of req. It removes the credentials
// from the headers, so that they do not travel on with a proxied request.
func (a *Authenticator) AuthenticateRequest(req *http.Request) (*authenticator.Response, bool, error) {
	if resp := a.frontProxy(req); resp != nil {
		return resp, true, nil
	}
	resp, certErr := a.certificate(req)
	if resp != nil {
		return resp, true, nil
	}
	resp, tokenErr := a.bearer(req)
	if resp != nil {
		return resp, true, nil
	}
	resp, protocolErr := a.webSocket(req)
	if resp != nil {
		return resp, true, nil
	}
	if err := errors.Join(certErr, tokenErr, protocolErr); err != nil {
		return nil, false, err
	}
	return anonymous, true, nil
}

// response is for u, which it adds to the group of those who are known. It is
// made once per credential and shared by its requests: nobody may change it.
func (a *Authenticator) response(u user.Info) *authenticator.Response {
	return &authenticator.Response{User: withAuthenticated(u), Audiences: a.cfg.Audiences}
}

// withAuthenticated adds the group of everybody who is known.
func withAuthenticated(u user.Info) user.Info {
	groups := u.GetGroups()
	if u.GetName() == user.Anonymous || slices.Contains(groups, user.AllAuthenticated) || slices.Contains(groups, user.AllUnauthenticated) {
		return u
	}
	return &user.DefaultInfo{
		Name:   u.GetName(),
		UID:    u.GetUID(),
		Groups: append(slices.Clip(slices.Clone(groups)), user.AllAuthenticated),
		Extra:  u.GetExtra(),
	}
}

// object reads what a token is bound to; nil when it is not there.
func (a *Authenticator) object(ctx context.Context, resource, namespace, name string) api.Object {
	obj, ok := a.lookups.Get(ctx, schema.GroupResource{Resource: resource}, namespace, name)
	if !ok {
		return nil
	}
	return obj
}
