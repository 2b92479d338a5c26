package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// TestContainersThatFail runs what cannot run: kubectl must say why.
func TestContainersThatFail(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	for _, c := range []struct{ name, container, status, event string }{
		{"noimage", `image: "127.0.0.1:9/none:1"`, "ImagePullBackOff", `Failed to pull image "127.0.0.1:9/none:1"`},
		{"neverpull", `image: "127.0.0.1:9/none:1", imagePullPolicy: Never`, "ErrImageNeverPull", "is not present with pull policy of Never"},
		{"badimage", `image: "Not An Image"`, "InvalidImageName", "InspectFailed"},
		{"nocommand", `image: ` + busybox + `, command: [/nope]`, "RunContainerError|StartError|CrashLoopBackOff", "/nope: no such file or directory"},
		{"crash", `image: ` + busybox + `, command: [sh, -c, "exit 3"]`, "CrashLoopBackOff", "Back-off restarting failed container c in pod crash_"},
		{"noconfig", `image: ` + busybox + `, envFrom: [{configMapRef: {name: nope}}]`, "CreateContainerConfigError", `Error: configmap "nope" not found`},
		{"novolume", `image: ` + busybox + `, volumeMounts: [{name: v, mountPath: /v}]}], volumes: [{name: v, secret: {secretName: nope}`, "ContainerCreating", `MountVolume.SetUp failed for volume "v" : secret "nope" not found`},
		{"dead", `image: ` + busybox + `, command: [sleep, "86400"], livenessProbe: {exec: {command: [sleep, "86400"]}, timeoutSeconds: 1, periodSeconds: 1, failureThreshold: 1}`,
			"", "Container c failed liveness probe, will be restarted"},
		{"unready", `image: ` + busybox + `, command: [sleep, "86400"], readinessProbe: {httpGet: {port: 9999}, periodSeconds: 1}`, "0/1 +Running", "Readiness probe failed: Get "},
	} {
		e.apply("{apiVersion: v1, kind: Pod, metadata: {name: " + c.name + "}, spec: {terminationGracePeriodSeconds: 0, containers: [{name: c, " + c.container + "}]}}")
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			one := &env{t: t, namespace: e.namespace, client: e.client}
			status := regexp.MustCompile(c.status)
			one.until("the status is "+c.status, func() bool { return status.MatchString(one.kubectl("get", "pod", c.name)) })
			one.until("the events say "+c.event, func() bool { return strings.Contains(one.kubectl("describe", "pod", c.name), c.event) })
		})
	}
}

// TestRequestsThatFail sends what is not right to the API.
func TestRequestsThatFail(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	cfg, err := shared.REST()
	if err != nil {
		t.Fatal(err)
	}
	transport, err := rest.TransportFor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	e.kubectl("create", "configmap", "c")
	const js, root = "application/json", "/api/v1/namespaces/requeststhatfail/"
	for _, c := range []struct {
		method, path, content, body string
		code                        int
		message                     string
	}{
		{"POST", "pods", js, `{`, 400, "unexpected end of JSON input"},
		{"POST", "pods", js, `{}`, 422, `Pod "" is invalid: [metadata.name: Required value: name or generateName is required, spec.containers: Required value]`},
		{"POST", "pods", js, `{"kind":"Service","apiVersion":"v1"}`, 400, `Service in version "v1" cannot be handled as a Pod`},
		{"POST", "pods", "text/plain", `{}`, 415, "the body of the request was in an unknown format"},
		{"POST", "pods", "application/vnd.kubernetes.protobuf", "junk", 400, "does not appear to be a protobuf message"},
		{"POST", "pods?fieldValidation=Strict", js, `{"metadata":{"name":"x"},"spec":{"nope":1,"containers":[{"name":"c","image":"i","bogus":1}]}}`, 400,
			`strict decoding error: unknown field "spec.nope", unknown field "spec.containers[0].bogus"`},
		{"POST", "configmaps", js, `{"metadata":{"name":"deep","annotations":` + strings.Repeat("[", 20000), 400, "exceeded max depth"},
		{"POST", "configmaps", js, `{"metadata":{"name":"big"},"data":{"a":"` + strings.Repeat("a", 4<<20) + `"}}`, 413, "Request entity too large: limit is 3145728"},
		{"POST", "configmaps", js, `{"metadata":{"name":"big"},"data":{"a":"` + strings.Repeat("a", 2<<20) + `"}}`, 422, "Too long: may not be more than 1048576 bytes"},
		{"POST", "configmaps", js, `{"metadata":{"name":"c"}}`, 409, `configmaps "c" already exists`},
		{"PUT", "configmaps/c", js, `{"metadata":{"name":"c","resourceVersion":"1"}}`, 409, "the object has been modified; please apply your changes to the latest version and try again"},
		{"PUT", "configmaps/c", js, `{"metadata":{"name":"d"}}`, 400, "the name of the object (d) does not match the name on the URL (c)"},
		{"PATCH", "configmaps/c", js, `{}`, 415, "application/strategic-merge-patch+json"},
		{"DELETE", "configmaps/c", js, `{"preconditions":{"uid":"other"}}`, 409, "the UID in the precondition (other) does not match the UID in record"},
		{"DELETE", "configmaps/nope", js, ``, 404, `configmaps "nope" not found`},
		{"PUT", "pods", js, `{}`, 405, ""},
		{"POST", "configmaps/c", js, `{}`, 405, ""},
		{"GET", "nopes", "", "", 404, "the server could not find the requested resource"},
		{"GET", "pods?resourceVersion=abc", "", "", 400, `Invalid value: "abc"`},
		{"GET", "pods?continue=zzz", "", "", 400, "continue key is not valid"},
		{"GET", "pods?labelSelector=a%20in", "", "", 400, "unable to parse requirement"},
		{"GET", "pods?fieldSelector=nope%3D1", "", "", 400, "field label not supported: nope"},
	} {
		req, err := http.NewRequestWithContext(t.Context(), c.method, cfg.Host+root+c.path, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", c.content)
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Errorf("%s %s: %v", c.method, c.path, err)
			continue
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		var status metav1.Status
		if err := json.NewDecoder(bytes.NewReader(body)).Decode(&status); err != nil {
			t.Errorf("%s %s: %v: %s", c.method, c.path, err, body)
		}
		if err != nil || resp.StatusCode != c.code || int(status.Code) != c.code || !strings.Contains(status.Message, c.message) {
			t.Errorf("%s %s %.80s: %d %s, %v; want %d %q", c.method, c.path, c.body, resp.StatusCode, body, err, c.code, c.message)
		}
	}

	const wrong = `{"metadata":{"name":"X_"},"spec":{"restartPolicy":"x","containers":[{"name":"c"},{"name":"c","image":"i","ports":[{"containerPort":99999}]}]}}`
	raw := e.client.CoreV1().RESTClient().Post().AbsPath(root+"pods").SetHeader("Content-Type", js).Body([]byte(wrong)).Do(context.WithoutCancel(t.Context()))
	if raw.Error() == nil {
		t.Fatal("an invalid pod is accepted")
	}
	for _, field := range []string{"metadata.name", "spec.containers[0].image", "spec.containers[1].name", "spec.containers[1].ports[0].containerPort", "spec.restartPolicy"} {
		has(t, "the refusal", raw.Error().Error(), field+": ")
	}
	pods, err := e.client.CoreV1().Pods(e.namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(pods.Items) != 0 {
		t.Errorf("left behind: %v, %v", pods.Items, err)
	}
}
