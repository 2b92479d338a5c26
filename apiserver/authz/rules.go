package authz

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// question is a request's attributes, read once.
type question struct {
	verb, group, resource, subresource, name, path string
	isResource                                     bool
}

func newQuestion(a authorizer.Attributes) question {
	q := question{verb: a.GetVerb(), isResource: a.IsResourceRequest()}
	if !q.isResource {
		q.path = a.GetPath()
		return q
	}
	q.group, q.resource, q.subresource, q.name = a.GetAPIGroup(), a.GetResource(), a.GetSubresource(), a.GetName()
	return q
}

// allowedBy says whether one of rules grants q.
func (q *question) allowedBy(rules []rbacv1.PolicyRule) bool {
	for i := range rules {
		if q.granted(&rules[i]) {
			return true
		}
	}
	return false
}

func (q *question) granted(r *rbacv1.PolicyRule) bool {
	if !containsOrAll(r.Verbs, q.verb) {
		return false
	}
	if !q.isResource {
		return matchesPath(r.NonResourceURLs, q.path)
	}
	return containsOrAll(r.APIGroups, q.group) && q.matchesResource(r.Resources) &&
		(len(r.ResourceNames) == 0 || slices.Contains(r.ResourceNames, q.name))
}

func containsOrAll(list []string, s string) bool {
	for _, l := range list {
		if l == s || l == "*" {
			return true
		}
	}
	return false
}

// matchesResource compares with "pods", "pods/log", "*" (all, subresources
// too) and "*/scale" (that subresource of all).
func (q *question) matchesResource(resources []string) bool {
	for _, r := range resources {
		if r == "*" {
			return true
		}
		if q.subresource == "" {
			if r == q.resource {
				return true
			}
			continue
		}
		if len(r) <= len(q.subresource) || !strings.HasSuffix(r, q.subresource) {
			continue
		}
		rest := r[:len(r)-len(q.subresource)]
		if rest[len(rest)-1] != '/' {
			continue
		}
		if rest = rest[:len(rest)-1]; rest == q.resource || rest == "*" {
			return true
		}
	}
	return false
}

// matchesPath compares with paths, of which the last character may be a star.
func matchesPath(urls []string, path string) bool {
	for _, u := range urls {
		if u == "*" || u == path {
			return true
		}
		if prefix, ok := strings.CutSuffix(u, "*"); ok && strings.HasPrefix(path, prefix) {
			return true
		}
	}
	return false
}
