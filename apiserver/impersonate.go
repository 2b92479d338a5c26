package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/proa-dev/proa/apiserver/registry"
)

const (
	impersonatePrefix = "Impersonate-"
	extraPrefix       = impersonatePrefix + "Extra-"
	nodePrefix        = "system:node:"
)

// impersonation is a way to act as somebody else. A constrained one (KEP-5284)
// takes two permissions: to be that user, and to do what the request does while
// being somebody of that sort.
type impersonation struct {
	// mode is part of the verbs of a constrained way; empty for the old way,
	// which gives all that the user may do.
	mode string
	// fits says whether the way leads to such a user at all.
	fits func(wanted *user.DefaultInfo, requester user.Info) bool
	// own makes the requester the same one on every node, so that what it may do
	// holds for the node that it runs on, whichever that is.
	own bool
}

// impersonations are all ways, the narrowest first.
func impersonations() []impersonation {
	return []impersonation{
		{mode: "associated-node", own: true, fits: func(wanted *user.DefaultInfo, requester user.Info) bool {
			node, ok := nodeNamed(wanted.Name)
			_, _, err := serviceaccount.SplitUsername(requester.GetName())
			return ok && err == nil && nameAlone(wanted) && slices.Equal(requester.GetExtra()[serviceaccount.NodeNameKey], []string{node})
		}},
		{mode: "arbitrary-node", fits: func(wanted *user.DefaultInfo, _ user.Info) bool {
			_, ok := nodeNamed(wanted.Name)
			return ok && nameAlone(wanted)
		}},
		{mode: "serviceaccount", fits: func(wanted *user.DefaultInfo, _ user.Info) bool {
			_, _, err := serviceaccount.SplitUsername(wanted.Name)
			return err == nil && nameAlone(wanted)
		}},
		{mode: "user-info", fits: func(wanted *user.DefaultInfo, _ user.Info) bool {
			_, node := nodeNamed(wanted.Name)
			_, _, err := serviceaccount.SplitUsername(wanted.Name)
			return !node && err != nil
		}},
		{fits: func(*user.DefaultInfo, user.Info) bool { return true }},
	}
}

func nodeNamed(name string) (node string, ok bool) {
	node, ok = strings.CutPrefix(name, nodePrefix)
	return node, ok && len(validation.NameIsDNSSubdomain(node, false)) == 0
}

func nameAlone(u *user.DefaultInfo) bool {
	return u.UID == "" && len(u.Groups) == 0 && len(u.Extra) == 0
}

func impersonates(h http.Header) bool {
	for name := range h {
		if strings.HasPrefix(name, impersonatePrefix) {
			return true
		}
	}
	return false
}

// impersonate returns the user that the headers name if the requester may act as
// them, by one way or another, and takes the headers away. request is what is to
// be done.
func (s *Server) impersonate(ctx context.Context, h http.Header, request authorizer.AttributesRecord) (user.Info, error) {
	wanted, err := wantedUser(h)
	if err != nil {
		return nil, err
	}
	if wanted == nil {
		return request.User, nil
	}
	for name := range h {
		if strings.HasPrefix(name, impersonatePrefix) {
			h.Del(name)
		}
	}
	var first error
	for _, way := range impersonations() {
		if !way.fits(wanted, request.User) {
			continue
		}
		u, err := s.become(ctx, way, *wanted, request)
		if err == nil {
			return u, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

// wantedUser reads the headers; nil if they are empty.
func wantedUser(h http.Header) (*user.DefaultInfo, error) {
	u := &user.DefaultInfo{
		Name: h.Get(authenticationv1.ImpersonateUserHeader), UID: h.Get(authenticationv1.ImpersonateUIDHeader),
		Groups: slices.Clone(h[authenticationv1.ImpersonateGroupHeader]),
	}
	for name, values := range h {
		key, ok := strings.CutPrefix(name, extraPrefix)
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
	}
	switch {
	case u.Name != "":
		return u, nil
	case nameAlone(u):
		return nil, nil
	}
	return nil, apierrors.NewBadRequest(fmt.Sprintf("requested %#v without impersonating a user name", u))
}

// become checks one way to be the user that is wanted: each part of the
// identity is a permission of its own.
func (s *Server) become(ctx context.Context, way impersonation, u user.DefaultInfo, request authorizer.AttributesRecord) (user.Info, error) {
	verb, named := "impersonate", corev1.SchemeGroupVersion
	requester := request.User
	if way.own {
		requester = &user.DefaultInfo{Name: requester.GetName(), UID: requester.GetUID(), Groups: requester.GetGroups()}
	}
	if way.mode != "" {
		verb, named = "impersonate:"+way.mode, authenticationv1.SchemeGroupVersion
		on := request
		on.User, on.Verb = requester, "impersonate-on:"+way.mode+":"+request.Verb
		if err := registry.Authorize(ctx, s.cfg.Authorizer, on); err != nil {
			return nil, err
		}
	}
	may := func(gv schema.GroupVersion, resource, subresource, namespace, name string) error {
		return registry.Authorize(ctx, s.cfg.Authorizer, authorizer.AttributesRecord{
			User: requester, Verb: verb, APIGroup: gv.Group, APIVersion: gv.Version,
			Resource: resource, Subresource: subresource, Namespace: namespace, Name: name, ResourceRequest: true,
		})
	}
	groups := u.Groups
	resource, namespace, name := "users", "", u.Name
	if ns, account, err := serviceaccount.SplitUsername(u.Name); err == nil {
		resource, namespace, name = "serviceaccounts", ns, account
		if len(groups) == 0 {
			u.Groups = serviceaccount.MakeGroupNames(ns)
		}
	} else if node, ok := nodeNamed(u.Name); ok && way.mode != "" {
		resource, name, u.Groups = "nodes", node, []string{user.NodesGroup}
		if way.own {
			name = "*"
		}
	}
	if err := may(named, resource, "", namespace, name); err != nil {
		return nil, err
	}
	if way.mode != "" {
		if err := plausible(&u, groups); err != nil {
			return nil, err
		}
	}
	for _, g := range groups {
		if err := may(named, "groups", "", "", g); err != nil {
			return nil, err
		}
	}
	if u.UID != "" {
		if err := may(authenticationv1.SchemeGroupVersion, "uids", "", "", u.UID); err != nil {
			return nil, err
		}
	}
	for key, values := range u.Extra {
		for _, v := range values {
			if err := may(authenticationv1.SchemeGroupVersion, "userextras", key, "", v); err != nil {
				return nil, err
			}
		}
	}
	everybody := user.AllAuthenticated
	if u.Name == user.Anonymous {
		everybody = user.AllUnauthenticated
	}
	if !slices.Contains(u.Groups, everybody) && !slices.Contains(u.Groups, user.AllUnauthenticated) {
		u.Groups = append(slices.Clip(u.Groups), everybody)
	}
	return &u, nil
}

// plausible refuses what no constrained way leads to, whoever asks.
func plausible(u *user.DefaultInfo, groups []string) error {
	refuse := func(resource, name, text string) error {
		return apierrors.NewForbidden(schema.GroupResource{Group: authenticationv1.GroupName, Resource: resource}, name, errors.New(text))
	}
	switch {
	case slices.Contains(groups, ""):
		return refuse("groups", "", "impersonating the empty string group is not allowed")
	case slices.Contains(groups, user.SystemPrivilegedGroup):
		return refuse("groups", user.SystemPrivilegedGroup, "impersonating the system:masters group is not allowed")
	}
	for key, values := range u.Extra {
		errs := utilvalidation.IsDomainPrefixedPath(field.NewPath("extra", "key"), key)
		switch {
		case len(errs) > 0:
			return refuse("userextras", "", fmt.Sprintf("impersonating an invalid key in extra is not allowed: %v", errs.ToAggregate()))
		case key != strings.ToLower(key):
			return refuse("userextras", "", fmt.Sprintf("impersonating a non-lowercase key in extra is not allowed: %q", key))
		case len(values) == 0, slices.Contains(values, ""):
			return refuse("userextras", "", "impersonating the empty string value in extra is not allowed")
		}
	}
	return nil
}
