package api

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"
)

// kinds is an object of every resource that can be created and read, but for
// its metadata. mutate changes what may change; status is a merge patch.
var kinds = map[string]struct{ spec, mutate, status string }{
	"v1/configmaps":             {spec: `{data: {k: v}}`, mutate: `{data: {k: w}}`},
	"v1/endpoints":              {spec: `{subsets: [{addresses: [{ip: 10.9.8.7}], ports: [{name: http, port: 80}]}]}`, mutate: `{subsets: [{addresses: [{ip: 10.9.8.8}], ports: [{name: http, port: 8080}]}]}`},
	"v1/events":                 {spec: `{involvedObject: {kind: Pod, name: p, namespace: NS}, message: a, reason: R, type: Normal, source: {component: test}}`, mutate: `{message: b, series: {count: 2, lastObservedTime: "2024-01-02T03:04:05.000000Z"}}`},
	"v1/limitranges":            {spec: `{spec: {limits: [{type: Pod, max: {cpu: "1"}}]}}`, mutate: `{spec: {limits: [{type: Pod, max: {cpu: "2"}}]}}`},
	"v1/namespaces":             {mutate: `{metadata: {labels: {x: z}}}`, status: `{status: {conditions: [{type: StatusPatch, status: "True", reason: E2E, message: set}]}}`},
	"v1/nodes":                  {spec: `{spec: {podCIDR: ""}}`, mutate: `{spec: {unschedulable: true}}`, status: `{status: {nodeInfo: {operatingSystem: linux}, conditions: [{type: Test, status: "True"}]}}`},
	"v1/persistentvolumeclaims": {spec: `{spec: {accessModes: [ReadWriteOnce], storageClassName: none, resources: {requests: {storage: 1Gi}}}}`, mutate: `{metadata: {annotations: {x: z}}}`, status: `{status: {conditions: [{type: StatusPatched, status: "True"}]}}`},
	"v1/persistentvolumes":      {spec: `{spec: {accessModes: [ReadWriteOnce], capacity: {storage: 1Gi}, storageClassName: none, hostPath: {path: /tmp/x}}}`, mutate: `{spec: {persistentVolumeReclaimPolicy: Delete}}`, status: `{status: {message: StatusPatched, reason: E2E}}`},
	"v1/pods":                   {spec: `{metadata: {labels: {test/manual: x}}, spec: {schedulerName: nobody, containers: [{name: c, image: image:1}]}}`, mutate: `{spec: {activeDeadlineSeconds: 1000}}`, status: `{status: {message: patched, conditions: [{type: Ready, status: "True"}]}}`},
	"v1/podtemplates":           {spec: `{template: {spec: {containers: [{name: c, image: image}]}}}`, mutate: `{template: {metadata: {labels: {x: z}}}}`},
	"v1/replicationcontrollers": {spec: `{spec: {replicas: 0, selector: {a: b}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: image}]}}}}`, mutate: `{spec: {minReadySeconds: 3}}`, status: `{status: {conditions: [{type: Test, status: "True"}]}}`},
	"v1/resourcequotas":         {spec: `{spec: {hard: {pods: "5"}}}`, mutate: `{spec: {hard: {pods: "6"}}}`, status: `{status: {hard: {memory: 5Gi}}}`},
	"v1/secrets":                {spec: `{stringData: {k: v}}`, mutate: `{data: {k: dw==}}`},
	"v1/serviceaccounts":        {spec: `{automountServiceAccountToken: true}`, mutate: `{automountServiceAccountToken: false}`},
	"v1/services":               {spec: `{spec: {type: LoadBalancer, loadBalancerClass: example.com/vip, ports: [{port: 80, name: http}]}}`, mutate: `{spec: {ports: [{port: 80, name: http, targetPort: 8080}]}}`, status: `{status: {loadBalancer: {ingress: [{ip: 203.0.113.1}]}}}`},

	"apps/v1/controllerrevisions": {spec: `{revision: 1, data: {a: b}}`, mutate: `{revision: 2}`},
	"apps/v1/daemonsets":          {spec: `{spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {nodeSelector: {no: where}, containers: [{name: c, image: image}]}}}}`, mutate: `{spec: {minReadySeconds: 3}}`, status: `{status: {conditions: [{type: Test, status: "True"}]}}`},
	"apps/v1/deployments":         {spec: `{spec: {replicas: 0, selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: image}]}}}}`, mutate: `{spec: {minReadySeconds: 3}}`, status: `{status: {conditions: [{type: Test, status: "True"}]}}`},
	"apps/v1/replicasets":         {spec: `{spec: {replicas: 0, selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: image}]}}}}`, mutate: `{spec: {minReadySeconds: 3}}`, status: `{status: {conditions: [{type: Test, status: "True"}]}}`},
	"apps/v1/statefulsets":        {spec: `{spec: {replicas: 0, serviceName: s, selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: image}]}}}}`, mutate: `{spec: {minReadySeconds: 3}}`, status: `{status: {conditions: [{type: Test, status: "True"}]}}`},

	"batch/v1/jobs":     {spec: `{spec: {suspend: true, template: {spec: {restartPolicy: Never, containers: [{name: c, image: image}]}}}}`, mutate: `{spec: {activeDeadlineSeconds: 9}}`, status: `{status: {startTime: "2024-01-02T03:04:05Z"}}`},
	"batch/v1/cronjobs": {spec: `{spec: {suspend: true, schedule: "0 0 1 1 *", jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: image}]}}}}}}`, mutate: `{spec: {schedule: "1 0 1 1 *"}}`, status: `{status: {lastScheduleTime: "2024-01-02T03:04:05Z"}}`},

	"certificates.k8s.io/v1/certificatesigningrequests": {spec: `{spec: {signerName: test.io/s, usages: [any], request: LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlISk1IRUNBUUF3RHpFTk1Bc0dBMVVFQXhNRWJHbG1aVEJaTUJNR0J5cUdTTTQ5QWdFR0NDcUdTTTQ5QXdFSApBMElBQk9Mbk42Q25mbDhJWXlUUDZaelV1cDlrWjJoTmErVlcwZWhWWkIzeEt6VnJQdUdONjJMR09LTXBEUzduClFZZ3EyMVRDN09WL1RIQ2VObHBtS2pQNGxGK2dBREFLQmdncWhrak9QUVFEQWdOSUFEQkZBaUVBdEdidk9XNEoKNlVmQnN3RFNVYnY1Vno3UEo3ZVcxc3ptRVdPdEtyRWlPemtDSUNxMm85ZEVCazdMczBhVEdQUWFKN0FLMlJJdApnN1JWYmowS3daZFRhK3FECi0tLS0tRU5EIENFUlRJRklDQVRFIFJFUVVFU1QtLS0tLQo=}}`, mutate: `{metadata: {annotations: {x: z}}}`, status: `{status: {conditions: [{type: Test, status: "True", reason: E2E}]}}`},
	"certificates.k8s.io/v1/clustertrustbundles":        {spec: `{spec: {trustBundle: "-----BEGIN CERTIFICATE-----\nMIIBQDCB56ADAgECAgEBMAoGCCqGSM49BAMCMA8xDTALBgNVBAMTBGxpZmUwIBcN\nNzAwMTAxMDAwMDAwWhgPMjA5NjEwMDIwNzA2NDBaMA8xDTALBgNVBAMTBGxpZmUw\nWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAATi5zegp35fCGMkz+mc1LqfZGdoTWvl\nVtHoVWQd8Ss1az7hjetixjijKQ0u50GIKttUwuzlf0xwnjZaZioz+JRfozIwMDAP\nBgNVHRMBAf8EBTADAQH/MB0GA1UdDgQWBBT9+qZtW41+j58BW9/6X6UGgYQeOTAK\nBggqhkjOPQQDAgNIADBFAiApFr+L5ibJJO3fsrrXTWf81dKnF9QQCrbfkx2Ub8XQ\niAIhAJq6egC2n1+mb7FI1jz19szXXHqdRfllMNGTsycvkWKf\n-----END CERTIFICATE-----"}}`, mutate: `{metadata: {annotations: {x: z}}}`},
	"certificates.k8s.io/v1/podcertificaterequests":     {spec: `{spec: {signerName: test.io/s, podName: p, podUID: a, serviceAccountName: s, serviceAccountUID: b, nodeName: m, nodeUID: c, stubPKCS10Request: MIHJMHECAQAwDzENMAsGA1UEAxMEbGlmZTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABOLnN6Cnfl8IYyTP6ZzUup9kZ2hNa+VW0ehVZB3xKzVrPuGN62LGOKMpDS7nQYgq21TC7OV/THCeNlpmKjP4lF+gADAKBggqhkjOPQQDAgNIADBFAiEAtGbvOW4J6UfBswDSUbv5Vz7PJ7eW1szmEWOtKrEiOzkCICq2o9dEBk7Ls0aTGPQaJ7AK2RItg7RVbj0KwZdTa+qD}}`, mutate: `{metadata: {annotations: {x: z}}}`, status: `{status: {conditions: [{type: Denied, status: "True", reason: E2E, message: m, lastTransitionTime: "2024-01-02T03:04:05Z"}]}}`},

	"coordination.k8s.io/v1/leases":                    {spec: `{spec: {holderIdentity: a, leaseDurationSeconds: 30, acquireTime: "2024-01-02T03:04:05.678901Z"}}`, mutate: `{spec: {holderIdentity: b, leaseTransitions: 1}}`},
	"discovery.k8s.io/v1/endpointslices":               {spec: `{addressType: IPv4, endpoints: [{addresses: [10.9.8.7]}], ports: [{name: http, port: 80}]}`, mutate: `{endpoints: [{addresses: [10.9.8.8], conditions: {ready: true}}]}`},
	"events.k8s.io/v1/events":                          {spec: `{eventTime: "2024-01-02T03:04:05.678901Z", reportingController: test.io/c, reportingInstance: i, action: Do, reason: R, type: Normal, regarding: {kind: Pod, name: p, namespace: NS}, note: a}`, mutate: `{series: {count: 2, lastObservedTime: "2024-01-02T03:04:06.000000Z"}}`},
	"networking.k8s.io/v1/ipaddresses":                 {spec: `{metadata: {name: 192.168.7.9}, spec: {parentRef: {resource: services, name: x, namespace: z}}}`, mutate: `{metadata: {annotations: {x: z}}}`},
	"policy/v1/poddisruptionbudgets":                   {spec: `{spec: {minAvailable: 1, selector: {matchLabels: {a: b}}}}`, mutate: `{spec: {minAvailable: 50%}}`, status: `{status: {disruptionsAllowed: 3}}`},
	"rbac.authorization.k8s.io/v1/clusterroles":        {spec: `{rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]}`, mutate: `{rules: [{apiGroups: [""], resources: [pods], verbs: [list]}]}`},
	"rbac.authorization.k8s.io/v1/roles":               {spec: `{rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]}`, mutate: `{rules: [{apiGroups: [""], resources: [pods], verbs: [list]}]}`},
	"rbac.authorization.k8s.io/v1/rolebindings":        {spec: `{roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: r}, subjects: [{kind: User, name: u}]}`, mutate: `{subjects: [{kind: User, name: v, apiGroup: rbac.authorization.k8s.io}]}`},
	"scheduling.k8s.io/v1/priorityclasses":             {spec: `{value: 7}`, mutate: `{description: d}`},
	"rbac.authorization.k8s.io/v1/clusterrolebindings": {spec: `{roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: r}, subjects: [{kind: User, name: u}]}`, mutate: `{subjects: [{kind: User, name: v, apiGroup: rbac.authorization.k8s.io}]}`},

	"admissionregistration.k8s.io/v1/validatingwebhookconfigurations":   {spec: `{webhooks: []}`, mutate: `{webhooks: [{name: a.example.com, clientConfig: {url: "https://a.example.com"}, sideEffects: None, admissionReviewVersions: [v1], rules: [{apiGroups: [no.example.com], apiVersions: [v1], operations: [CREATE], resources: [x]}], failurePolicy: Ignore}]}`},
	"admissionregistration.k8s.io/v1/mutatingwebhookconfigurations":     {spec: `{webhooks: []}`, mutate: `{webhooks: [{name: a.example.com, clientConfig: {url: "https://a.example.com"}, sideEffects: None, admissionReviewVersions: [v1], rules: [{apiGroups: [no.example.com], apiVersions: [v1], operations: [CREATE], resources: [x]}], failurePolicy: Ignore}]}`},
	"admissionregistration.k8s.io/v1/validatingadmissionpolicies":       {spec: `{spec: {matchConstraints: {resourceRules: [{apiGroups: [no.example.com], apiVersions: [v1], operations: [CREATE], resources: [x]}]}, validations: [{expression: "true"}]}}`, mutate: `{spec: {failurePolicy: Ignore}}`, status: `{status: {conditions: [{type: Test, status: "True", reason: E2E, message: m, lastTransitionTime: "2024-01-02T03:04:05Z"}]}}`},
	"admissionregistration.k8s.io/v1/validatingadmissionpolicybindings": {spec: `{spec: {policyName: none, validationActions: [Deny]}}`, mutate: `{spec: {validationActions: [Warn]}}`},
	"admissionregistration.k8s.io/v1/mutatingadmissionpolicies":         {spec: `{spec: {reinvocationPolicy: Never, matchConstraints: {resourceRules: [{apiGroups: [no.example.com], apiVersions: [v1], operations: [CREATE], resources: [x]}]}, mutations: [{patchType: JSONPatch, jsonPatch: {expression: '[JSONPatch{op: "test", path: "/a", value: "b"}]'}}]}}`, mutate: `{spec: {failurePolicy: Ignore}}`},
	"admissionregistration.k8s.io/v1/mutatingadmissionpolicybindings":   {spec: `{spec: {policyName: none}}`, mutate: `{spec: {policyName: another}}`},

	"apiextensions.k8s.io/v1/customresourcedefinitions": {spec: `{metadata: {name: lives.NS.example.com}, spec: {group: NS.example.com, scope: Namespaced, names: {plural: lives, kind: Life}, versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]}}`, mutate: `{spec: {names: {plural: lives, kind: Life, categories: [test]}}}`, status: `{status: {conditions: [{type: Test, status: "True", reason: E2E}]}}`},
	"apiregistration.k8s.io/v1/apiservices":             {spec: `{metadata: {name: v1.NS.example.org}, spec: {group: NS.example.org, version: v1, groupPriorityMinimum: 1000, versionPriority: 10}}`, mutate: `{spec: {versionPriority: 11}}`, status: `{status: {conditions: [{type: Available, status: "True", reason: E2E}]}}`},

	"autoscaling/v1/horizontalpodautoscalers": {spec: `{spec: {maxReplicas: 2, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: none}}}`, mutate: `{spec: {maxReplicas: 3}}`},
	"autoscaling/v2/horizontalpodautoscalers": {spec: `{spec: {maxReplicas: 2, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: none}}}`, mutate: `{spec: {minReplicas: 2}}`},

	"flowcontrol.apiserver.k8s.io/v1/flowschemas":                 {spec: `{spec: {priorityLevelConfiguration: {name: catch-all}, rules: []}}`, mutate: `{spec: {matchingPrecedence: 9000}}`, status: `{status: {conditions: [{type: Dangling, status: "False", reason: E2E}]}}`},
	"flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations": {spec: `{spec: {type: Limited, limited: {nominalConcurrencyShares: 2, limitResponse: {type: Reject}}}}`, mutate: `{spec: {limited: {nominalConcurrencyShares: 4}}}`, status: `{status: {conditions: [{type: Test, status: "True", reason: E2E}]}}`},

	"networking.k8s.io/v1/ingressclasses":  {spec: `{spec: {controller: example.com/c}}`, mutate: `{metadata: {annotations: {x: z}}}`},
	"networking.k8s.io/v1/ingresses":       {spec: `{spec: {defaultBackend: {service: {name: s, port: {number: 80}}}}}`, mutate: `{spec: {defaultBackend: {service: {name: s, port: {number: 81}}}}}`, status: `{status: {loadBalancer: {ingress: [{ip: 203.0.113.1}]}}}`},
	"networking.k8s.io/v1/networkpolicies": {spec: `{spec: {podSelector: {}}}`, mutate: `{spec: {podSelector: {matchLabels: {a: b}}}}`},
	"networking.k8s.io/v1/servicecidrs":    {spec: `{spec: {cidrs: [10.99.0.0/24]}}`, mutate: `{metadata: {annotations: {x: z}}}`, status: `{status: {conditions: [{type: Test, status: "True", reason: E2E, message: m, lastTransitionTime: "2024-01-02T03:04:05Z"}]}}`},
	"node.k8s.io/v1/runtimeclasses":        {spec: `{handler: h}`, mutate: `{metadata: {annotations: {x: z}}}`},

	"resource.k8s.io/v1/deviceclasses":          {spec: `{spec: {}}`, mutate: `{spec: {selectors: [{cel: {expression: "true"}}]}}`},
	"resource.k8s.io/v1/devicetaintrules":       {spec: `{spec: {taint: {key: example.com/k, effect: NoSchedule}}}`, mutate: `{spec: {taint: {key: example.com/k, effect: NoExecute}}}`},
	"resource.k8s.io/v1/resourceclaims":         {spec: `{spec: {devices: {requests: [{name: r, exactly: {deviceClassName: c}}]}}}`, mutate: `{metadata: {annotations: {x: z}}}`},
	"resource.k8s.io/v1/resourceclaimtemplates": {spec: `{spec: {spec: {devices: {requests: [{name: r, exactly: {deviceClassName: c}}]}}}}`, mutate: `{metadata: {annotations: {x: z}}}`},
	"resource.k8s.io/v1/resourceslices":         {spec: `{spec: {driver: d.example.com, nodeName: none, pool: {name: p, resourceSliceCount: 1}, devices: [{name: one}]}}`, mutate: `{spec: {pool: {generation: 2}}}`},

	"storage.k8s.io/v1/csidrivers":              {spec: `{spec: {attachRequired: true}}`, mutate: `{metadata: {annotations: {x: z}}}`},
	"storage.k8s.io/v1/csinodes":                {spec: `{spec: {drivers: []}}`, mutate: `{spec: {drivers: [{name: d, nodeID: one}]}}`},
	"storage.k8s.io/v1/csistoragecapacities":    {spec: `{storageClassName: c, capacity: 1Gi}`, mutate: `{capacity: 2Gi}`},
	"storage.k8s.io/v1/storageclasses":          {spec: `{provisioner: p}`, mutate: `{allowVolumeExpansion: true}`},
	"storage.k8s.io/v1/volumeattachments":       {spec: `{spec: {attacher: a, nodeName: one, source: {persistentVolumeName: v}}}`, mutate: `{metadata: {annotations: {x: z}}}`, status: `{status: {attached: true}}`},
	"storage.k8s.io/v1/volumeattributesclasses": {spec: `{driverName: d, parameters: {a: b}}`, mutate: `{metadata: {annotations: {x: z}}}`},

	"storagemigration.k8s.io/v1/storageversionmigrations": {spec: `{spec: {resource: {group: no.example.com, resource: xs}}}`, mutate: `{metadata: {annotations: {x: z}}}`, status: `{status: {conditions: [{type: Running, status: "False", reason: E2E, message: m, lastTransitionTime: "2024-01-02T03:04:05Z"}]}}`},
}

// TestLifecycles is "should run through the lifecycle of …" for every
// resource that discovery names.
func TestLifecycles(t *testing.T) {
	ns := namespace(t)
	_, lists, err := world.kube.Discovery().ServerGroupsAndResources()
	must(t, err)
	for _, l := range lists {
		for _, r := range l.APIResources {
			if strings.Contains(r.Name, "/") || !slices.Contains([]string(r.Verbs), "list") || !slices.Contains([]string(r.Verbs), "create") {
				continue
			}
			path := l.GroupVersion + "/" + r.Name
			t.Run(path, func(t *testing.T) {
				c, ok := kinds[path]
				if !ok {
					t.Fatal("this resource has no object in the table kinds")
				}
				in := ""
				if r.Namespaced {
					in = ns
				}
				obj := object(t, strings.ReplaceAll(or(c.spec, "{}"), "NS", ns))
				obj.SetAPIVersion(l.GroupVersion)
				obj.SetKind(r.Kind)
				run := lifecycle{t: t, api: client(path, in), all: client(path, ""), label: "life=" + r.Name, collect: slices.Contains([]string(r.Verbs), "deletecollection")}
				run.through(obj, strings.ReplaceAll(c.mutate, "NS", ns), c.status)
			})
		}
	}
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

type lifecycle struct {
	t        *testing.T
	api, all dynamic.ResourceInterface
	label    string
	collect  bool
}

func (l *lifecycle) through(obj *unstructured.Unstructured, mutate, status string) {
	t, ctx := l.t, l.t.Context()
	name := or(obj.GetName(), "life")
	obj.SetName(name)
	labels := obj.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	key, value, _ := strings.Cut(l.label, "=")
	labels[key] = value
	obj.SetLabels(labels)
	start := get[*unstructured.UnstructuredList](t)(l.api.List(ctx, metav1.ListOptions{LabelSelector: l.label}))
	w, err := l.all.Watch(ctx, metav1.ListOptions{LabelSelector: l.label, ResourceVersion: start.GetResourceVersion()})
	must(t, err)
	defer w.Stop()

	made := get[*unstructured.Unstructured](t)(l.api.Create(ctx, obj, metav1.CreateOptions{}))
	if made.GetUID() == "" || made.GetCreationTimestamp() == (metav1.Time{}) || made.GetResourceVersion() == "" {
		t.Fatalf("created without the server's metadata: %v", made.Object["metadata"])
	}
	event(t, w, "ADDED")
	if _, err := l.api.Create(ctx, obj, metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		t.Errorf("created twice: %v", err)
	}
	if n := len(get[*unstructured.UnstructuredList](t)(l.all.List(ctx, metav1.ListOptions{LabelSelector: l.label})).Items); n != 1 {
		t.Errorf("%d objects in the list of all namespaces", n)
	}
	patch, err := yaml.YAMLToJSON([]byte(mutate))
	must(t, err)
	patched := get[*unstructured.Unstructured](t)(l.api.Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{}))
	l.holds(patched, patch)
	l.settles(w, patch)

	for {
		read := get[*unstructured.Unstructured](t)(l.api.Get(ctx, name, metav1.GetOptions{}))
		unstructured.SetNestedField(read.Object, "yes", "metadata", "annotations", "updated")
		updated, err := l.api.Update(ctx, read, metav1.UpdateOptions{})
		if apierrors.IsConflict(err) {
			continue // a controller was faster
		}
		must(t, err)
		if updated.GetAnnotations()["updated"] != "yes" {
			t.Error("an update is lost")
		}
		break
	}
	l.settles(w, []byte(`{"metadata":{"annotations":{"updated":"yes"}}}`))
	if status != "" {
		l.status(name, status, w)
	}
	apply := fmt.Sprintf(`{"apiVersion":%q,"kind":%q,"metadata":{"name":%q,"labels":{"applied":"yes"}}}`, obj.GetAPIVersion(), obj.GetKind(), name)
	applied := get[*unstructured.Unstructured](t)(l.api.Patch(ctx, name, types.ApplyPatchType, []byte(apply), metav1.PatchOptions{FieldManager: "applier"}))
	if applied.GetLabels()["applied"] != "yes" || applied.GetLabels()[key] != value {
		t.Errorf("labels after an apply: %v", applied.GetLabels())
	}
	l.settles(w, []byte(`{"metadata":{"labels":{"applied":"yes"}}}`))
	l.end(name, w)
}

// end deletes the object and waits for its end.
func (l *lifecycle) end(name string, w watch.Interface) {
	t, ctx := l.t, l.t.Context()
	var err error
	if zero := int64(0); l.collect {
		err = l.api.DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &zero}, metav1.ListOptions{LabelSelector: l.label})
	} else {
		err = l.api.Delete(ctx, name, metav1.DeleteOptions{})
	}
	must(t, err)
	for {
		select {
		case e, ok := <-w.ResultChan():
			if !ok {
				t.Fatal("the watch ended")
			}
			if e.Type == watch.Deleted {
				if _, err := l.api.Get(ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
					t.Errorf("after its end: %v", err)
				}
				return
			}
		case <-time.After(limit):
			t.Fatalf("no end in %s", limit)
		}
	}
}

// status patches and updates the status, and checks that the main resource
// leaves it alone.
func (l *lifecycle) status(name, status string, w watch.Interface) {
	t, ctx := l.t, l.t.Context()
	patch, err := yaml.YAMLToJSON([]byte(status))
	must(t, err)
	got := get[*unstructured.Unstructured](t)(l.api.Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{}, "status"))
	l.holds(got, patch)
	l.settles(w, patch)
	for {
		got = get[*unstructured.Unstructured](t)(l.api.Get(ctx, name, metav1.GetOptions{}, "status"))
		unstructured.SetNestedField(got.Object, "yes", "metadata", "annotations", "by-status")
		_, err := l.api.UpdateStatus(ctx, got, metav1.UpdateOptions{})
		if !apierrors.IsConflict(err) {
			must(t, err)
			break
		}
	}
	before := get[*unstructured.Unstructured](t)(l.api.Get(ctx, name, metav1.GetOptions{}))
	after := get[*unstructured.Unstructured](t)(l.api.Patch(ctx, name, types.MergePatchType, []byte(`{"status":{"phase":"Nonsense","replicas":77}}`), metav1.PatchOptions{}))
	if phase, _, _ := unstructured.NestedString(after.Object, "status", "phase"); phase == "Nonsense" {
		t.Error("a patch of the main resource changed the status")
	}
	if before.GetResourceVersion() != after.GetResourceVersion() {
		t.Logf("resource version %s became %s", before.GetResourceVersion(), after.GetResourceVersion())
	}
}

// holds checks that an object has what a merge patch set.
func (l *lifecycle) holds(obj *unstructured.Unstructured, patch []byte) {
	l.t.Helper()
	if miss := lacks(obj.Object, patch); miss != "" {
		l.t.Errorf("after %s: %s", patch, miss)
	}
}

// lacks tells the first path that differs.
func lacks(obj map[string]any, patch []byte) string {
	var want map[string]any
	if err := json.Unmarshal(patch, &want); err != nil {
		return err.Error()
	}
	return differs("", want, obj)
}

func differs(path string, want, have any) string {
	switch want := want.(type) {
	case map[string]any:
		m, ok := have.(map[string]any)
		if !ok {
			return fmt.Sprintf("%s is %v, want %v", path, have, want)
		}
		for k, v := range want {
			if d := differs(path+"."+k, v, m[k]); d != "" {
				return d
			}
		}
		return ""
	case []any:
		list, ok := have.([]any)
		if !ok || len(list) < len(want) {
			return fmt.Sprintf("%s is %v, want %v", path, have, want)
		}
		for i := range want {
			if d := differs(fmt.Sprintf("%s[%d]", path, i), want[i], list[i]); d != "" {
				return d
			}
		}
		return ""
	}
	if fmt.Sprint(want) != fmt.Sprint(have) {
		return fmt.Sprintf("%s is %v, want %v", path, have, want)
	}
	return ""
}

// settles waits for a MODIFIED of a watch that holds what a patch set;
// controllers may write in between.
func (l *lifecycle) settles(w watch.Interface, patch []byte) {
	l.t.Helper()
	for {
		o := event(l.t, w, watch.Modified).(*unstructured.Unstructured)
		if lacks(o.Object, patch) == "" {
			return
		}
	}
}
