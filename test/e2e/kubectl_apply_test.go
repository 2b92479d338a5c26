package e2e

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// file writes a manifest into a file.
func file(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "manifest.yaml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// paused is a Deployment that runs nothing, for what needs only its object.
const paused = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: d, labels: {set: one}}
spec:
  replicas: 0
  selector: {matchLabels: {app: d}}
  template:
    metadata: {labels: {app: d}}
    spec: {containers: [{name: c, image: one, ports: [{containerPort: 80}]}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: extra, labels: {set: one}}
data: {a: b}
`

func TestKubectlApply(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	one := file(t, paused)
	two := file(t, strings.Replace(paused, "image: one", "image: two", 1))
	check := func(want string, args ...string) {
		t.Helper()
		if got := e.kubectl(args...); !regexp.MustCompile(want).MatchString(got) {
			t.Errorf("kubectl %v: does not match %q:\n%s", args, want, got)
		}
	}
	check(`^deployment.apps/d created \(server dry run\)\nconfigmap/extra created \(server dry run\)$`, "apply", "-f", one, "--dry-run=server")
	check(`^deployment.apps/d created\nconfigmap/extra created$`, "apply", "-f", one)
	check(`^deployment.apps/d unchanged\nconfigmap/extra unchanged$`, "apply", "-f", one)
	check(`^$`, "diff", "-f", one)
	if out, err := e.try("diff", "-f", two); err == nil || !strings.Contains(out, "-      - image: one\n+      - image: two") {
		t.Errorf("diff: %v: %s", err, out)
	}
	check(`^deployment.apps/d configured\nconfigmap/extra unchanged$`, "apply", "-f", two)
	check(`^two$`, "get", "deploy", "d", "-o", "jsonpath={..image}")
	check(`(?m)^ +- image: two$`, "apply", "view-last-applied", "deploy/d")
	check(`(?m)^configmap/extra pruned$`, "apply", "--prune", "-l", "set=one", "--prune-allowlist=core/v1/ConfigMap", "-f", file(t, strings.Split(paused, "---")[0]))

	check(`^deployment.apps/d serverside-applied$`, "apply", "--server-side", "-f", file(t, strings.Split(paused, "---")[0]))
	e.fails(`Apply failed with 1 conflict: conflict with "kubectl": .spec.template.spec.containers[name="c"].image`,
		"apply", "--server-side", "--field-manager=other", "-f", two)
	check(`serverside-applied`, "apply", "--server-side", "--field-manager=other", "--force-conflicts", "-f", two)
	check(`^two other$`, "get", "deploy", "d", "--show-managed-fields", "-o",
		`jsonpath={..image} {.metadata.managedFields[?(@.manager=="other")].manager}`)
	e.until("the controller's status is its own", func() bool {
		return e.kubectl("get", "deploy", "d", "--show-managed-fields", "-o",
			`jsonpath={.metadata.managedFields[?(@.subresource=="status")].manager}`) == "kube-controller-manager"
	})
	e.kubectl("replace", "-f", two)
	if _, err := shared.Kubectl(context.WithoutCancel(t.Context()), strings.NewReader("kind: Nope\napiVersion: v1\nmetadata: {name: x}"),
		"-n", e.namespace, "apply", "--validate=false", "-f", "-"); err == nil || !strings.Contains(err.Error(), `no matches for kind "Nope" in version "v1"`) {
		t.Errorf("apply of an unknown kind: %v", err)
	}
	e.fails(`unknown field "spec.nope"`, "create", "-f", file(t, strings.Replace(paused, "replicas:", "nope: 1\n  replicas:", 1)))
}

func TestKubectlChange(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.apply(paused)
	is := func(path, want string) {
		t.Helper()
		if got := e.kubectl("get", "deploy", "d", "-o", "jsonpath="+path); got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
	e.kubectl("patch", "deploy", "d", "-p", `{"spec":{"template":{"spec":{"containers":[{"name":"c","env":[{"name":"A","value":"1"}]}]}}}}`)
	is("{..containers[*].image} {..env[*].name}", "one A")
	e.kubectl("patch", "deploy", "d", "--type=merge", "-p", `{"metadata":{"labels":{"x":"y","set":null}}}`)
	is("{.metadata.labels}", `{"x":"y"}`)
	e.kubectl("patch", "deploy", "d", "--type=json", "-p", `[{"op":"test","path":"/metadata/labels/x","value":"y"},{"op":"remove","path":"/metadata/labels/x"}]`)
	is("{.metadata.labels}", "")
	has(t, "an empty patch", e.kubectl("patch", "deploy", "d", "-p", "{}"), "deployment.apps/d patched (no change)")
	e.fails("the server rejected our request due to an error in our request", "patch", "deploy", "d", "--type=json", "-p", `[{"op":"remove","path":"/metadata/labels/x"}]`)
	e.fails("spec.replicas", "patch", "deploy", "d", "-p", `{"spec":{"replicas":"x"}}`)
	e.fails("(BadRequest)", "patch", "deploy", "d", "-p", `{"spec":`)
	e.fails("spec.selector: Invalid value", "patch", "deploy", "d", "--type=merge", "-p", `{"spec":{"selector":{"matchLabels":{"app":"other"}}}}`)

	e.kubectl("label", "deploy", "d", "a=b")
	e.fails("'a' already has a value (b), and --overwrite is false", "label", "deploy", "d", "a=c")
	e.kubectl("label", "deploy", "--all", "a=c", "--overwrite")
	is("{.metadata.labels.a}", "c")
	e.kubectl("label", "deploy", "d", "a-")
	e.fails("name part must consist of alphanumeric characters", "label", "deploy", "d", "bad key=1")
	e.kubectl("annotate", "deploy", "d", "note=1")
	is("{.metadata.annotations.note}", "1")

	e.kubectl("set", "image", "deploy/d", "c=three")
	e.kubectl("set", "env", "deploy/d", "B=2", "A-")
	e.kubectl("set", "resources", "deploy/d", "--limits=cpu=100m,memory=64Mi", "--requests=cpu=10m")
	is("{..image} {..env} {..resources.limits.memory}", `three [{"name":"B","value":"2"}] 64Mi`)
	e.kubectl("set", "serviceaccount", "deploy/d", "default")

	edit := func(script string) (string, error) {
		editor := file(t, "#!/bin/sh\n"+script)
		if err := os.Chmod(editor, 0o700); err != nil {
			t.Fatal(err)
		}
		cmd := e.command("edit", "deploy", "d")
		cmd.Env = append(cmd.Env, "KUBE_EDITOR="+editor)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := edit(`sed -i 's/image: three/image: four/' "$1"`); err != nil || !strings.Contains(out, "deployment.apps/d edited") {
		t.Errorf("edit: %v: %s", err, out)
	}
	is("{..image}", "four")
	if out, err := edit("true"); err != nil || !strings.Contains(out, "Edit cancelled, no changes made.") {
		t.Errorf("an edit that changes nothing: %v: %s", err, out)
	}
	// The editor is opened again with the reason; it leaves the file as it is.
	if out, err := edit(`grep -q 'containerPort: 808080' "$1" || sed -i 's/containerPort: 80$/containerPort: 808080/' "$1"`); err == nil ||
		!strings.Contains(out, `deployments.apps "d" was not valid`) && !strings.Contains(out, "is invalid") {
		t.Errorf("an invalid edit: %v: %s", err, out)
	}

	e.kubectl("scale", "deploy", "d", "--replicas=0", "--current-replicas=0")
	e.fails("Expected replicas to be 5, was 0", "scale", "deploy", "d", "--replicas=1", "--current-replicas=5")
	has(t, "expose", e.kubectl("expose", "deploy", "d", "--port=80", "--type=NodePort"), "service/d exposed")
	has(t, "its Service", e.kubectl("get", "svc", "d"), "NodePort", "80:3")
	e.kubectl("create", "configmap", "c", "--from-literal=a=b", "--from-file="+file(t, "text"))
	has(t, "describe configmap", e.kubectl("describe", "cm", "c"), "a:\n----\nb\n", "manifest.yaml:\n----\ntext\n")
	e.kubectl("create", "secret", "generic", "s", "--from-literal=a=b")
	has(t, "describe secret", e.kubectl("describe", "secret", "s"), "a:  1 bytes")
	e.fails(`deployments.apps "d" already exists`, "create", "deployment", "d", "--image=x")
}

func TestKubectlAuth(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	bot := "--as=system:serviceaccount:" + e.namespace + ":bot"
	e.kubectl("create", "serviceaccount", "bot")
	e.kubectl("create", "role", "reader", "--verb=get,list", "--resource=pods")
	if out, err := e.try("auth", "can-i", "list", "pods", bot); err == nil || strings.TrimSpace(out) != "no" {
		t.Errorf("can-i before the binding: %q, %v", out, err)
	}
	e.kubectl("create", "rolebinding", "bots", "--role=reader", "--serviceaccount="+e.namespace+":bot")
	e.until("the binding counts", func() bool {
		out, err := e.try("auth", "can-i", "list", "pods", bot)
		return err == nil && strings.TrimSpace(out) == "yes"
	})
	has(t, "can-i --list", e.kubectl("auth", "can-i", "--list", bot), "pods", "[get list]", "selfsubjectreviews.authentication.k8s.io")
	e.fails(`deployments.apps is forbidden: User "system:serviceaccount:`+e.namespace+`:bot" cannot list resource "deployments" in API group "apps" in the namespace "`+e.namespace+`"`,
		"get", "deploy", bot)
	e.fails("at the cluster scope", "get", "nodes", bot)
	more := file(t, `
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader, namespace: `+e.namespace+`}
rules: [{apiGroups: [""], resources: [configmaps], verbs: [get]}]
`)
	has(t, "auth reconcile", e.kubectl("auth", "reconcile", "-f", more), "reconciled")
	e.until("the added rule counts and the old one still does", func() bool {
		_, added := e.try("auth", "can-i", "get", "configmaps", bot)
		_, old := e.try("auth", "can-i", "list", "pods", bot)
		return added == nil && old == nil
	})

	token := e.kubectl("create", "token", "bot", "--duration=10m")
	cmd := e.command("--token="+token, "auth", "whoami", "-o", "jsonpath={.status.userInfo.username} {.status.userInfo.groups}")
	cmd.Args = append(cmd.Args, "--kubeconfig=/dev/null", "--server=https://127.0.0.1:6443", "--insecure-skip-tls-verify")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	has(t, "whoami of a token", string(out), "system:serviceaccount:"+e.namespace+":bot", "system:authenticated")
}
