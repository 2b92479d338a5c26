package openapi

import (
	"reflect"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
)

// root is a path that is no resource's: discovery, and what programs ask a
// server about itself.
type root struct {
	path           string // without slashes around
	id, tag, text  string
	answer         reflect.Type // nil is a string
	reads, answers []string     // media
}

func resourcesRoot(gv schema.GroupVersion) root {
	name, tag := place(gv)
	return root{path: pathOf(gv), id: "get" + name + "APIResources", tag: tag, text: "get available resources",
		answer: reflect.TypeFor[metav1.APIResourceList](), reads: readMedia, answers: readMedia}
}

// roots are those besides the lists of resources, which stand with these.
func (b *builder) roots() []root {
	const available = "get available API versions"
	out := []root{
		{path: "api", id: "getCoreAPIVersions", tag: "core", text: available, answer: reflect.TypeFor[metav1.APIVersions](), reads: readMedia, answers: readMedia},
		{path: "apis", id: "getAPIVersions", tag: "apis", text: available, answer: reflect.TypeFor[metav1.APIGroupList](), reads: readMedia, answers: readMedia},
		{path: "version", id: "getCodeVersion", tag: "version", text: "get the version information for this server",
			answer: reflect.TypeFor[version.Info](), reads: readMedia[:1], answers: readMedia[:1]},
	}
	if b.tokens {
		out = append(out,
			root{path: ".well-known/openid-configuration", id: "getServiceAccountIssuerOpenIDConfiguration", tag: "WellKnown",
				text: "get service account issuer OpenID configuration, also known as the 'OIDC discovery doc'", answers: readMedia[:1]},
			root{path: "openid/v1/jwks", id: "getServiceAccountIssuerOpenIDKeyset", tag: "openid",
				text: "get service account issuer OpenID JSON Web Key Set (contains public token verification keys)", answers: []string{"application/jwk-set+json"}})
	}
	var groups []string
	for _, k := range b.set.All {
		_, custom := k.New().(runtime.Unstructured)
		if g := k.GVK.Group; g == "" || custom || slices.Contains(groups, g) || b.elsewhere != nil && b.elsewhere(k.GVK.GroupVersion()) {
			continue
		}
		groups = append(groups, k.GVK.Group)
		name, tag := place(schema.GroupVersion{Group: k.GVK.Group})
		out = append(out, root{path: "apis/" + k.GVK.Group, id: "get" + name + "APIGroup", tag: tag, text: "get information of a group",
			answer: reflect.TypeFor[metav1.APIGroup](), reads: readMedia, answers: readMedia})
	}
	return out
}

func (d *definitions) addRoot(r root, paths object) {
	path := "/" + r.path + "/"
	if paths[path] != nil {
		return // another kind of the group and version has added it
	}
	answer := object{"type": "string"}
	if r.answer != nil {
		answer = d.ref(r.answer)
	}
	d.addPath(paths, path, nil, []operation{{verb: "get", id: r.id, tag: r.tag, text: r.text, answer: answer, consumes: r.reads, produces: r.answers}})
}
