package authn

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
)

// The headers in which a front proxy names its user.
const (
	headerUser        = "X-Remote-User"
	headerUID         = "X-Remote-Uid"
	headerGroup       = "X-Remote-Group"
	headerExtraPrefix = "X-Remote-Extra-"
)

// frontProxy authenticates by headers, when the client's certificate is a
// front proxy's. A client that only claims to be one is not an error: it may
// have a credential of its own.
func (a *Authenticator) frontProxy(req *http.Request) *authenticator.Response {
	if a.cfg.FrontProxyCAs == nil || req.Header.Get(headerUser) == "" ||
		req.TLS == nil || len(req.TLS.PeerCertificates) == 0 {
		return nil
	}
	peers := req.TLS.PeerCertificates
	if _, err := verifyClient(peers, a.cfg.FrontProxyCAs, a.cfg.Clock.Now()); err != nil {
		return nil
	}
	if names := a.cfg.FrontProxyNames; len(names) > 0 && !slices.Contains(names, peers[0].Subject.CommonName) {
		return nil
	}
	u := &user.DefaultInfo{
		Name:   req.Header.Get(headerUser),
		UID:    req.Header.Get(headerUID),
		Groups: slices.Clone(req.Header.Values(headerGroup)),
	}
	for name, values := range req.Header {
		key, ok := strings.CutPrefix(http.CanonicalHeaderKey(name), headerExtraPrefix)
		if !ok {
			continue
		}
		key = strings.ToLower(key)
		if plain, err := url.PathUnescape(key); err == nil {
			key = plain
		}
		if u.Extra == nil {
			u.Extra = map[string][]string{}
		}
		u.Extra[key] = append(u.Extra[key], values...)
		delete(req.Header, name)
	}
	for _, h := range []string{headerUser, headerUID, headerGroup} {
		req.Header.Del(h)
	}
	return a.response(u)
}
