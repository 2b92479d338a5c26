package openapi

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// parameter is one parameter of an operation.
type parameter struct{ name, in, kind, text string }

var (
	inNamespace = parameter{"namespace", "path", "string", "object name and auth scope, such as for teams and projects"}
	belowProxy  = parameter{"path", "path", "string", "path to the resource"}
	queryPretty = parameter{"pretty", "query", "string", "If 'true', then the output is pretty printed."}
)

// named is the name of an object in a path.
func named(kind string) parameter { return parameter{"name", "path", "string", "name of the " + kind} }

// parametersOf are those by which options come in a query.
func parametersOf(options interface{ SwaggerDoc() map[string]string }, without ...string) []parameter {
	var out []parameter
	t, docs := reflect.TypeOf(options), options.SwaggerDoc()
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		value := f.Type
		for value.Kind() == reflect.Pointer || value.Kind() == reflect.Slice {
			value = value.Elem()
		}
		var kind string
		switch value.Kind() {
		case reflect.String:
			kind = "string"
		case reflect.Bool:
			kind = "boolean"
		case reflect.Int32, reflect.Int64:
			kind = "integer"
		default:
			continue // a struct does not fit
		}
		if name != "" && !slices.Contains(without, name) {
			out = append(out, parameter{name, "query", kind, firstSentence(docs[name])})
		}
	}
	return out
}

// firstSentence is enough of a text that stands in every document.
func firstSentence(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	if head, _, more := strings.Cut(s, ". "); more {
		return head + "."
	}
	return s
}

// parameters writes parameters in the way of the document's version. In version
// 2 those of many operations stand there once, but for two by whose names kubectl
// learns what a server can do; it follows no references, and in version 3 nobody
// expects any.
func (d *definitions) parameters(ps []parameter) []any {
	ps = slices.SortedFunc(slices.Values(ps), func(a, b parameter) int {
		return cmp.Or(strings.Compare(a.name, b.name), strings.Compare(a.in, b.in))
	})
	var out []any
	for _, p := range ps {
		o := object{"name": p.name, "in": p.in, "description": p.text}
		if p.in == "path" {
			o["required"] = true
		}
		if d.v3 {
			o["schema"] = object{"type": p.kind, "uniqueItems": true}
			out = append(out, o)
			continue
		}
		o["type"], o["uniqueItems"] = p.kind, true
		switch p.name {
		case "name", "dryRun", "fieldValidation":
			out = append(out, o)
			continue
		}
		hash := fnv.New32a()
		_, _ = fmt.Fprint(hash, p) // never fails
		key := fmt.Sprintf("%s-%08x", p.name, hash.Sum32())
		d.shared[key] = o
		out = append(out, object{"$ref": "#/parameters/" + key})
	}
	return out
}

// operation describes one verb on a path.
type operation struct {
	verb, action       string // HTTP's and Kubernetes'
	id, tag, text      string
	query              []parameter
	body, answer       object // schemas; a nil body is none
	optional           bool   // the body
	also               []int  // what success answers with besides 200
	consumes, produces []string
	kind               schema.GroupVersionKind
}

var (
	anyMedia  = []string{"*/*"}
	readMedia = []string{"application/json", "application/yaml", "application/vnd.kubernetes.protobuf"}
	// customMedia are those of kinds without a Go type.
	customMedia = readMedia[:2:2]
	listMedia   = append(slices.Clone(readMedia), "application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch")
	logMedia    = append([]string{"text/plain"}, readMedia...)
	patchMedia  = []string{"application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml"}
	// customPatchMedia lack the patches for which a Go type says how lists merge.
	// kubectl apply goes by it.
	customPatchMedia = slices.DeleteFunc(slices.Clone(patchMedia), func(m string) bool { return m == "application/strategic-merge-patch+json" })
)

// ofMedia says that bodies of several types have one schema.
func ofMedia(media []string, schema object) object {
	out := object{}
	for _, m := range media {
		out[m] = object{"schema": schema}
	}
	return out
}

func (d *definitions) operation(o operation) object {
	out := object{"operationId": o.id, "description": o.text, "tags": []string{o.tag}}
	if o.action != "" {
		out["x-kubernetes-action"], out["x-kubernetes-group-version-kind"] = o.action, gvkOf(o.kind)
	}
	params := d.parameters(o.query)
	responses := object{"401": object{"description": "Unauthorized"}}
	for _, code := range append([]int{http.StatusOK}, o.also...) {
		answer := object{"description": http.StatusText(code)}
		if d.v3 {
			answer["content"] = ofMedia(o.produces, o.answer)
		} else {
			answer["schema"] = o.answer
		}
		responses[strconv.Itoa(code)] = answer
	}
	out["responses"] = responses
	if !d.v3 {
		out["schemes"], out["produces"] = []string{"https"}, o.produces
		if len(o.consumes) > 0 {
			out["consumes"] = o.consumes
		}
	}
	switch {
	case o.body == nil:
	case d.v3:
		request := object{"content": ofMedia(o.consumes, o.body)}
		if !o.optional {
			request["required"] = true
		}
		out["requestBody"] = request
	default:
		body := object{"name": "body", "in": "body", "schema": o.body}
		if !o.optional {
			body["required"] = true
		}
		params = append(params, body)
	}
	if len(params) > 0 {
		out["parameters"] = params
	}
	return out
}

// addPath adds a path. Parameters that all of its operations have are the
// path's.
func (d *definitions) addPath(paths object, path string, fixed []parameter, ops []operation) {
	if len(ops) == 0 {
		return
	}
	common := slices.DeleteFunc(slices.Clone(ops[0].query), func(p parameter) bool {
		return slices.ContainsFunc(ops, func(o operation) bool { return !slices.Contains(o.query, p) })
	})
	item := object{}
	if all := append(slices.Clone(fixed), common...); len(all) > 0 {
		item["parameters"] = d.parameters(all)
	}
	for _, o := range ops {
		o.query = slices.DeleteFunc(slices.Clone(o.query), func(p parameter) bool { return slices.Contains(common, p) })
		item[o.verb] = d.operation(o)
	}
	paths[path] = item
}

// word makes a part of an operation's name of s, by which clients are
// generated: rbac.authorization becomes rbacAuthorization.
func word(s string) string {
	var out strings.Builder
	up := false
	for i, r := range s {
		switch {
		case !unicode.IsLetter(r) && r != '_' && (i == 0 || !unicode.IsDigit(r)):
			up = true
			continue
		case up:
			r, up = unicode.ToUpper(r), false
		}
		out.WriteRune(r)
	}
	return out.String()
}

func title(s string) string {
	if s == "" {
		return ""
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// place names the group and version of a path: in operations, and as their tag.
func place(gv schema.GroupVersion) (name, tag string) {
	group := word(strings.TrimSuffix(cmp.Or(gv.Group, "core"), ".k8s.io"))
	if gv.Version == "" {
		return title(group), group
	}
	return title(group) + title(word(gv.Version)), group + "_" + word(gv.Version)
}
