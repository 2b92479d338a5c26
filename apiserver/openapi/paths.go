package openapi

import (
	"reflect"
	"slices"
	"strings"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/kinds"
)

// swagger makes the whole version 2 document.
func (b *builder) swagger() object {
	d := &definitions{builder: b, made: map[string]object{}}
	paths := object{}
	for _, k := range b.set.All {
		if b.elsewhere == nil || !b.elsewhere(k.GVK.GroupVersion()) {
			d.addPaths(k, paths)
		}
	}
	return object{"swagger": "2.0", "info": info(), "paths": paths, "definitions": d.made}
}

// openapi makes the version 3 document of one group and version.
func (b *builder) openapi(gv schema.GroupVersion) object {
	d := &definitions{builder: b, v3: true, made: map[string]object{}}
	paths := object{}
	for _, k := range b.set.All {
		if k.GVK.GroupVersion() == gv {
			d.addPaths(k, paths)
		}
	}
	return object{"openapi": "3.0.0", "info": info(), "paths": paths, "components": object{"schemas": d.made}}
}

func info() object { return object{"title": "Kubernetes", "version": kinds.Version().GitVersion} }

// parameter is one parameter of an operation.
type parameter struct{ name, in, kind, text string }

var (
	queryPretty  = parameter{"pretty", "query", "string", "If 'true', then the output is pretty printed."}
	queryDryRun  = parameter{"dryRun", "query", "string", "When present, indicates that modifications should not be persisted. The only valid value is All."}
	queryManager = parameter{"fieldManager", "query", "string", "fieldManager is a name associated with the actor or entity that is making these changes."}
	queryFields  = parameter{"fieldValidation", "query", "string", "fieldValidation says what to do with unknown and duplicate fields: Ignore, Warn (default) or Strict."}
	queryForce   = parameter{"force", "query", "boolean", "Force is going to \"force\" Apply requests. It means user will re-acquire conflicting fields owned by other people."}
)

func listParameters() []parameter {
	return []parameter{
		{"allowWatchBookmarks", "query", "boolean", "allowWatchBookmarks requests watch events with type \"BOOKMARK\"."},
		{"continue", "query", "string", "The continue option should be set when retrieving more results from the server."},
		{"fieldSelector", "query", "string", "A selector to restrict the list of returned objects by their fields."},
		{"labelSelector", "query", "string", "A selector to restrict the list of returned objects by their labels."},
		{"limit", "query", "integer", "limit is a maximum number of responses to return for a list call."},
		{"resourceVersion", "query", "string", "resourceVersion sets a constraint on what resource versions a request may be served from."},
		{"resourceVersionMatch", "query", "string", "resourceVersionMatch determines how resourceVersion is applied to list calls."},
		{"sendInitialEvents", "query", "boolean", "sendInitialEvents=true may be set together with watch=true."},
		{"timeoutSeconds", "query", "integer", "Timeout for the list/watch call."},
		{"watch", "query", "boolean", "Watch for changes to the described resources and return them as a stream of add, update, and remove notifications."},
	}
}

func deleteParameters() []parameter {
	return []parameter{
		queryDryRun,
		{"gracePeriodSeconds", "query", "integer", "The duration in seconds before the object should be deleted."},
		{"orphanDependents", "query", "boolean", "Deprecated: use PropagationPolicy."},
		{"propagationPolicy", "query", "string", "Whether and how garbage collection will be performed."},
	}
}

// parameters writes parameters in the way of the document's version.
func (d *definitions) parameters(ps []parameter) []any {
	var out []any
	for _, p := range ps {
		o := object{"name": p.name, "in": p.in, "description": p.text}
		if p.in == "path" {
			o["required"] = true
		}
		if d.v3 {
			o["schema"] = object{"type": p.kind, "uniqueItems": true}
		} else {
			o["type"], o["uniqueItems"] = p.kind, true
		}
		out = append(out, o)
	}
	return out
}

// operation describes one verb on a path.
type operation struct {
	verb, action string // HTTP's and Kubernetes'
	query        []parameter
	body, answer object // schemas; a nil body is none
	consumes     []string
	kind         schema.GroupVersionKind
}

var (
	readMedia  = []string{"application/json", "application/yaml", "application/vnd.kubernetes.protobuf"}
	patchMedia = []string{"application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml"}
	// customPatchMedia are those for kinds without a Go type, which alone says how
	// lists merge. kubectl apply goes by it.
	customPatchMedia = slices.DeleteFunc(slices.Clone(patchMedia), func(m string) bool { return m == "application/strategic-merge-patch+json" })
)

func (d *definitions) operation(id string, o operation) object {
	out := object{
		"operationId":                     id,
		"x-kubernetes-action":             o.action,
		"x-kubernetes-group-version-kind": gvkOf(o.kind),
	}
	params := d.parameters(o.query)
	answer := object{"description": "OK"}
	if d.v3 {
		content := object{}
		for _, m := range readMedia {
			content[m] = object{"schema": o.answer}
		}
		answer["content"] = content
		if o.body != nil {
			request := object{}
			consumes := o.consumes
			if consumes == nil {
				consumes = []string{"*/*"}
			}
			for _, m := range consumes {
				request[m] = object{"schema": o.body}
			}
			out["requestBody"] = object{"content": request, "required": o.action != "delete" && o.action != "deletecollection"}
		}
	} else {
		answer["schema"] = o.answer
		out["produces"] = readMedia
		out["schemes"] = []string{"https"}
		out["consumes"] = []string{"*/*"}
		if o.consumes != nil {
			out["consumes"] = o.consumes
		}
		if o.body != nil {
			params = append(params, object{"name": "body", "in": "body", "schema": o.body, "required": o.action != "delete" && o.action != "deletecollection"})
		}
	}
	if len(params) > 0 {
		out["parameters"] = params
	}
	out["responses"] = object{"200": answer, "401": object{"description": "Unauthorized"}}
	return out
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

// addPaths describes every path of a kind.
func (d *definitions) addPaths(k *api.Kind, paths object) {
	base := "/" + pathOf(k.GVK.GroupVersion()) + "/"
	var fixed []parameter
	all := base + k.Resource
	if k.Namespaced {
		base += "namespaces/{namespace}/"
		fixed = append(fixed, parameter{"namespace", "path", "string", "object name and auth scope, such as for teams and projects"})
	}
	collection, one := base+k.Resource, base+k.Resource+"/{name}"
	named := append(slices.Clone(fixed), parameter{"name", "path", "string", "name of the " + k.GVK.Kind})
	verbs := k.Verbs
	if verbs == nil {
		verbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}
	}
	has := func(v string) bool { return slices.Contains(verbs, v) }
	self := d.schemaOf(k, false)
	status := d.ref(reflect.TypeFor[metav1.Status]())
	options := d.ref(reflect.TypeFor[metav1.DeleteOptions]())
	write := []parameter{queryDryRun, queryManager, queryFields}
	var many, single []operation
	if has("list") {
		list := operation{verb: "get", action: "list", query: listParameters(), answer: d.schemaOf(k, true)}
		many = append(many, list)
		if k.Namespaced {
			d.addPath(k, paths, all, "ForAllNamespaces", nil, []operation{list})
		}
	}
	if has("create") {
		many = append(many, operation{verb: "post", action: "post", query: write, body: self, answer: self})
	}
	if has("deletecollection") {
		many = append(many, operation{verb: "delete", action: "deletecollection", query: append(deleteParameters(), listParameters()[1:8]...), body: options, answer: status})
	}
	if has("get") {
		single = append(single, operation{verb: "get", action: "get", answer: self})
	}
	media := patchMedia
	if _, custom := k.New().(runtime.Unstructured); custom {
		media = customPatchMedia
	}
	single = append(single, d.changes(has, self, media)...)
	if has("delete") {
		single = append(single, operation{verb: "delete", action: "delete", query: deleteParameters(), body: options, answer: status})
	}
	d.addPath(k, paths, collection, "", fixed, many)
	d.addPath(k, paths, one, "", named, single)
	always := func(string) bool { return true }
	if k.Status != nil {
		get := operation{verb: "get", action: "get", answer: self}
		d.addPath(k, paths, one+"/status", "Status", named, append(d.changes(always, self, media), get))
	}
	if k.Scale != nil {
		scale := d.ref(reflect.TypeFor[autoscalingv1.Scale]())
		get := operation{verb: "get", action: "get", answer: scale}
		d.addPath(k, paths, one+"/scale", "Scale", named, append(d.changes(always, scale, media), get))
	}
}

// changes are the operations that change one object; media are those of patches.
func (d *definitions) changes(has func(string) bool, self object, media []string) []operation {
	write := []parameter{queryDryRun, queryManager, queryFields}
	var out []operation
	if has("update") {
		out = append(out, operation{verb: "put", action: "put", query: write, body: self, answer: self})
	}
	if has("patch") {
		patch := d.ref(reflect.TypeFor[metav1.Patch]())
		out = append(out, operation{verb: "patch", action: "patch", query: append(slices.Clone(write), queryForce), body: patch, answer: self, consumes: media})
	}
	return out
}

func (d *definitions) addPath(k *api.Kind, paths object, path, suffix string, fixed []parameter, ops []operation) {
	if len(ops) == 0 {
		return
	}
	item, _ := paths[path].(object)
	if item == nil {
		item = object{"parameters": d.parameters(append(slices.Clone(fixed), queryPretty))}
		paths[path] = item
	}
	for _, o := range ops {
		o.kind = k.GVK
		if suffix == "Scale" {
			o.kind = autoscalingv1.SchemeGroupVersion.WithKind("Scale")
		}
		item[o.verb] = d.operation(operationID(k, o.action, suffix), o)
	}
}

// operationID is a name that is unique in the document.
func operationID(k *api.Kind, action, suffix string) string {
	verb := map[string]string{"get": "read", "list": "list", "post": "create", "put": "replace", "patch": "patch", "delete": "delete", "deletecollection": "deleteCollection"}[action]
	group, _, _ := strings.Cut(k.GVK.Group, ".")
	if group == "" {
		group = "core"
	}
	out := verb + title(group) + title(k.GVK.Version)
	if k.Namespaced && suffix != "ForAllNamespaces" {
		out += "Namespaced"
	}
	return out + k.GVK.Kind + suffix
}

func title(s string) string { return strings.ToUpper(s[:1]) + s[1:] }
