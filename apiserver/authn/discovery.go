package authn

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

// The paths at which others learn how to verify service account tokens.
const (
	DiscoveryPath = "/.well-known/openid-configuration"
	KeysPath      = "/openid/v1/jwks"
)

// Discovery serves the OpenID configuration and the public keys, by path.
// base is the URL of the API server that others reach, e.g.
// https://10.0.0.1:6443; empty means the issuer's.
func (a *Authenticator) Discovery(base string) (map[string]http.Handler, error) {
	if base == "" {
		base = a.cfg.Issuer
	}
	config, err := json.Marshal(struct {
		Issuer     string   `json:"issuer"`
		Keys       string   `json:"jwks_uri"`
		Responses  []string `json:"response_types_supported"`
		Subjects   []string `json:"subject_types_supported"`
		Algorithms []string `json:"id_token_signing_alg_values_supported"`
	}{
		Issuer:     a.cfg.Issuer,
		Keys:       strings.TrimSuffix(base, "/") + KeysPath,
		Responses:  []string{"id_token"},
		Subjects:   []string{"public"},
		Algorithms: []string{string(a.signer.alg)},
	})
	if err != nil {
		return nil, fmt.Errorf("encode OpenID configuration: %w", err)
	}
	keys, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{
		Key: a.signer.public, KeyID: a.signer.id, Algorithm: string(a.signer.alg), Use: "sig",
	}}})
	if err != nil {
		return nil, fmt.Errorf("encode public keys: %w", err)
	}
	return map[string]http.Handler{
		DiscoveryPath: document("application/json", config),
		KeysPath:      document("application/jwk-set+json", keys),
	}, nil
}

func document(contentType string, body []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Cache-Control", "public, max-age=3600")
		_, _ = w.Write(body) // the client has gone: nobody to tell
	})
}
