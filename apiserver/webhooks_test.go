package apiserver_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	reviewv1 "k8s.io/api/admission/v1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/apiserver"
	"github.com/proa-dev/proa/apiserver/admission"
	"github.com/proa-dev/proa/apiserver/admission/webhook"
	"github.com/proa-dev/proa/apiserver/apiservertest"
	"github.com/proa-dev/proa/apiserver/live"
	"github.com/proa-dev/proa/apiserver/webhookclient"
)

// answerer is a webhook's logic. Nil allows.
type answerer func(*reviewv1.AdmissionRequest) *reviewv1.AdmissionResponse

// hooks is a TLS server with a webhook at each path, which remembers what it
// was asked.
type hooks struct {
	*fixture
	url     string
	ca      []byte
	metrics *prometheus.Registry

	mu    sync.Mutex
	paths map[string]answerer
	asked []string
}

// withHooks starts an API server that calls webhooks, and a server for them.
func withHooks(t *testing.T) *hooks {
	t.Helper()
	return hooksOn(t, start)
}

func hooksOn(t *testing.T, start func(*testing.T, func(*apiserver.Config)) *fixture) *hooks {
	t.Helper()
	h := &hooks{paths: map[string]answerer{}, metrics: prometheus.NewRegistry()}
	client := webhookclient.New(nil)
	t.Cleanup(client.Close)
	server := httptest.NewTLSServer(http.HandlerFunc(h.serve))
	t.Cleanup(server.Close)
	h.url, h.ca = server.URL, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	h.fixture = start(t, func(c *apiserver.Config) { c.Admission = webhookChain(t, c, client, h.metrics) })
	return h
}

func webhookChain(tb testing.TB, c *apiserver.Config, client *webhookclient.Client, metrics prometheus.Registerer) admission.Chain {
	tb.Helper()
	objects := live.New(c.Store, c.Kinds)
	mutating, validating, err := webhook.New(webhook.Config{
		Lookup: admission.Lookup{Source: objects, Live: objects.Live}, Authorizer: c.Authorizer,
		Client: client, Metrics: metrics, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		tb.Fatal(err)
	}
	return admission.Chain{mutating, validating}
}

func (h *hooks) serve(w http.ResponseWriter, r *http.Request) {
	var review reviewv1.AdmissionReview
	if err := json.NewDecoder(r.Body).Decode(&review); err != nil || review.Request == nil {
		http.Error(w, "no review", http.StatusBadRequest)
		return
	}
	h.mu.Lock()
	answer := h.paths[r.URL.Path]
	h.asked = append(h.asked, r.URL.Path)
	h.mu.Unlock()
	review.Response = &reviewv1.AdmissionResponse{Allowed: true}
	if answer != nil {
		if out := answer(review.Request); out != nil {
			review.Response = out
		}
	}
	if review.Response.UID == "" {
		review.Response.UID = review.Request.UID
	}
	review.Request = nil
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(review)
}

// on sets what the webhook at a path answers.
func (h *hooks) on(path string, answer answerer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.paths[path] = answer
}

// seen returns the paths that were asked since the last call.
func (h *hooks) seen() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := strings.Join(h.asked, " ")
	h.asked = nil
	return out
}

func ofMaps(operations ...admissionv1.OperationType) []admissionv1.RuleWithOperations {
	return rule("", "v1", "configmaps", operations...)
}

func rule(group, version, resource string, operations ...admissionv1.OperationType) []admissionv1.RuleWithOperations {
	return []admissionv1.RuleWithOperations{{Operations: operations, Rule: admissionv1.Rule{
		APIGroups: []string{group}, APIVersions: []string{version}, Resources: []string{resource},
	}}}
}

// validate configures a webhook, which is in force at once.
func (h *hooks) validate(path string, change func(*admissionv1.ValidatingWebhook)) {
	h.Helper()
	w := admissionv1.ValidatingWebhook{
		Name: path[1:] + ".example.com", Rules: ofMaps(admissionv1.Create), SideEffects: ptr.To(admissionv1.SideEffectClassNone),
		ClientConfig: admissionv1.WebhookClientConfig{URL: ptr.To(h.url + path), CABundle: h.ca}, AdmissionReviewVersions: []string{"v1"},
	}
	if change != nil {
		change(&w)
	}
	_, err := h.AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(h.Context(), &admissionv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: path[1:]}, Webhooks: []admissionv1.ValidatingWebhook{w},
	}, metav1.CreateOptions{})
	if err != nil {
		h.Fatal(err)
	}
}

func (h *hooks) mutate(path string, change func(*admissionv1.MutatingWebhook)) {
	h.Helper()
	w := admissionv1.MutatingWebhook{
		Name: path[1:] + ".example.com", Rules: ofMaps(admissionv1.Create), SideEffects: ptr.To(admissionv1.SideEffectClassNone),
		ClientConfig: admissionv1.WebhookClientConfig{URL: ptr.To(h.url + path), CABundle: h.ca}, AdmissionReviewVersions: []string{"v1"},
	}
	if change != nil {
		change(&w)
	}
	_, err := h.AdmissionregistrationV1().MutatingWebhookConfigurations().Create(h.Context(), &admissionv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: path[1:]}, Webhooks: []admissionv1.MutatingWebhook{w},
	}, metav1.CreateOptions{})
	if err != nil {
		h.Fatal(err)
	}
}

func (h *hooks) create(name string, labels map[string]string, opts metav1.CreateOptions) (*corev1.ConfigMap, error) {
	return h.CoreV1().ConfigMaps("default").Create(h.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Data: map[string]string{"a": "b"},
	}, opts)
}

func patches(operations string) *reviewv1.AdmissionResponse {
	return &reviewv1.AdmissionResponse{Allowed: true, Patch: []byte(operations), PatchType: ptr.To(reviewv1.PatchTypeJSONPatch)}
}

func says(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestValidatingWebhooks(t *testing.T) {
	h := withHooks(t)
	h.on("/deny", func(r *reviewv1.AdmissionRequest) *reviewv1.AdmissionResponse {
		if r.UserInfo.Username != "admin" || len(r.Options.Raw) == 0 {
			return &reviewv1.AdmissionResponse{Result: &metav1.Status{Message: "asked in a wrong way"}}
		}
		return &reviewv1.AdmissionResponse{
			Result: &metav1.Status{Message: "no " + r.Name, Code: http.StatusTeapot, Reason: "Tea"}, Warnings: []string{"think again"},
		}
	})
	h.validate("/deny", func(w *admissionv1.ValidatingWebhook) {
		w.Rules = ofMaps(admissionv1.OperationAll)
		w.ObjectSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"deny": "yes"}}
		w.MatchConditions = []admissionv1.MatchCondition{{Name: "not-spared", Expression: "request.name != 'spared' && authorizer.group('').resource('pods').check('get').allowed()"}}
	})
	denied := map[string]string{"deny": "yes"}
	const no = `admission webhook "deny.example.com" denied the request: no `
	a := h.send("POST", "/api/v1/namespaces/default/configmaps", `{"metadata":{"name":"x","labels":{"deny":"yes"}}}`, "Content-Type: application/json")
	if a.code != http.StatusTeapot || a.text("message") != no+"x" || a.text("reason") != "Tea" || !strings.Contains(a.header.Get("Warning"), "think again") {
		t.Errorf("create: %d %s %s", a.code, a.body, a.header.Get("Warning"))
	}
	for _, name := range []string{"spared", "other"} {
		labels := denied
		if name == "other" {
			labels = nil
		}
		if _, err := h.create(name, labels, metav1.CreateOptions{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	maps := h.CoreV1().ConfigMaps("default")
	label := []byte(`{"metadata":{"labels":{"deny":"yes"}}}`)
	if _, err := maps.Patch(t.Context(), "other", "application/merge-patch+json", label, metav1.PatchOptions{}); says(err) != no+"other" {
		t.Errorf("the new object's labels: %v", err)
	}
	if _, err := maps.Patch(t.Context(), "spared", "application/merge-patch+json", []byte(`{"metadata":{"labels":null}}`), metav1.PatchOptions{}); err != nil {
		t.Errorf("a condition that does not hold: %v", err)
	}
	h.seen()
	if err := h.AdmissionregistrationV1().ValidatingWebhookConfigurations().Delete(t.Context(), "deny", metav1.DeleteOptions{}); err != nil || h.seen() != "" {
		t.Errorf("delete the configuration: %v", err)
	}
	if _, err := h.create("free", denied, metav1.CreateOptions{}); err != nil {
		t.Errorf("without the configuration: %v", err)
	}
}

func TestDeletionsAreAsked(t *testing.T) {
	h := withHooks(t)
	h.on("/keep", func(r *reviewv1.AdmissionRequest) *reviewv1.AdmissionResponse {
		var old corev1.ConfigMap
		if err := json.Unmarshal(r.OldObject.Raw, &old); err != nil || old.Kind != "ConfigMap" || old.Labels["keep"] == "" {
			return nil
		}
		return &reviewv1.AdmissionResponse{}
	})
	h.validate("/keep", func(w *admissionv1.ValidatingWebhook) { w.Rules = ofMaps(admissionv1.Delete) })
	for name, labels := range map[string]map[string]string{"kept": {"keep": "yes"}, "gone": nil} {
		if _, err := h.create(name, labels, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	maps := h.CoreV1().ConfigMaps("default")
	const no = `admission webhook "keep.example.com" denied the request without explanation`
	if err := maps.Delete(t.Context(), "kept", metav1.DeleteOptions{}); says(err) != no {
		t.Errorf("delete: %v", err)
	}
	if err := maps.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "keep"}); says(err) != no {
		t.Errorf("delete the collection: %v", err)
	}
	if err := maps.Delete(t.Context(), "gone", metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
}

func TestConnectionsAndEvictionsAreAsked(t *testing.T) {
	h := hooksOn(t, func(t *testing.T, change func(*apiserver.Config)) *fixture { return withKubelet(t, change) })
	h.bound("p")
	h.on("/connect", func(r *reviewv1.AdmissionRequest) *reviewv1.AdmissionResponse {
		if r.SubResource == "attach" {
			return &reviewv1.AdmissionResponse{Result: &metav1.Status{Message: r.Kind.Kind + " of " + r.Namespace + "/" + r.Name}}
		}
		return patches(`[{"op":"replace","path":"/command/0","value":"true"}]`)
	})
	h.mutate("/connect", func(w *admissionv1.MutatingWebhook) { w.Rules = rule("", "v1", "pods/*", admissionv1.Connect) })
	h.on("/delete", func(*reviewv1.AdmissionRequest) *reviewv1.AdmissionResponse { return &reviewv1.AdmissionResponse{} })
	h.validate("/delete", func(w *admissionv1.ValidatingWebhook) { w.Rules = rule("", "*", "pods", admissionv1.Delete) })
	a := h.expect(http.StatusBadRequest, "GET", pods+"/p/attach?stdout=true", "")
	if want := `admission webhook "connect.example.com" denied the request: PodAttachOptions of default/p`; a.text("message") != want {
		t.Error(a.body)
	}
	if got := h.stream(pods + "/p/exec?command=rm&stdout=true"); got != "/exec/default/p/c?command=true&output=1" {
		t.Error(got)
	}
	h.expect(http.StatusBadRequest, "DELETE", pods+"/p", "")
	h.expect(http.StatusCreated, "POST", pods+"/p/eviction", `{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"p","namespace":"default"}}`)
}

func TestMutatingWebhooksAreReinvoked(t *testing.T) {
	h := withHooks(t)
	// The first wants to be called again, for it copies what the second adds.
	h.on("/a-copy", func(r *reviewv1.AdmissionRequest) *reviewv1.AdmissionResponse {
		var m corev1.ConfigMap
		if json.Unmarshal(r.Object.Raw, &m) != nil || m.Data["added"] == "" || m.Data["copied"] != "" {
			return nil
		}
		return patches(`[{"op":"copy","from":"/data/added","path":"/data/copied"}]`)
	})
	h.on("/b-add", func(r *reviewv1.AdmissionRequest) *reviewv1.AdmissionResponse {
		return patches(`[{"op":"add","path":"/data/added","value":"yes"},{"op":"add","path":"/unknown","value":1}]`)
	})
	h.mutate("/b-add", nil)
	h.mutate("/a-copy", func(w *admissionv1.MutatingWebhook) {
		w.ReinvocationPolicy = ptr.To(admissionv1.IfNeededReinvocationPolicy)
		w.AdmissionReviewVersions = []string{"v9", "v1beta1"}
	})
	made, err := h.create("x", nil, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(made.Data); got != "map[a:b added:yes copied:yes]" {
		t.Error(got)
	}
	if got := h.seen(); got != "/a-copy /b-add /a-copy" {
		t.Errorf("asked %s", got)
	}
	h.on("/b-add", nil)
	if _, err := h.create("y", nil, metav1.CreateOptions{}); err != nil {
		t.Error(err)
	}
	if got := h.seen(); got != "/a-copy /b-add" {
		t.Errorf("nothing changes: asked %s", got)
	}
}

// TestWebhooksDenyWithAnyCode has webhooks refuse with codes that HTTP has not.
func TestWebhooksDenyWithAnyCode(t *testing.T) {
	h := withHooks(t)
	h.validate("/deny", nil)
	for given, want := range map[int32]int{0: 400, -1: 400, 200: 400, 403: 403, 599: 599, 600: 400, 1000: 400, 1 << 30: 400} {
		h.on("/deny", func(*reviewv1.AdmissionRequest) *reviewv1.AdmissionResponse {
			return &reviewv1.AdmissionResponse{Result: &metav1.Status{Status: metav1.StatusSuccess, Code: given, Message: "no"}}
		})
		a := h.send("POST", configMaps, `{"metadata":{"name":"x"}}`, asJSON)
		if a.code != want || a.text("status") != "Failure" || a.text("message") != `admission webhook "deny.example.com" denied the request: no` {
			t.Errorf("%d: %d %s", given, a.code, a.body)
		}
	}
}

func TestWebhooksThatFail(t *testing.T) {
	h := withHooks(t)
	late := make(chan struct{})
	t.Cleanup(func() { close(late) })
	h.on("/fail", func(r *reviewv1.AdmissionRequest) *reviewv1.AdmissionResponse {
		switch r.Name {
		case "late":
			<-late
		case "stranger":
			return &reviewv1.AdmissionResponse{UID: "other", Allowed: true}
		case "patcher":
			return patches(`[]`)
		case "nonsense":
			return patches(`{"op":"add"}`)
		case "broken":
			return patches(`[{"op":"remove","path":"/data/none"}]`)
		case "another":
			return patches(`[{"op":"replace","path":"/kind","value":"Secret"}]`)
		case "stripped":
			return patches(`[{"op":"remove","path":"/metadata/uid"}]`)
		}
		return nil
	})
	const failed, mutated = `Internal error occurred: failed calling webhook "fail.example.com": `, `Internal error occurred: `
	try := func(policy admissionv1.FailurePolicyType, name, want string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, err := h.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"policy": string(policy)}}, Data: map[string]string{"a": "b"},
		}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if got := says(err); (want == "") != (got == "") || !strings.Contains(got, want) {
			t.Errorf("%s, %s: %q, want %q", policy, name, got, want)
		}
	}
	for _, policy := range []admissionv1.FailurePolicyType{admissionv1.Fail, admissionv1.Ignore} {
		selector := &metav1.LabelSelector{MatchLabels: map[string]string{"policy": string(policy)}}
		name := "/" + strings.ToLower(string(policy))
		h.mutate(name, func(w *admissionv1.MutatingWebhook) {
			w.Name, w.ClientConfig.URL = "fail.example.com", ptr.To(h.url+"/fail")
			w.FailurePolicy, w.ObjectSelector, w.TimeoutSeconds = &policy, selector, ptr.To[int32](1)
			w.SideEffects = ptr.To(admissionv1.SideEffectClassNoneOnDryRun)
		})
	}
	for name, want := range map[string]string{
		"late":     failed + `failed to call webhook: Post "` + h.url + `/fail?timeout=1s": `,
		"stranger": failed + `received invalid webhook response: expected response.uid=`,
		"nonsense": failed + `received undecodable patch in webhook response: `,
	} {
		try(admissionv1.Fail, name, want)
		try(admissionv1.Ignore, name, "")
	}
	for name, want := range map[string]string{
		"patcher": "", "broken": mutated, "another": mutated + "the patch makes a /v1, Kind=Secret of a /v1, Kind=ConfigMap",
		"stripped": mutated + "system metadata was not initialized",
	} {
		try(admissionv1.Fail, name, want)
		try(admissionv1.Ignore, name, want)
	}
	for name, want := range map[string]float64{
		"webhook_request_total": 14, "webhook_fail_open_count": 3,
		"webhook_rejection_count": 3 + 4, // of the webhook and of its patches: what was stripped is found later
	} {
		if got := h.count("apiserver_admission_" + name); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

// count adds up what a counter has.
func (h *hooks) count(name string) (sum float64) {
	h.Helper()
	families, err := h.metrics.Gather()
	if err != nil {
		h.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

func TestDryRunsAndSideEffects(t *testing.T) {
	h := withHooks(t)
	h.validate("/side", nil)
	c, err := h.AdmissionregistrationV1().ValidatingWebhookConfigurations().Get(t.Context(), "side", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// One with side effects cannot be made any more, only be there from earlier days.
	c.Webhooks[0].SideEffects = ptr.To(admissionv1.SideEffectClassSome)
	objects, configurations := live.New(h.Store, h.Kinds().Set().All), admissionv1.Resource("validatingwebhookconfigurations")
	c.SetGroupVersionKind(admissionv1.SchemeGroupVersion.WithKind("ValidatingWebhookConfiguration"))
	if err := objects.Replace(t.Context(), configurations, c); err != nil {
		t.Fatal(err)
	}
	objects.Live(t.Context(), configurations, "", "side") // waits for the cache
	dry := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	if _, err := h.create("x", nil, dry); says(err) != `admission webhook "side.example.com" does not support dry run` || !apierrors.IsBadRequest(err) {
		t.Error(err)
	}
	if got := h.seen(); got != "" {
		t.Errorf("asked %s", got)
	}
	if _, err := h.create("x", nil, metav1.CreateOptions{}); err != nil || h.seen() != "/side" {
		t.Error(err)
	}
}

func TestWebhooksMatchOtherVersionsAndSubresources(t *testing.T) {
	h := withHooks(t)
	var mu sync.Mutex
	var got []string
	h.on("/look", func(r *reviewv1.AdmissionRequest) *reviewv1.AdmissionResponse {
		var object struct{ metav1.TypeMeta }
		if err := json.Unmarshal(r.Object.Raw, &object); err != nil {
			return &reviewv1.AdmissionResponse{}
		}
		mu.Lock()
		defer mu.Unlock()
		got = append(got, fmt.Sprintf("%s/%s %s.%s.%s %s %s", r.Resource.Resource, r.SubResource, object.Kind, r.Kind.Version, r.Kind.Group, object.APIVersion, r.RequestKind.Group))
		return nil
	})
	h.validate("/look", func(w *admissionv1.ValidatingWebhook) {
		w.Rules = append(rule("", "v1", "events", admissionv1.Create), rule("*", "*", "*/scale", admissionv1.Update)...)
		w.Rules = append(w.Rules, rule("", "v1", "namespaces", admissionv1.Create)...)
		w.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"look": "yes"}}
	})
	for _, ns := range []string{"unseen", "seen"} {
		labels := map[string]string{"look": "yes"}
		if ns == "unseen" {
			labels = nil
		}
		if _, err := h.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns, Labels: labels}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		a := h.send("POST", "/apis/events.k8s.io/v1/namespaces/"+ns+"/events", `{"metadata":{"name":"e","namespace":"`+ns+`"},"regarding":{"namespace":"`+ns+`"},`+
			`"eventTime":"2026-01-01T00:00:00.000000Z","reportingController":"a.example/b","reportingInstance":"i","action":"a","reason":"r","type":"Normal"}`, "Content-Type: application/json")
		if a.code != http.StatusCreated {
			t.Fatal(a.body)
		}
		h.send("POST", "/apis/apps/v1/namespaces/"+ns+"/deployments", `{"metadata":{"name":"d"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},`+
			`"spec":{"containers":[{"name":"c","image":"i"}]}}}}`, "Content-Type: application/json")
		if _, err := h.AppsV1().Deployments(ns).UpdateScale(t.Context(), "d", &autoscalingv1.Scale{
			ObjectMeta: metav1.ObjectMeta{Name: "d", Namespace: ns}, Spec: autoscalingv1.ScaleSpec{Replicas: 3},
		}, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"namespaces/ Namespace.v1. v1 ", "events/ Event.v1. v1 events.k8s.io", "deployments/scale Scale.v1.autoscaling autoscaling/v1 autoscaling"}
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(got, want) {
		t.Errorf("asked %q", got)
	}
}

// BenchmarkNoWebhooks is what every write pays in a cluster without webhooks.
func BenchmarkNoWebhooks(b *testing.B) {
	var chain admission.Chain
	s := apiservertest.Start(b, func(c *apiserver.Config) { chain = webhookChain(b, c, webhookclient.New(nil), nil) })
	object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "x"}}
	b.ReportAllocs()
	for b.Loop() {
		a := admission.Attributes{
			Operation: admission.Create, GVK: corev1.SchemeGroupVersion.WithKind("ConfigMap"), GVR: corev1.SchemeGroupVersion.WithResource("configmaps"),
			Namespace: "default", Name: "x", Object: object, Kinds: s.Kinds().Set(),
		}
		if err := chain.Admit(b.Context(), &a); err != nil {
			b.Fatal(err)
		}
		if err := chain.Validate(b.Context(), &a); err != nil {
			b.Fatal(err)
		}
	}
}
