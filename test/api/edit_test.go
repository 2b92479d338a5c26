package api

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// sloops have two versions of unlike rules.
const sloops = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: sloops.NAME.example.com}
spec:
  group: NAME.example.com
  scope: Namespaced
  names: {plural: sloops, singular: sloop, kind: Sloop}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {crew: {type: integer}, color: {type: string}}}, status: {type: object, properties: {afloat: {type: boolean}}}}}}
  - name: v2
    served: true
    storage: false
    subresources: {status: {}}
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {crew: {type: integer, maximum: 9}, color: {type: string}}}, status: {type: object, properties: {afloat: {type: boolean}}}}}}
`

// TestEditCustomResource opens custom resources in an editor.
func TestEditCustomResource(t *testing.T) {
	ns := namespace(t)
	group := ns + ".example.com"
	apply := func(manifest string) (string, error) {
		return world.Kubectl(t.Context(), strings.NewReader(strings.ReplaceAll(manifest, "NAME", ns)), "apply", "-f", "-")
	}
	if out, err := apply(sloops); err != nil {
		t.Fatal(out, err)
	}
	defer func() { // others look at all that is served
		if out, err := world.Kubectl(t.Context(), nil, "delete", "crd", "sloops."+group); err != nil {
			t.Error(out, err)
		}
		eventually(t, func() (bool, any) {
			_, err := world.kube.Discovery().ServerResourcesForGroupVersion(group + "/v1")
			return apierrors.IsNotFound(err), err
		})
	}()
	eventually(t, func() (bool, any) {
		out, err := apply("apiVersion: NAME.example.com/v1\nkind: Sloop\nmetadata: {name: s, namespace: NAME}\nspec: {crew: 3, color: red}\n")
		return err == nil, out
	})
	edit := func(what, script string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		dir := t.TempDir()
		editor, seen := filepath.Join(dir, "editor"), filepath.Join(dir, "seen")
		must(t, os.WriteFile(editor, []byte("#!/bin/sh\n"+script+"\ncp \"$1\" "+seen+"\n"), 0o700))
		cmd := world.KubectlCommand(ctx, "edit", "-n", ns, what, "s")
		cmd.Env = append(cmd.Env, "TMPDIR="+dir, "KUBE_EDITOR="+editor, "KUBECTL="+world.Program("kubectl")+" --kubeconfig "+world.Kubeconfig()+" -n "+ns)
		cmd.WaitDelay = time.Second
		out, _ := cmd.CombinedOutput() // it says what fails
		text, _ := os.ReadFile(seen)
		return string(out) + string(text)
	}
	for _, c := range []struct{ name, what, script, want, left string }{
		{"another version", "sloops.v2." + group, `sed -i 's/crew: 3$/crew: 5/' "$1"`, "/s edited", "red 5 2"},
		{"what that version refuses", "sloops.v2." + group, `sed -i 's/crew: 5$/crew: 50/' "$1"`, "# * spec.crew: Invalid value: 50: spec.crew in body should be less than or equal to 9", "red 5 2"},
		{"an unknown field", "sloops", `sed -i 's/crew: 5$/crow: 5/' "$1"`, `unknown field "spec.crow"`, "red 5 2"},
		{"another type", "sloops", `sed -i 's/crew: 5$/crew: many/' "$1"`, `must be of type integer: "string"`, "red 5 2"},
		{"what the other version refuses", "sloops.v1." + group, `sed -i 's/crew: 5$/crew: 50/' "$1"`, "/s edited", "red 50 3"},
		{"another field of what is refused now", "sloops.v2." + group, `sed -i 's/color: red/color: blue/' "$1"`, "/s edited", "blue 50 4"},
		{"while somebody changes another field", "sloops", `$KUBECTL patch sloop s --type merge -p '{"spec":{"crew":7}}'; sed -i 's/color: blue/color: green/' "$1"`, "/s edited", "green 7 6"},
		{"the version itself", "sloops.v1." + group, `sed -i 's,/v1$,/v2,' "$1"`, "At least one of apiVersion, kind and name was changed", "green 7 6"},
		{"what goes meanwhile", "sloops", `$KUBECTL delete sloop s; sed -i 's/color: green/color: pink/' "$1"`, "could not be found on the server", ""},
	} {
		if got := edit(c.what, c.script); !strings.Contains(got, c.want) {
			t.Errorf("%s: %s", c.name, got)
		}
		left, _ := world.Kubectl(t.Context(), nil, "get", "-n", ns, "sloop", "s", "--ignore-not-found", "-o", "jsonpath={.spec.color} {.spec.crew} {.metadata.generation}")
		if left != c.left {
			t.Errorf("%s: left %q, want %q", c.name, left, c.left)
		}
	}
}
