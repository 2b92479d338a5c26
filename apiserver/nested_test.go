package apiserver_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

// message wraps the bytes of a field.
func message(field protowire.Number, data ...[]byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, field, protowire.BytesType), slices.Concat(data...))
}

// nestedMessages are messages within messages, each in a field of the one around.
func nestedMessages(field protowire.Number, levels int) []byte {
	var backwards []byte
	for range levels {
		head := protowire.AppendVarint(protowire.AppendTag(nil, field, protowire.BytesType), uint64(len(backwards)))
		slices.Reverse(head)
		backwards = append(backwards, head...)
	}
	slices.Reverse(backwards)
	return backwards
}

// A request that is nested without end is refused. Those who read it would take
// all of a goroutine's stack, which ends the process.
func TestNestedMessages(t *testing.T) {
	f := start(t, nil)
	const proto = "Content-Type: application/vnd.kubernetes.protobuf"
	const definitions, review = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
	typed := func(apiVersion, kind string, body []byte) string {
		return "k8s\x00" + string(message(1, message(1, []byte(apiVersion)), message(2, []byte(kind)))) + string(message(2, body))
	}
	definition := func(levels int) string { // spec.versions[0].schema.openAPIV3Schema.not.not…
		return typed("apiextensions.k8s.io/v1", "CustomResourceDefinition", message(2, message(7, message(4, message(1, nestedMessages(28, levels))))))
	}
	for _, c := range []struct {
		name, method, path, body string
		code                     int
		message                  string
	}{
		{"a schema", "POST", definitions, definition(500_000), 400, "malformed message"},
		{"a schema that is only deep", "POST", definitions, definition(5_000), 422, "spec.group"},
		{"a schema sent as something else", "POST", review, definition(500_000), 400, "another type"},
		{"a schema sent as options", "DELETE", configMaps + "/none", definition(500_000), 400, "another type"},
		{"something else", "POST", configMaps, typed("v1", "Secret", message(1, message(1, []byte("x")))), 400, "another type"},
		{"something unknown", "POST", configMaps, typed("v9", "Thing", nil), 400, "no kind \"Thing\" is registered"},
		{"options of a group", "DELETE", configMaps + "/none", typed("apps/v1", "DeleteOptions", nil), 404, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if a := f.send(c.method, c.path, c.body, proto); a.code != c.code || !strings.Contains(a.text("message"), c.message) {
				t.Errorf("%d %.300s", a.code, a.body)
			}
		})
	}
}

// What is stored can be read again, with the owners of its fields, by whoever
// lists or watches it.
func TestNestedCustomResources(t *testing.T) {
	f := start(t, nil)
	f.expect(201, "POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", `{"metadata":{"name":"foos.example.com"},"spec":{"group":"example.com",`+
		`"names":{"plural":"foos","kind":"Foo"},"scope":"Namespaced","versions":[{"name":"v1","served":true,"storage":true,`+
		`"schema":{"openAPIV3Schema":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}]}}`)
	const foos = "/apis/example.com/v1/namespaces/default/foos"
	until(t, func(context.Context) (bool, error) { return f.send("GET", foos, "").code == 200, nil })
	foo := func(name string, levels int) string {
		return `{"apiVersion":"example.com/v1","kind":"Foo","metadata":{"name":"` + name + `"},"text":"` + strings.Repeat(`\"[{`, 10_000) + `",` +
			`"spec":` + strings.Repeat(`{"a":`, levels) + "1" + strings.Repeat("}", levels) + `}`
	}
	f.expect(201, "POST", foos, foo("flat", 10))
	f.expect(201, "POST", foos, foo("deep", 2_000))
	if a := f.expect(400, "POST", foos, foo("deeper", 9_995)); !strings.Contains(a.text("message"), "nested too deep") {
		t.Error(a.body)
	}
}
