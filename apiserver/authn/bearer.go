package authn

import (
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
	"unicode/utf8"

	"k8s.io/apiserver/pkg/authentication/authenticator"
)

// maxToken bounds what is hashed and parsed of a stranger's request.
const maxToken = 64 << 10

var (
	errBadToken     = errors.New("invalid bearer token")
	errNotWebSocket = errors.New("missing additional subprotocol")
)

// bearer authenticates by the Authorization header.
func (a *Authenticator) bearer(req *http.Request) (*authenticator.Response, error) {
	header := strings.TrimSpace(req.Header.Get("Authorization"))
	scheme, token, ok := strings.Cut(header, " ")
	if !ok || !strings.EqualFold(scheme, "bearer") {
		return nil, nil
	}
	token, _, _ = strings.Cut(token, " ")
	if token == "" {
		return nil, nil
	}
	resp, err := a.token(req.Context(), token)
	if err != nil {
		return nil, err
	}
	req.Header.Del("Authorization")
	return resp, nil
}

const (
	protocolHeader = "Sec-WebSocket-Protocol"
	bearerProtocol = "base64url.bearer.authorization.k8s.io."
)

// webSocket authenticates by a subprotocol, the only header that a browser
// lets a script set. Exactly one must carry a token and another one must be
// left, since a server has to choose one that the client offered.
func (a *Authenticator) webSocket(req *http.Request) (*authenticator.Response, error) {
	if !strings.EqualFold(req.Header.Get("Upgrade"), "websocket") || !headerHas(req, "Connection", "upgrade") {
		return nil, nil
	}
	var token string
	var rest []string
	for _, line := range req.Header.Values(protocolHeader) {
		for protocol := range strings.SplitSeq(line, ",") {
			protocol = strings.TrimSpace(protocol)
			encoded, ok := strings.CutPrefix(protocol, bearerProtocol)
			if !ok {
				rest = append(rest, protocol)
				continue
			}
			if token != "" {
				return nil, errors.New("multiple base64.bearer.authorization tokens specified")
			}
			decoded, err := base64.RawURLEncoding.DecodeString(encoded)
			if err != nil || len(decoded) == 0 || !utf8.Valid(decoded) {
				return nil, errors.New("invalid base64.bearer.authorization token encoding")
			}
			token = string(decoded)
		}
	}
	if token == "" {
		return nil, nil
	}
	if len(rest) == 0 {
		return nil, errNotWebSocket
	}
	resp, err := a.token(req.Context(), token)
	if err != nil {
		return nil, err
	}
	req.Header.Set(protocolHeader, strings.Join(rest, ","))
	return resp, nil
}

func headerHas(req *http.Request, header, word string) bool {
	for _, line := range req.Header.Values(header) {
		for part := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(part), word) {
				return true
			}
		}
	}
	return false
}
