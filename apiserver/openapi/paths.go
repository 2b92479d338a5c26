package openapi

import (
	"net/http"
	"reflect"
	"slices"
	"strings"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/kinds"
)

// swagger makes the whole version 2 document.
func (b *builder) swagger() object {
	d := &definitions{builder: b, made: map[string]object{}, shared: map[string]object{}}
	paths := object{}
	for _, k := range b.set.All {
		if b.elsewhere == nil || !b.elsewhere(k.GVK.GroupVersion()) {
			d.addPaths(k, paths)
		}
	}
	for _, r := range b.roots() {
		d.addRoot(r, paths)
	}
	return object{
		"swagger": "2.0", "info": info(), "paths": paths, "definitions": d.made, "parameters": d.shared,
		"securityDefinitions": object{"BearerToken": bearer()}, "security": []any{object{"BearerToken": []string{}}},
	}
}

// openapi makes the version 3 document of one group and version.
func (b *builder) openapi(gv schema.GroupVersion) object {
	return b.document(func(d *definitions, paths object) {
		for _, k := range b.set.All {
			if k.GVK.GroupVersion() == gv {
				d.addPaths(k, paths)
			}
		}
	})
}

// document makes a version 3 document of what fill adds.
func (b *builder) document(fill func(d *definitions, paths object)) object {
	d := &definitions{builder: b, v3: true, made: map[string]object{}}
	paths := object{}
	fill(d, paths)
	return object{"openapi": "3.0.0", "info": info(), "paths": paths, "components": object{
		"schemas": d.made, "securitySchemes": object{"BearerToken": bearer()},
	}}
}

func info() object { return object{"title": "Kubernetes", "version": kinds.Version().GitVersion} }

func bearer() object {
	return object{"type": "apiKey", "name": "authorization", "in": "header", "description": "Bearer Token authentication"}
}

// schemaOf is the schema of a kind's objects.
func (d *definitions) schemaOf(k *api.Kind, list bool) object {
	obj := runtime.Object(k.New())
	if _, custom := obj.(runtime.Unstructured); custom {
		return d.custom(k, list)
	}
	if list {
		obj = k.NewList()
	}
	return d.ref(reflect.TypeOf(obj))
}

// custom is the schema of a kind without a Go type: any fields.
func (d *definitions) custom(k *api.Kind, list bool) object {
	parts := strings.Split(k.GVK.Group, ".")
	slices.Reverse(parts)
	name := strings.Join(parts, ".") + "." + k.GVK.Version + "." + k.GVK.Kind
	gvk := k.GVK
	meta := d.ref(reflect.TypeFor[metav1.ObjectMeta]())
	if k.Schema != nil && !list {
		d.made[name] = k.Schema(d.v3)
		return d.refTo(name)
	}
	properties := object{"apiVersion": object{"type": "string"}, "kind": object{"type": "string"}, "metadata": meta}
	if list {
		item := d.custom(k, false)
		gvk = k.ListGVK()
		name = strings.TrimSuffix(name, k.GVK.Kind) + gvk.Kind
		properties["metadata"] = d.ref(reflect.TypeFor[metav1.ListMeta]())
		properties["items"] = object{"type": "array", "items": item}
	}
	s := object{"type": "object", "properties": properties, "x-kubernetes-group-version-kind": []any{gvkOf(gvk)}}
	if list {
		s["required"] = []string{"items"}
	} else {
		s["x-kubernetes-preserve-unknown-fields"] = true
	}
	d.made[name] = s
	return d.refTo(name)
}

// walk describes the paths of one kind.
type walk struct {
	*definitions
	paths  object
	kind   *api.Kind
	custom bool
	// base is what comes before the resource, fixed the parameters in it; one is
	// the path of an object.
	base  string
	fixed []parameter
	one   string
	// place and tag are of the group and version, noun what operations call the
	// kind.
	place, tag, noun string
	media, patches   []string
}

// addPaths describes every path of a kind.
func (d *definitions) addPaths(k *api.Kind, paths object) {
	w := &walk{definitions: d, paths: paths, kind: k, base: "/" + pathOf(k.GVK.GroupVersion()) + "/", noun: k.GVK.Kind, media: readMedia, patches: patchMedia}
	w.place, w.tag = place(k.GVK.GroupVersion())
	if _, w.custom = k.New().(runtime.Unstructured); w.custom {
		w.media, w.patches = customMedia, customPatchMedia
	} else {
		d.addRoot(resourcesRoot(k.GVK.GroupVersion()), paths)
	}
	everywhere := w.base + k.Resource
	watches := w.base + "watch/"
	if k.Namespaced {
		w.base += "namespaces/{namespace}/"
		w.fixed = []parameter{inNamespace}
		w.noun = "Namespaced" + w.noun
	}
	collection := w.base + k.Resource
	w.one = collection + "/{name}"
	verbs := k.Verbs
	if verbs == nil {
		verbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}
	}
	has := func(v string) bool { return slices.Contains(verbs, v) }
	if has("list") && k.Namespaced {
		d.addPath(paths, everywhere, nil, []operation{w.list(has("watch"), k.GVK.Kind+"ForAllNamespaces")})
	}
	d.addPath(paths, collection, w.fixed, w.many(has))
	self := d.schemaOf(k, false)
	w.object("", k.GVK, self, has)
	if has("watch") && !w.custom {
		w.watches(watches, everywhere, collection)
	}
	always := func(v string) bool { return v == "get" || v == "update" || v == "patch" }
	if k.Status != nil {
		w.object("status", k.GVK, self, always)
	}
	if k.Scale != nil {
		gvk := autoscalingv1.SchemeGroupVersion.WithKind("Scale")
		if w.custom {
			gvk = k.GVK
		}
		w.object("scale", gvk, d.ref(reflect.TypeFor[autoscalingv1.Scale]()), always)
	}
	for i := range k.Subresources {
		w.subresource(&k.Subresources[i], self)
	}
}

// operation begins one; id is its name behind the group and version.
func (w *walk) operation(verb, action, prefix, id, text string, answer object) operation {
	consumes := anyMedia
	if w.custom {
		consumes = customMedia
	}
	return operation{
		verb: verb, action: action, id: prefix + w.place + id, tag: w.tag, text: text, kind: w.kind.GVK,
		query: []parameter{queryPretty}, answer: answer, consumes: consumes, produces: w.media,
	}
}

func (w *walk) list(watch bool, id string) operation {
	text := "list objects of kind "
	if watch && !w.custom {
		text = "list or watch objects of kind "
	}
	o := w.operation("get", "list", "list", id, text+w.kind.GVK.Kind, w.schemaOf(w.kind, true))
	o.query = append(o.query, parametersOf(metav1.ListOptions{})...)
	if !w.custom {
		o.produces = listMedia
	}
	return o
}

// many are the operations on a collection.
func (w *walk) many(has func(string) bool) []operation {
	var out []operation
	kind := w.kind.GVK.Kind
	if has("list") {
		out = append(out, w.list(has("watch"), w.noun))
	}
	if has("create") {
		out = append(out, w.create("", w.kind.GVK, w.schemaOf(w.kind, false)))
	}
	if has("deletecollection") {
		o := w.operation("delete", "deletecollection", "delete", "Collection"+w.noun, "delete collection of "+kind, w.ref(reflect.TypeFor[metav1.Status]()))
		o.query = append(o.query, parametersOf(metav1.DeleteOptions{})...)
		o.query = append(o.query, parametersOf(metav1.ListOptions{}, "watch", "allowWatchBookmarks")...)
		o.body, o.optional = w.ref(reflect.TypeFor[metav1.DeleteOptions]()), true
		out = append(out, o)
	}
	return out
}

// create posts an object, or what a subresource takes.
func (w *walk) create(sub string, gvk schema.GroupVersionKind, self object) operation {
	kind, of := w.kind.GVK.Kind, ""
	if sub != "" {
		of = " " + sub + " of"
	}
	o := w.operation("post", "post", "create", w.noun+title(sub), "create"+of+article(kind)+kind, self)
	o.query = append(o.query, parametersOf(metav1.CreateOptions{})...)
	o.body, o.kind, o.also = self, gvk, []int{http.StatusCreated, http.StatusAccepted}
	return o
}

// object adds the path of one object, or of a subresource that is read and
// changed as objects are.
func (w *walk) object(sub string, gvk schema.GroupVersionKind, self object, has func(string) bool) {
	kind, path, of, id := w.kind.GVK.Kind, w.one, "", w.noun+title(sub)
	if sub != "" {
		path, of = path+"/"+sub, sub+" of "
	}
	var ops []operation
	if has("get") {
		o := w.operation("get", "get", "read", id, "read "+of+"the specified "+kind, self)
		if w.custom {
			o.query = append(o.query, parametersOf(metav1.GetOptions{})...)
		}
		ops = append(ops, o)
	}
	if has("update") {
		o := w.operation("put", "put", "replace", id, "replace "+of+"the specified "+kind, self)
		o.query = append(o.query, parametersOf(metav1.UpdateOptions{})...)
		o.body, o.also = self, []int{http.StatusCreated}
		ops = append(ops, o)
	}
	if has("patch") {
		o := w.operation("patch", "patch", "patch", id, "partially update "+of+"the specified "+kind, self)
		o.query = append(o.query, parametersOf(metav1.PatchOptions{})...)
		o.body, o.consumes, o.also = w.ref(reflect.TypeFor[metav1.Patch]()), w.patches, []int{http.StatusCreated}
		ops = append(ops, o)
	}
	if has("delete") {
		answer := w.ref(reflect.TypeFor[metav1.Status]())
		if w.kind.ReturnDeleted {
			answer = self
		}
		o := w.operation("delete", "delete", "delete", id, "delete"+article(kind)+kind, answer)
		o.query = append(o.query, parametersOf(metav1.DeleteOptions{})...)
		o.body, o.optional, o.also = w.ref(reflect.TypeFor[metav1.DeleteOptions]()), true, []int{http.StatusAccepted}
		ops = append(ops, o)
	}
	for i := range ops {
		ops[i].kind = gvk
	}
	w.addPath(w.paths, path, w.inOne(gvk.Kind), ops)
}

// inOne are the parameters in the path of one object.
func (w *walk) inOne(kind string) []parameter { return append(slices.Clone(w.fixed), named(kind)) }

// watches adds the paths of watches as they were before lists could watch.
func (w *walk) watches(base, everywhere, collection string) {
	kind := w.kind.GVK.Kind
	root := strings.TrimSuffix(base, "watch/")
	watch := func(action, id, text string) []operation {
		o := w.operation("get", action, "watch", id, text, w.ref(reflect.TypeFor[metav1.WatchEvent]()))
		o.query, o.produces = append(o.query, parametersOf(metav1.ListOptions{})...), listMedia
		return []operation{o}
	}
	const instead = ". deprecated: use the 'watch' parameter with a list operation instead"
	list := "watch individual changes to a list of " + kind + instead + "."
	if w.kind.Namespaced {
		w.addPath(w.paths, base+strings.TrimPrefix(everywhere, root), nil, watch("watchlist", kind+"ListForAllNamespaces", list))
	}
	below := base + strings.TrimPrefix(collection, root)
	w.addPath(w.paths, below, w.fixed, watch("watchlist", w.noun+"List", list))
	w.addPath(w.paths, below+"/{name}", w.inOne(kind), watch("watch", w.noun,
		"watch changes to an object of kind "+kind+instead+", filtered to a single item with the 'fieldSelector' parameter."))
}

// subresource adds the paths of a subresource other than status and scale.
func (w *walk) subresource(s *api.Subresource, self object) {
	text := object{"type": "string"}
	path := w.one + "/" + s.Name
	switch {
	case s.Body != nil:
		o := w.create(s.Name, s.GVK, w.ref(reflect.TypeOf(s.Body.New())))
		w.addPath(w.paths, path, w.inOne(s.GVK.Kind), []operation{o})
	case s.Update != nil:
		w.object(s.Name, s.GVK, self, func(v string) bool { return slices.Contains(s.Verbs, v) })
	case s.Name == "log":
		o := w.operation("get", "get", "read", w.noun+title(s.Name), "read log of the specified "+s.GVK.Kind, text)
		o.query, o.produces = append(o.query, parametersOf(corev1.PodLogOptions{})...), logMedia
		w.addPath(w.paths, path, w.inOne(s.GVK.Kind), []operation{o})
	default:
		methods := []string{"get", "post"}
		if s.Name == "proxy" {
			methods = []string{"delete", "get", "head", "options", "patch", "post", "put"}
			w.addPath(w.paths, path+"/{path}", append(w.inOne(s.GVK.Kind), belowProxy), w.connect(s, methods, "WithPath"))
		}
		w.addPath(w.paths, path, w.inOne(s.GVK.Kind), w.connect(s, methods, ""))
	}
}

// connect are the operations that lead on to a node, a pod or a Service.
func (w *walk) connect(s *api.Subresource, methods []string, suffix string) []operation {
	var query []parameter
	switch s.Name {
	case "exec":
		query = parametersOf(corev1.PodExecOptions{})
	case "attach":
		query = parametersOf(corev1.PodAttachOptions{})
	case "portforward":
		query = parametersOf(corev1.PodPortForwardOptions{})
	case "proxy":
		query = parametersOf(corev1.PodProxyOptions{})
	}
	var out []operation
	for _, m := range methods {
		o := w.operation(m, "connect", "connect", title(m)+w.noun+title(s.Name)+suffix,
			"connect "+strings.ToUpper(m)+" requests to "+s.Name+" of "+w.kind.GVK.Kind, object{"type": "string"})
		o.kind, o.query, o.produces = s.GVK, query, anyMedia
		out = append(out, o)
	}
	return out
}

// article is the one before a kind, with spaces.
func article(kind string) string {
	if strings.HasSuffix(kind, "s") && !strings.HasSuffix(kind, "ss") {
		return " " // Endpoints
	}
	if strings.ContainsRune("AEIOU", rune(kind[0])) {
		return " an "
	}
	return " a "
}
