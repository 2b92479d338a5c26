package apiserver

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/proa-dev/proa/apiserver/registry"
)

const extraPrefix = "Impersonate-Extra-"

func hasImpersonation(h http.Header) bool {
	if h.Get("Impersonate-Uid") != "" || len(h["Impersonate-Group"]) > 0 {
		return true
	}
	for name := range h {
		if strings.HasPrefix(name, extraPrefix) {
			return true
		}
	}
	return false
}

// impersonate returns the user that the headers name if u may act as them:
// each part of the identity is a permission of its own.
func (s *Server) impersonate(ctx context.Context, h http.Header, u user.Info) (user.Info, error) {
	out := &user.DefaultInfo{Name: h.Get("Impersonate-User"), UID: h.Get("Impersonate-Uid"), Groups: slices.Clone(h["Impersonate-Group"])}
	if out.Name == "" {
		return nil, apierrors.NewInternalError(errors.New("requested impersonation of groups, uid or extra without impersonating a user"))
	}
	may := func(a authorizer.AttributesRecord) error {
		a.User, a.Verb, a.ResourceRequest = u, "impersonate", true
		return registry.Authorize(ctx, s.cfg.Authorizer, a)
	}
	namespace, account, err := serviceaccount.SplitUsername(out.Name)
	if err == nil {
		if err := may(authorizer.AttributesRecord{APIVersion: "v1", Resource: "serviceaccounts", Namespace: namespace, Name: account}); err != nil {
			return nil, err
		}
		if len(out.Groups) == 0 {
			out.Groups = serviceaccount.MakeGroupNames(namespace)
		}
	} else if err := may(authorizer.AttributesRecord{APIVersion: "v1", Resource: "users", Name: out.Name}); err != nil {
		return nil, err
	}
	for _, g := range h["Impersonate-Group"] {
		if err := may(authorizer.AttributesRecord{APIVersion: "v1", Resource: "groups", Name: g}); err != nil {
			return nil, err
		}
	}
	if out.UID != "" {
		if err := may(authorizer.AttributesRecord{APIGroup: "authentication.k8s.io", APIVersion: "v1", Resource: "uids", Name: out.UID}); err != nil {
			return nil, err
		}
	}
	for name, values := range h {
		rest, ok := strings.CutPrefix(name, extraPrefix)
		if !ok {
			continue
		}
		key := strings.ToLower(rest)
		if plain, err := url.PathUnescape(key); err == nil {
			key = plain
		}
		for _, v := range values {
			if err := may(authorizer.AttributesRecord{APIGroup: "authentication.k8s.io", APIVersion: "v1", Resource: "userextras", Subresource: key, Name: v}); err != nil {
				return nil, err
			}
		}
		if out.Extra == nil {
			out.Extra = map[string][]string{}
		}
		out.Extra[key] = slices.Clone(values)
	}
	switch {
	case out.Name == user.Anonymous:
		if !slices.Contains(out.Groups, user.AllUnauthenticated) {
			out.Groups = append(out.Groups, user.AllUnauthenticated)
		}
	case !slices.Contains(out.Groups, user.AllAuthenticated) && !slices.Contains(out.Groups, user.AllUnauthenticated):
		out.Groups = append(out.Groups, user.AllAuthenticated)
	}
	for name := range h {
		if strings.HasPrefix(name, "Impersonate-") {
			h.Del(name)
		}
	}
	return out, nil
}
