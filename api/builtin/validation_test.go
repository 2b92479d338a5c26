package builtin_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/builtin"
)

// kind finds a row of the table: "deployments", or "events.k8s.io/events".
func kind(t *testing.T, resource string) *api.Kind {
	t.Helper()
	group, name, ok := strings.Cut(resource, "/")
	if !ok {
		group, name = "", resource
	}
	for _, k := range builtin.Kinds() {
		if k.Resource == name && (!ok || k.GVK.Group == group) {
			return k
		}
	}
	t.Fatalf("no kind %s", resource)
	return nil
}

// load makes an object of a manifest, with defaults.
func load(t *testing.T, k *api.Kind, manifest string) api.Object {
	t.Helper()
	obj := k.New()
	if err := yaml.UnmarshalStrict([]byte(strings.ReplaceAll(manifest, "\t", "  ")), obj); err != nil {
		t.Fatalf("%v in\n%s", err, manifest)
	}
	if k.Default != nil {
		k.Default(obj)
	}
	return obj
}

func texts(errs field.ErrorList) []string {
	var out []string
	for _, e := range errs {
		out = append(out, e.Error())
	}
	return out
}

// pod is a manifest of a pod with more lines of spec, and of its container.
func pod(spec, container string) string {
	return fmt.Sprintf("metadata: {name: p, namespace: ns}\nspec:\n  containers:\n  - name: c\n    image: i\n%s\n%s", container, spec)
}

func deployment(spec string) string {
	return "metadata: {name: d}\nspec:\n" + spec +
		"\n  template:\n    metadata: {labels: {app: a}}\n    spec: {containers: [{name: c, image: i}]}"
}

func TestValidateCreate(t *testing.T) {
	for _, c := range []struct {
		name, resource, manifest string
		want                     []string
	}{
		{"pod", "pods", pod("", ""), nil},
		{"pod without containers", "pods", "metadata: {name: p}\nspec: {containers: []}", []string{
			`spec.containers: Required value`}},
		{"pod with every probe", "pods", pod("", `    livenessProbe: {httpGet: {port: 80}, successThreshold: 2}
    readinessProbe: {exec: {command: []}, tcpSocket: {port: x}}
    startupProbe: {periodSeconds: -1, grpc: {port: 70000}}`), []string{
			`spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1`,
			`spec.containers[0].readinessProbe.exec.command: Required value`,
			`spec.containers[0].readinessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type`,
			`spec.containers[0].startupProbe.grpc.port: Invalid value: 70000: must be between 1 and 65535, inclusive`,
			`spec.containers[0].startupProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0`,
		}},
		{"names, ports, env", "pods", pod("  hostname: a.b", `    ports:
    - {name: http, containerPort: 80, hostPort: 8080}
    - {name: http, containerPort: 0, protocol: ICMP}
    env:
    - {name: ""}
    - {name: A, value: x, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: B, valueFrom: {fieldRef: {fieldPath: spec.schedulerName}}}
    - {name: C, valueFrom: {fieldRef: {fieldPath: "metadata.labels['a/b/c']"}}}
    envFrom: [{}]`), []string{
			`spec.containers[0].ports[1].name: Duplicate value: "http"`,
			`spec.containers[0].ports[1].containerPort: Required value`,
			`spec.containers[0].ports[1].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP"`,
			`spec.containers[0].env[0].name: Required value`,
			"spec.containers[0].env[1].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
			`spec.containers[0].env[2].valueFrom.fieldRef.fieldPath: Unsupported value: "spec.schedulerName": supported values: "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"`,
			`spec.containers[0].env[3].valueFrom.fieldRef: Invalid value: "a/b/c": a valid label key must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')`,
			"spec.containers[0].envFrom: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`",
			`spec.hostname: Invalid value: "a.b": must not contain dots`,
		}},
		{"resources", "pods", pod("", `    resources:
      limits: {cpu: "1", foo: "1", example.com/gpu: "1.5"}
      requests: {cpu: "2", memory: "-1"}`), []string{
			`spec.containers[0].resources.limits[example.com/gpu]: Invalid value: "1500m": must be an integer`,
			`spec.containers[0].resources.limits[foo]: Invalid value: "foo": must be a standard resource type or fully qualified`,
			`spec.containers[0].resources.limits[foo]: Invalid value: "foo": must be a standard resource for containers`,
			`spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1`,
			`spec.containers[0].resources.requests[example.com/gpu]: Invalid value: "1500m": must be an integer`,
			`spec.containers[0].resources.requests[foo]: Invalid value: "foo": must be a standard resource type or fully qualified`,
			`spec.containers[0].resources.requests[foo]: Invalid value: "foo": must be a standard resource for containers`,
			`spec.containers[0].resources.requests[memory]: Invalid value: "-1": must be greater than or equal to 0`,
		}},
		{"volumes and mounts", "pods", pod(`  volumes:
  - {name: a, emptyDir: {}, hostPath: {path: /x}}
  - {name: s, secret: {items: [{key: k, path: ../up}]}}
  - {name: ok, configMap: {name: c}}
  - {name: ok, emptyDir: {}}`, `    volumeMounts:
    - {name: ok, mountPath: /a, subPath: /abs}
    - {name: gone, mountPath: /a}`), []string{
			`spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type`,
			`spec.volumes[1].secret.secretName: Required value`,
			`spec.volumes[1].secret.items[0].path: Invalid value: "../up": must not contain '..'`,
			`spec.volumes[3].name: Duplicate value: "ok"`,
			`spec.containers[0].volumeMounts.subPath: Invalid value: "/abs": must be a relative path`,
			`spec.containers[0].volumeMounts[1].name: Not found: "gone"`,
			`spec.containers[0].volumeMounts[1].mountPath: Invalid value: "/a": must be unique`,
		}},
		{"init containers and sidecars", "pods", pod(`  initContainers:
  - {name: i, image: i, readinessProbe: {tcpSocket: {port: 1}}}
  - {name: c, image: i, restartPolicy: Always, readinessProbe: {tcpSocket: {port: 1}}}
  ephemeralContainers: [{name: e, image: i}]`, ""), []string{
			`spec.initContainers[0].readinessProbe: Forbidden: may not be set for init containers without restartPolicy=Always`,
			`spec.initContainers[1].name: Duplicate value: "c"`,
			`spec.ephemeralContainers: Forbidden: cannot be set on create`,
		}},
		{"scheduling", "pods", pod(`  nodeName: m
  schedulingGates: [{name: g}]
  tolerations: [{operator: Equal, value: v}, {key: k, operator: Exists, value: v}, {key: k, tolerationSeconds: 5}]
  topologySpreadConstraints: [{maxSkew: 0, topologyKey: z, whenUnsatisfiable: Never}]
  affinity:
    nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: []}}
    podAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 101, podAffinityTerm: {topologyKey: z}}]}`, ""), []string{
			`spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value: must have at least one node selector term`,
			`spec.affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 101: must be in the range 1-100`,
			`spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero`,
			`spec.topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: "Never": supported values: "DoNotSchedule", "ScheduleAnyway"`,
			"spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
			"spec.tolerations[1].operator: Invalid value: \"v\": value must be empty when `operator` is 'Exists'",
			"spec.tolerations[2].effect: Invalid value: \"\": effect must be 'NoExecute' when `tolerationSeconds` is set",
			`spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared`,
		}},
		{"security", "pods", pod("  securityContext: {runAsUser: -1, sysctls: [{name: net.x}, {name: net.x}]}\n  hostNetwork: true",
			"    securityContext: {privileged: true, allowPrivilegeEscalation: false, seccompProfile: {type: Localhost}}"), []string{
			`spec.containers[0].securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost`,
			"spec.containers[0].securityContext: Invalid value: {\"privileged\":true,\"allowPrivilegeEscalation\":false,\"seccompProfile\":{\"type\":\"Localhost\"}}: cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
			`spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive`,
			`spec.securityContext.sysctls[0].name: Invalid value: "net.x": may not be specified when 'hostNetwork' is true`,
			`spec.securityContext.sysctls[1].name: Duplicate value: "net.x"`,
			`spec.securityContext.sysctls[1].name: Invalid value: "net.x": may not be specified when 'hostNetwork' is true`,
		}},

		{"deployment", "deployments", deployment("  selector: {matchLabels: {app: a}}"), nil},
		{"deployment, no match", "deployments", deployment("  replicas: -1\n  selector: {matchLabels: {app: b}}\n  strategy: {type: Recreate, rollingUpdate: {}}"), []string{
			`spec.replicas: Invalid value: -1: must be greater than or equal to 0`,
			"spec.template.metadata.labels: Invalid value: {\"app\":\"a\"}: `selector` does not match template `labels`",
			"spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
		}},
		{"deployment, no selector", "deployments", deployment("  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 0%}}"), []string{
			`spec.selector: Required value`,
			"spec.template.metadata.labels: Invalid value: {\"app\":\"a\"}: `selector` does not match template `labels`",
			"spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0",
		}},

		{"service", "services", "metadata: {name: s}\nspec: {ports: [{port: 80}]}", nil},
		{"service of many faults", "services", `metadata: {name: s}
spec:
  type: ClusterIP
  clusterIP: 10.0.0.300
  clusterIPs: [10.0.0.300]
  externalIPs: [127.0.0.1]
  sessionAffinity: Sometimes
  ports: [{port: 80, nodePort: 30000}, {name: b, port: 80, targetPort: UPPER}]`, []string{
			`spec.ports[0].name: Required value`,
			`spec.ports[1].targetPort: Invalid value: "UPPER": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)`,
			`spec.ports[1].targetPort: Invalid value: "UPPER": must contain at least one letter (a-z)`,
			`spec.sessionAffinity: Unsupported value: "Sometimes": supported values: "ClientIP", "None"`,
			`spec.clusterIPs[0]: Invalid value: "10.0.0.300": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)`,
			`spec.externalIPs[0]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)`,
			"spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
			`spec.ports[1]: Duplicate value: {"protocol":"TCP","port":80,"targetPort":0}`,
		}},
		{"external name", "services", "metadata: {name: s}\nspec: {type: ExternalName, externalName: a_b}", []string{
			`spec.externalName: Invalid value: "a_b": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')`,
		}},

		{"config map", "configmaps", "metadata: {name: c}\ndata: {a/b: x, k: v}\nbinaryData: {k: eA==}", []string{
			`data[a/b]: Invalid value: "a/b": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')`,
			`data[k]: Invalid value: "k": duplicate of key present in binaryData`,
		}},
		{"large config map", "configmaps", "metadata: {name: c}\ndata: {k: " + strings.Repeat("x", 1<<20+1) + "}", []string{
			`[]: Too long: may not be more than 1048576 bytes`}},
		{"tls secret", "secrets", "metadata: {name: s}\ntype: kubernetes.io/tls\nstringData: {tls.crt: x}", []string{
			`data[tls.key]: Required value`}},
		{"registry secret", "secrets", "metadata: {name: s}\ntype: kubernetes.io/dockerconfigjson\nstringData: {.dockerconfigjson: '{'}", []string{
			`data[.dockerconfigjson]: Invalid value: "<secret contents redacted>": unexpected end of JSON input`}},
		{"role", "roles", "metadata: {name: r}\nrules: [{verbs: [], nonResourceURLs: [/x]}, {verbs: [get]}]", []string{
			`rules[0].verbs: Required value: verbs must contain at least one value`,
			`rules[0].nonResourceURLs: Invalid value: ["/x"]: namespaced rules cannot apply to non-resource URLs`,
			`rules[1].apiGroups: Required value: resource rules must supply at least one api group`,
			`rules[1].resources: Required value: resource rules must supply at least one resource`,
		}},
		{"cluster role binding", "clusterrolebindings", "metadata: {name: b}\nroleRef: {kind: Role, name: r}\nsubjects: [{kind: ServiceAccount, name: a}, {kind: User, name: u}]", []string{
			`roleRef.kind: Unsupported value: "Role": supported values: "ClusterRole"`,
			`subjects[0].namespace: Required value`,
		}},
		{"priority class", "priorityclasses", "metadata: {name: c}\nvalue: 1000000001", []string{
			`value: Forbidden: maximum allowed value of a user defined priority is 1000000000`}},
		{"endpoint slice", "endpointslices", "metadata: {name: s}\naddressType: IPv4\nendpoints: [{addresses: ['::1']}]\nports: [{port: 0}, {port: 1}]", []string{
			`endpoints[0].addresses[0]: Invalid value: "::1": must be an IPv4 address`,
			`endpoints[0].addresses[0]: Invalid value: "::1": may not be in the loopback range (127.0.0.0/8, ::1/128)`,
			`ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive`,
			`ports[1].name: Duplicate value: ""`,
		}},
		{"lease", "leases", "metadata: {name: l}\nspec: {leaseDurationSeconds: 0}", []string{
			`spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0`}},
		{"event elsewhere", "events", "metadata: {name: e, namespace: a}\ninvolvedObject: {namespace: b}", []string{
			`involvedObject.namespace: Invalid value: "b": does not match event.namespace`}},
		{"new event", "events.k8s.io/events", "metadata: {name: e, namespace: a}\nregarding: {namespace: a}\ntype: Odd", []string{
			`eventTime: Required value`,
			`type: Invalid value: "": has invalid value: Odd`,
		}},
		{"review without user", "subjectaccessreviews", "spec: {resourceAttributes: {verb: get}}", []string{
			`spec.user: Invalid value: "": at least one of user or group must be specified`}},
		{"claim", "persistentvolumeclaims", "metadata: {name: c}\nspec: {accessModes: [ReadWriteOnce]}", []string{
			`spec.resources[storage]: Required value`}},
		{"node", "nodes", `metadata: {name: n, annotations: {scheduler.alpha.kubernetes.io/taints: '[{"key":"a","effect":"Never"}]', scheduler.alpha.kubernetes.io/preferAvoidPods: '{"preferAvoidPods":[{}]}'}}
spec: {podCIDRs: [10.0.0.0/24, 10.0.0.0/24]}
status: {declaredFeatures: [B, B, A, low], nodeInfo: {swap: {capacity: 0}}}`, []string{
			`metadata.annotations.scheduler.alpha.kubernetes.io/taints[0].effect: Unsupported value: "Never": supported values: "NoExecute", "NoSchedule", "PreferNoSchedule"`,
			`metadata.annotations.scheduler.alpha.kubernetes.io/preferAvoidPods[0].PodSignature: Required value`,
			`metadata.nodeSwapStatus.capacity: Invalid value: 0: must be greater than zero`,
			`status.declaredFeatures[1]: Duplicate value: "B"`,
			`status.declaredFeatures[2]: Invalid value: "A": list must be sorted alphabetically`,
			`status.declaredFeatures[3]: Invalid value: "low": invalid feature name "low": must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes`,
			`spec.podCIDRs: Invalid value: ["10.0.0.0/24","10.0.0.0/24"]: may specify no more than one CIDR for each IP family`,
		}},
		{"init container that a resize restarts", "pods", pod("  initContainers: [{name: i, image: i, resizePolicy: [{resourceName: cpu, restartPolicy: RestartContainer}]}]", ""), []string{
			`spec.initContainers[0].resizePolicy[0].restartPolicy: Invalid value: "RestartContainer": must not be set to 'RestartContainer' for non-sidecar initContainers`,
		}},
		{"windows resources", "pods", pod("  os: {name: windows}\n  resources: {limits: {cpu: 1}}", ""), []string{
			`spec.resources: Forbidden: may not be set for a windows pod`,
		}},
		{"limit range", "limitranges", "metadata: {name: l}\nspec: {limits: [{type: Container, min: {cpu: 2}, max: {cpu: 1}}]}", []string{
			`spec.limits[0].min[cpu]: Invalid value: "2": min value 2 is greater than max value 1`,
			`spec.limits[0].defaultRequest[cpu]: Invalid value: "1": min value 2 is greater than default request value 1`,
			`spec.limits[0].default[cpu]: Invalid value: "2": min value 2 is greater than default value 1`,
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := kind(t, c.resource)
			got := texts(k.Validate(load(t, k, c.manifest)))
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("(- want, + got)\n%s", d)
			}
		})
	}
}

func TestValidateUpdate(t *testing.T) {
	for _, c := range []struct {
		name, resource, old, manifest string
		want                          []string // beginnings
	}{
		{"image of a pod", "pods", pod("", ""), strings.Replace(pod("", ""), "image: i", "image: j", 1), nil},
		{"command of a pod", "pods", pod("", ""), pod("", "    command: [x]"), []string{
			"spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds`"}},
		{"a new toleration", "pods", pod("", ""), pod("  tolerations: [{operator: Exists}]", ""), nil},
		{"a toleration less", "pods", pod("  tolerations: [{operator: Exists}]", ""), pod("", ""), []string{
			`spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds`}},
		{"a gate less", "pods", pod("  schedulingGates: [{name: g}]", ""), pod("", ""), nil},
		{"a gate more", "pods", pod("", ""), pod("  schedulingGates: [{name: g}]", ""), []string{
			`spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'g'`}},
		{"a gated pod narrows its nodes", "pods", pod("  schedulingGates: [{name: g}]", ""),
			pod("  schedulingGates: [{name: g}]\n  nodeSelector: {a: b}", ""), nil},
		{"deadline", "pods", pod("  activeDeadlineSeconds: 5", ""), pod("  activeDeadlineSeconds: 6", ""), []string{
			`spec.activeDeadlineSeconds: Invalid value: 6: must be less than or equal to previous value`}},
		{"selector of a deployment", "deployments", deployment("  selector: {matchLabels: {app: a}}"),
			deployment("  selector: {matchExpressions: [{key: app, operator: Exists}]}"), []string{
				`spec.selector: Invalid value: {"matchExpressions":[{"key":"app","operator":"Exists"}]}: field is immutable`}},
		{"sealed config map", "configmaps", "metadata: {name: c}\nimmutable: true\ndata: {a: b}", "metadata: {name: c}\ndata: {a: c}", []string{
			"immutable: Forbidden: field is immutable when `immutable` is set",
			"data: Forbidden: field is immutable when `immutable` is set"}},
		{"type of a secret", "secrets", "metadata: {name: s}", "metadata: {name: s}\ntype: x", []string{
			`type: Invalid value: "x": field is immutable`}},
		{"role of a binding", "rolebindings", "metadata: {name: b}\nroleRef: {kind: Role, name: a}", "metadata: {name: b}\nroleRef: {kind: Role, name: b}", []string{
			`roleRef: Invalid value: {"apiGroup":"rbac.authorization.k8s.io","kind":"Role","name":"b"}: cannot change roleRef`}},
		{"address of a service", "services", "metadata: {name: s}\nspec: {clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], ports: [{port: 1}]}",
			"metadata: {name: s}\nspec: {clusterIP: 10.0.0.2, clusterIPs: [10.0.0.2], ports: [{port: 1}]}", []string{
				`spec.clusterIPs[0]: Invalid value: ["10.0.0.2"]: may not change once set`}},
		{"range of a node", "nodes", "metadata: {name: m}\nspec: {podCIDR: 10.0.0.0/24}", "metadata: {name: m}\nspec: {podCIDR: 10.0.1.0/24}", []string{
			`spec.podCIDRs: Forbidden: node updates may not change podCIDR except from "" to valid`}},
		{"provider of a node", "nodes", "metadata: {name: m}\nspec: {providerID: a, externalID: x}", "metadata: {name: m}\nspec: {providerID: b}", []string{
			`spec.providerID: Invalid value: null: field cannot be modified once set`, `spec.externalID: Forbidden: may not be updated`}},
		{"provider of a node no more", "nodes", "metadata: {name: m}\nspec: {providerID: a}", "metadata: {name: m}", []string{
			`spec.providerID: Invalid value: null: field cannot be cleared once set`}},
		{"value of a priority class", "priorityclasses", "metadata: {name: c}\nvalue: 1", "metadata: {name: c}\nvalue: 2", []string{
			`value: Forbidden: may not be changed in an update.`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := kind(t, c.resource)
			got := texts(k.ValidateUpdate(load(t, k, c.manifest), load(t, k, c.old)))
			if len(got) != len(c.want) {
				t.Fatalf("got %q, want %q", got, c.want)
			}
			for i := range got {
				if !strings.HasPrefix(got[i], c.want[i]) {
					t.Errorf("got %s\nwant %s…", got[i], c.want[i])
				}
			}
		})
	}
}

func TestValidateStatus(t *testing.T) {
	status := func(text string) string {
		return pod("", "    resources: {requests: {example.com/a: 1}, limits: {example.com/a: 1}}") + "\nstatus:\n" + text
	}
	for _, c := range []struct {
		name, resource, manifest string
		want                     []string
	}{
		{"a user beyond those of specs", "pods", status("  containerStatuses: [{name: c, user: {linux: {uid: 4294967295, gid: 0}}}]"), nil},
		{"no user at all", "pods", status("  containerStatuses: [{name: c, user: {linux: {uid: 4294967296, gid: 0}}}]"), []string{
			`status.containerStatuses[0].user.linux.uid: Invalid value: 4294967296: must be between 0 and 4294967295, inclusive`}},
		{"health of devices", "pods", status("  containerStatuses: [{name: c, allocatedResourcesStatus: [{name: example.com/a, resources: [{resourceID: x, health: Healthy}, {resourceID: x, health: Fine}]}, {name: example.com/b}, {name: 'claim:d'}]}]"), []string{
			`status.containerStatuses[0].allocatedResourcesStatus[0].resources[1].health: Unsupported value: "Fine": supported values: "Healthy", "Unhealthy", "Unknown"`,
			`status.containerStatuses[0].allocatedResourcesStatus[0].resources[1].resourceID: Duplicate value: "x"`,
			`status.containerStatuses[0].allocatedResourcesStatus[1].name: Invalid value: "example.com/b": must match one of the container's resource requests`,
			`status.containerStatuses[0].allocatedResourcesStatus[2].name: Invalid value: "claim:d": must match one of the container's resource claims as 'claim:<claimName>/<requestName>' when container.resources.claims[*].request is set or 'claim:<claimName>' when it is empty`,
		}},
		{"claim of extended resources", "pods", status("  extendedResourceClaimStatus: {resourceClaimName: r, requestMappings: [{containerName: c, resourceName: example.com/a, requestName: q}, {containerName: d, resourceName: x, requestName: q}]}\n  containerStatuses: [{name: c, allocatedResourcesStatus: [{name: 'claim:r/q'}]}]"), []string{
			`status.extendedResourceClaimStatus.requestMappings[1].containerName: Invalid value: "d": must match the name of an entry in spec.initContainers.name or spec.containers.name`,
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := kind(t, c.resource)
			obj := load(t, k, c.manifest)
			if d := cmp.Diff(c.want, texts(k.Status.ValidateUpdate(obj, obj))); d != "" {
				t.Errorf("(- want, + got)\n%s", d)
			}
		})
	}
}
