package api

import (
	"strings"
	"testing"
)

// sampleKinds are one object of each kind that nothing here acts on.
const sampleKinds = `
apiVersion: networking.k8s.io/v1
kind: IngressClass
metadata: {name: NAME}
spec: {controller: example.com/controller}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web, namespace: NAME}
spec:
  ingressClassName: NAME
  rules: [{host: "*.example.com", http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: 1web, port: {number: 80}}}}]}}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: NAME}
spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}], ports: [{port: 80}]}]}
---
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: NAME}
handler: sandbox
---
apiVersion: flowcontrol.apiserver.k8s.io/v1
kind: FlowSchema
metadata: {name: NAME}
spec:
  priorityLevelConfiguration: {name: catch-all}
  rules: [{subjects: [{kind: User, user: {name: someone}}], nonResourceRules: [{verbs: [get], nonResourceURLs: [/x/*]}]}]
---
apiVersion: storagemigration.k8s.io/v1
kind: StorageVersionMigration
metadata: {name: NAME}
spec: {resource: {group: apps, resource: deployments}}
---
apiVersion: resource.k8s.io/v1
kind: DeviceClass
metadata: {name: NAME}
spec: {selectors: [{cel: {expression: 'device.driver == "gpu.example.com"'}}]}
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: web, namespace: NAME}
spec: {spec: {devices: {requests: [{name: gpu, exactly: {deviceClassName: NAME}}]}}}
---
apiVersion: resource.k8s.io/v1
kind: ResourceSlice
metadata: {name: NAME}
spec: {driver: gpu.example.com, nodeName: none, pool: {name: none, resourceSliceCount: 1}, devices: [{name: one, attributes: {model: {string: a}}}]}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: NAME}
webhooks: []
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1.NAME.example.com}
spec: {group: NAME.example.com, version: v1, groupPriorityMinimum: 1000, versionPriority: 10}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.NAME.example.com}
spec:
  group: NAME.example.com
  scope: Namespaced
  names: {plural: things, kind: Thing}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object}}}}}]
`

func TestKindsOfOthers(t *testing.T) {
	ns := namespace(t)
	manifest := func() *strings.Reader { return strings.NewReader(strings.ReplaceAll(sampleKinds, "NAME", ns)) }
	// Twice, so that the second finds nothing to change.
	if out, err := world.Kubectl(t.Context(), manifest(), "apply", "-f", "-"); err != nil {
		t.Fatal(out, err)
	}
	out, err := world.Kubectl(t.Context(), manifest(), "apply", "--server-side", "--force-conflicts", "-f", "-")
	if err != nil {
		t.Fatal(out, err)
	}
	if out, err = world.Kubectl(t.Context(), manifest(), "get", "-f", "-"); err != nil {
		t.Fatal(out, err)
	}
	t.Log(out)
	if out, err := world.Kubectl(t.Context(), nil, "describe", "ingress", "-n", ns); err != nil || !strings.Contains(out, "*.example.com") {
		t.Error(out, err)
	}
	if out, err := world.Kubectl(t.Context(), nil, "explain", "resourceclaim.spec.devices"); err != nil {
		t.Error(out, err)
	}
	if out, err := world.Kubectl(t.Context(), manifest(), "delete", "-f", "-"); err != nil {
		t.Error(out, err)
	}
}
