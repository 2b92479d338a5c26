package authn

import (
	"crypto"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"k8s.io/apiserver/pkg/authentication/authenticator"

	"github.com/proa-dev/proa/internal/certs"
)

// legacyIssuer signs tokens that live in secrets and never expire.
const legacyIssuer = "kubernetes/serviceaccount"

// claims is the body of a service account token, of either sort.
type claims struct {
	jwt.Claims
	Audience   audience     `json:"aud,omitempty"` // in place of the embedded one
	Kubernetes *boundClaims `json:"kubernetes.io,omitempty"`

	LegacyNamespace string `json:"kubernetes.io/serviceaccount/namespace,omitempty"`
	LegacySecret    string `json:"kubernetes.io/serviceaccount/secret.name,omitempty"`
	LegacyName      string `json:"kubernetes.io/serviceaccount/service-account.name,omitempty"`
	LegacyUID       string `json:"kubernetes.io/serviceaccount/service-account.uid,omitempty"`

	// resp is made once, when the signature has been verified.
	resp *authenticator.Response
}

// audience is always written as a list, as verifiers of Kubernetes tokens
// expect, and read in either form that the standard allows.
type audience []string

// UnmarshalJSON implements json.Unmarshaler.
func (a *audience) UnmarshalJSON(data []byte) error {
	return (*jwt.Audience)(a).UnmarshalJSON(data)
}

type boundClaims struct {
	Namespace      string           `json:"namespace,omitempty"`
	ServiceAccount ref              `json:"serviceaccount,omitempty"`
	Pod            *ref             `json:"pod,omitempty"`
	Secret         *ref             `json:"secret,omitempty"`
	Node           *ref             `json:"node,omitempty"`
	WarnAfter      *jwt.NumericDate `json:"warnafter,omitempty"`
}

type ref struct {
	Name string `json:"name,omitempty"`
	UID  string `json:"uid,omitempty"`
}

// signer signs and verifies tokens with one key.
type signer struct {
	key    jose.Signer
	public crypto.PublicKey
	id     string
	alg    jose.SignatureAlgorithm
}

func newSigner(key *certs.SigningKey) (*signer, error) {
	alg := jose.SignatureAlgorithm(key.Algorithm)
	s, err := jose.NewSigner(jose.SigningKey{
		Algorithm: alg,
		Key:       jose.JSONWebKey{Algorithm: key.Algorithm, Key: key.Private, KeyID: key.ID, Use: "sig"},
	}, nil)
	if err != nil {
		return nil, fmt.Errorf("service account key: %w", err)
	}
	return &signer{key: s, public: key.Private.Public(), id: key.ID, alg: alg}, nil
}

func (s *signer) sign(body any) (string, error) {
	return jwt.Signed(s.key).Claims(body).Serialize()
}

// verify checks the signature alone. Only the algorithm of our own key is
// accepted: neither "none" nor a MAC keyed with the public key gets through.
func (s *signer) verify(token string) (*claims, error) {
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{s.alg})
	if err != nil {
		return nil, err
	}
	c := &claims{}
	if err := parsed.Claims(s.public, c); err != nil {
		return nil, err
	}
	return c, nil
}

// expired returns why the token cannot be used now. Clocks may differ by a
// minute at the beginning, never at the end.
func (c *claims) expired(now time.Time) error {
	if c.Expiry != nil && !now.Before(c.Expiry.Time()) {
		return errExpired
	}
	if c.NotBefore != nil && now.Add(jwt.DefaultLeeway).Before(c.NotBefore.Time()) {
		return errNotYet
	}
	return nil
}
