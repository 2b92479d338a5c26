package patch_test

import (
	"encoding/json"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/proa-dev/proa/apiserver/patch"
)

const pod = `
apiVersion: v1
kind: Pod
metadata: {name: p, labels: {a: b, c: d}, annotations: {x: "1"}, finalizers: [a/b], creationTimestamp: "2026-01-01T00:00:00Z"}
spec:
  nodeSelector: {a: b}
  securityContext: {runAsUser: 5, sysctls: [{name: a, value: b}], fsGroup: 7}
  containers:
  - {name: c, image: i, resources: {limits: {cpu: 1500m, memory: 1Gi}, requests: {cpu: "1"}}, ports: [{containerPort: 80}], livenessProbe: {httpGet: {path: /, port: http}, periodSeconds: 3}}
  tolerations: [{key: k, operator: Exists, tolerationSeconds: 5}]
  overhead: {cpu: 10m}
status: {phase: Running, conditions: [{type: Ready, status: "True", lastTransitionTime: "2026-01-01T00:00:01Z"}], podIPs: [{ip: 10.0.0.1}]}
`

const deployment = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: d}
spec:
  replicas: 3
  selector: {matchLabels: {a: b}, matchExpressions: [{key: a, operator: In, values: [b, c]}]}
  strategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 25%, maxUnavailable: 1}}
  template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}], dnsConfig: {nameservers: [1.1.1.1]}, volumes: [{name: v, emptyDir: {sizeLimit: 1Gi}}]}}
`

const secret = `{apiVersion: v1, kind: Secret, metadata: {name: s}, immutable: false, data: {a: YWJj, b: ZGVm}, type: Opaque}`

const service = `
apiVersion: v1
kind: Service
metadata: {name: s}
spec: {ports: [{name: a, port: 80, targetPort: http, nodePort: 30000}], sessionAffinityConfig: {clientIP: {timeoutSeconds: 10}}, selector: {a: b}, ipFamilyPolicy: SingleStack}
status: {loadBalancer: {ingress: [{ip: 1.2.3.4}]}}
`

const autoscaler = `
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: h}
spec: {maxReplicas: 5, scaleTargetRef: {kind: D, name: d}, behavior: {scaleUp: {stabilizationWindowSeconds: 0, tolerance: 0.1}}, metrics: [{type: Resource, resource: {name: cpu, target: {type: Value, value: 100m}}}]}
`

const ingress = `
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: i}
spec: {defaultBackend: {resource: {apiGroup: a, kind: b, name: c}}, rules: [{host: h, http: {paths: [{path: /, pathType: Exact, backend: {service: {name: s, port: {number: 80}}}}]}}]}
`

// randomly makes a merge patch for a document: parts of it, parts of it removed,
// and parts of others in their place.
func randomly(r *rand.Rand, doc map[string]any, others []any) map[string]any {
	out := map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(doc)) {
		value := doc[name]
		switch r.IntN(6) {
		case 0:
			out[name] = nil
		case 1:
			out[name] = value
		case 2, 3:
			if nested, ok := value.(map[string]any); ok {
				out[name] = randomly(r, nested, others)
			}
		case 4:
			if r.IntN(8) == 0 {
				out[name] = others[r.IntN(len(others))]
			}
		}
	}
	return out
}

// parts lists all values of a document.
func parts(v any, out []any) []any {
	out = append(out, v)
	switch v := v.(type) {
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(v)) {
			out = parts(v[name], out)
		}
	case []any:
		for _, e := range v {
			out = parts(e, out)
		}
	}
	return out
}

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	must(t, err)
	return data
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// The short way to merge comes out as the long one, wherever it is taken.
func TestMergeIsMerge(t *testing.T) {
	var m patch.Merger
	r := rand.New(rand.NewPCG(1, 2))
	taken := 0
	for _, c := range []struct {
		doc  string
		make func() any
	}{
		{pod, func() any { return &corev1.Pod{} }}, {deployment, func() any { return &appsv1.Deployment{} }},
		{secret, func() any { return &corev1.Secret{} }}, {service, func() any { return &corev1.Service{} }},
		{autoscaler, func() any { return &autoscalingv2.HorizontalPodAutoscaler{} }}, {ingress, func() any { return &networkingv1.Ingress{} }},
	} {
		first := c.make()
		must(t, yaml.UnmarshalStrict([]byte(c.doc), first))
		doc := marshal(t, first)
		var content map[string]any
		must(t, json.Unmarshal(doc, &content))
		others := append(parts(content, nil), "", 0, true, 1.5, "1Gi", []any{}, map[string]any{}, []any{nil}, map[string]any{"a": nil})
		for range 600 {
			change := marshal(t, randomly(r, content, others))
			short := c.make()
			must(t, json.Unmarshal(doc, short))
			if !m.Merge(short, change) {
				continue
			}
			taken++
			merged, _, err := patch.Apply(types.MergePatchType, doc, change, short)
			if err != nil {
				t.Fatalf("%s: the long way fails: %v", change, err)
			}
			long := c.make()
			if err := json.Unmarshal(merged, long); err != nil {
				t.Fatalf("%s: the long way is no object: %v", change, err)
			}
			if got, want := string(marshal(t, short)), string(marshal(t, long)); got != want {
				t.Fatalf("%s\nmerged is\n%s, want\n%s", change, got, want)
			}
		}
	}
	if taken < 1000 {
		t.Errorf("the short way was taken %d times", taken)
	}
}
