package builtin_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/proa-dev/proa/api"
)

func TestDefaults(t *testing.T) {
	for _, c := range []struct{ name, resource, manifest, want string }{
		{"pod", "pods", `metadata: {name: p}
spec:
  hostNetwork: true
  volumes: [{name: a}, {name: b, secret: {secretName: s}}, {name: c, hostPath: {path: /}}, {name: d, projected: {sources: [{serviceAccountToken: {path: t}}]}}]
  containers:
  - name: c
    image: example.com/i:v1
    ports: [{containerPort: 80}]
    resources: {limits: {cpu: 1}}
    livenessProbe: {httpGet: {port: 80}}
    env: [{name: A, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]`, `metadata: {name: p}
spec:
  hostNetwork: true
  restartPolicy: Always
  dnsPolicy: ClusterFirst
  schedulerName: default-scheduler
  terminationGracePeriodSeconds: 30
  enableServiceLinks: true
  securityContext: {}
  volumes:
  - {name: a, emptyDir: {}}
  - {name: b, secret: {secretName: s, defaultMode: 420}}
  - {name: c, hostPath: {path: /, type: ""}}
  - {name: d, projected: {defaultMode: 420, sources: [{serviceAccountToken: {path: t, expirationSeconds: 3600}}]}}
  containers:
  - name: c
    image: example.com/i:v1
    imagePullPolicy: IfNotPresent
    terminationMessagePath: /dev/termination-log
    terminationMessagePolicy: File
    ports: [{containerPort: 80, hostPort: 80, protocol: TCP}]
    resources: {limits: {cpu: 1}, requests: {cpu: 1}}
    livenessProbe: {httpGet: {port: 80, path: /, scheme: HTTP}, timeoutSeconds: 1, periodSeconds: 10, successThreshold: 1, failureThreshold: 3}
    env: [{name: A, valueFrom: {fieldRef: {apiVersion: v1, fieldPath: metadata.name}}}]
`},
		{"moving tags", "pods", "spec: {containers: [{image: i}, {image: 'i:latest'}, {image: 'i@sha256:" + digest + "'}, {image: 'A B'}]}", ""},
		{"service", "services", "spec: {type: NodePort, sessionAffinity: ClientIP, ports: [{port: 80}]}",
			"spec: {type: NodePort, sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 10800}}, " +
				"internalTrafficPolicy: Cluster, externalTrafficPolicy: Cluster, ports: [{port: 80, targetPort: 80, protocol: TCP}]}"},
		{"namespace", "namespaces", "metadata: {name: m}", "metadata: {name: m, labels: {kubernetes.io/metadata.name: m}}"},
		{"secret", "secrets", "stringData: {a: b}", "type: Opaque\ndata: {a: Yg==}"},
		{"binding", "rolebindings", "roleRef: {kind: Role, name: r}\nsubjects: [{kind: User, name: u}, {kind: ServiceAccount, name: s}]",
			"roleRef: {kind: Role, name: r, apiGroup: rbac.authorization.k8s.io}\nsubjects: [{kind: User, name: u, apiGroup: rbac.authorization.k8s.io}, {kind: ServiceAccount, name: s}]"},
		{"tolerations of devices", "resourceclaims", "spec: {devices: {requests: [{name: a, exactly: {deviceClassName: c, tolerations: [{key: k}]}}, {name: b, firstAvailable: [{name: s, deviceClassName: c, tolerations: [{key: k}, {operator: Exists}]}]}]}}",
			"spec: {devices: {requests: [{name: a, exactly: {deviceClassName: c, allocationMode: ExactCount, count: 1, tolerations: [{key: k, operator: Equal}]}}, " +
				"{name: b, firstAvailable: [{name: s, deviceClassName: c, allocationMode: ExactCount, count: 1, tolerations: [{key: k, operator: Equal}, {operator: Exists}]}]}]}}"},
		{"limits", "limitranges", "spec: {limits: [{type: Container, max: {cpu: 2}, min: {memory: 1}}]}",
			"spec: {limits: [{type: Container, max: {cpu: 2}, min: {memory: 1}, default: {cpu: 2}, defaultRequest: {cpu: 2, memory: 1}}]}"},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := kind(t, c.resource)
			got := load(t, k, c.manifest)
			if c.want == "" {
				var policies []string
				for _, ctr := range got.(*corev1.Pod).Spec.Containers {
					policies = append(policies, string(ctr.ImagePullPolicy))
				}
				if d := cmp.Diff([]string{"Always", "Always", "IfNotPresent", "IfNotPresent"}, policies); d != "" {
					t.Error(d)
				}
				return
			}
			want := k.New()
			if err := yaml.UnmarshalStrict([]byte(c.want), want); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(asYAML(t, want), asYAML(t, got)); d != "" {
				t.Errorf("(- want, + got)\n%s", d)
			}
			k.Default(got)
			if d := cmp.Diff(asYAML(t, want), asYAML(t, got)); d != "" {
				t.Errorf("the second time: (- want, + got)\n%s", d)
			}
		})
	}
}

const digest = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func asYAML(t *testing.T, o api.Object) string {
	t.Helper()
	out, err := yaml.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// What a client may not set is cleared, what an update may not change is kept.
func TestPrepare(t *testing.T) {
	k := kind(t, "pods")
	p := load(t, k, pod("  schedulingGates: [{name: g}]", "")).(*corev1.Pod)
	p.Status.Phase = corev1.PodFailed
	k.PrepareCreate(p)
	if p.Status.Phase != corev1.PodPending || p.Status.QOSClass != corev1.PodQOSBestEffort || p.Generation != 1 ||
		len(p.Status.Conditions) != 1 || p.Status.Conditions[0].Reason != corev1.PodReasonSchedulingGated {
		t.Errorf("new pod: generation %d, %+v", p.Generation, p.Status)
	}
	next := p.DeepCopy()
	next.Status.Phase = corev1.PodRunning
	next.Spec.SchedulingGates = nil
	k.PrepareUpdate(next, p)
	if next.Status.Phase != corev1.PodPending || next.Generation != 2 {
		t.Errorf("update: generation %d, phase %s", next.Generation, next.Status.Phase)
	}
	status := p.DeepCopy()
	status.Status.Phase = corev1.PodRunning
	status.Spec.NodeName = "n"
	k.Status.PrepareUpdate(status, p)
	if status.Status.Phase != corev1.PodRunning || status.Spec.NodeName != "" {
		t.Errorf("status update: %+v", status.Spec)
	}
	for want, change := range map[int64]func(*corev1.Pod){
		0:  func(*corev1.Pod) {},
		30: func(p *corev1.Pod) { p.Spec.NodeName = "n" },
		1:  func(p *corev1.Pod) { p.Spec.NodeName = "n"; *p.Spec.TerminationGracePeriodSeconds = -5 },
	} {
		p := p.DeepCopy()
		change(p)
		if asked := ptr.To[int64](7); k.GracePeriod(p, asked) != min(want*7, 7) {
			t.Errorf("grace period %d, asked for 7", k.GracePeriod(p, asked))
		}
		if got := k.GracePeriod(p, nil); got != want {
			t.Errorf("grace period %d, want %d", got, want)
		}
	}
}

// Fields of features that are off by default go from new objects, and stay in
// those that have them.
func TestGatedFields(t *testing.T) {
	k := kind(t, "pods")
	const (
		spec      = "  os: {name: linux}\n  volumes: [{name: v, emptyDir: {mode: 448}}]"
		container = "    lifecycle: {stopSignal: SIGUSR1}\n    volumeMounts: [{name: v, mountPath: /v, bindMountOptions: [noexec]}]"
	)
	fields := func(p *corev1.Pod) string {
		c := p.Spec.Containers[0]
		return fmt.Sprint(c.Lifecycle != nil, c.VolumeMounts[0].BindMountOptions, p.Spec.Volumes[0].EmptyDir.Mode != nil)
	}
	old := load(t, k, pod(spec, container)).(*corev1.Pod)
	next := old.DeepCopy()
	k.PrepareUpdate(next, old)
	if got := fields(next); got != "true [noexec] true" {
		t.Errorf("kept: %s", got)
	}
	k.PrepareCreate(old)
	if got := fields(old); got != "false [] false" {
		t.Errorf("new: %s", got)
	}
}

// A pod as a whole has what its containers ask for, once admission is done.
func TestPodResourcesAreCompleted(t *testing.T) {
	k := kind(t, "pods")
	p := load(t, k, pod("  resources: {limits: {cpu: 2}}", "    resources: {requests: {cpu: 1}, limits: {memory: 64Mi}}")).(*corev1.Pod)
	if p.Spec.Resources.Requests != nil {
		t.Errorf("before admission: %v", p.Spec.Resources)
	}
	k.PrepareCreate(p)
	r := p.Spec.Resources
	if r.Requests.Cpu().String() != "1" || r.Requests.Memory().String() != "64Mi" || r.Limits.Memory().String() != "64Mi" {
		t.Errorf("%v", r)
	}
}

// A service that changes its type lets go of what the new one has not.
func TestServiceChangesType(t *testing.T) {
	k := kind(t, "services")
	old := load(t, k, "metadata: {name: s}\nspec: {type: NodePort, clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1], ports: [{port: 1, nodePort: 30000}]}")
	same := load(t, k, "metadata: {name: s}\nspec: {type: NodePort, ports: [{port: 1}]}").(*corev1.Service)
	k.PrepareUpdate(same, old)
	if same.Spec.ClusterIP != "10.0.0.1" || same.Spec.Ports[0].NodePort != 30000 {
		t.Errorf("an update that names no address lost it: %+v", same.Spec)
	}
	cluster := old.(*corev1.Service).DeepCopy()
	cluster.Spec.Type = corev1.ServiceTypeClusterIP
	k.PrepareUpdate(cluster, old)
	if errs := k.ValidateUpdate(cluster, old); len(errs) > 0 || cluster.Spec.Ports[0].NodePort != 0 {
		t.Errorf("%v, %+v", errs, cluster.Spec)
	}
}

func TestEventConversion(t *testing.T) {
	k := kind(t, "events.k8s.io/events")
	e := load(t, k, "metadata: {name: e, namespace: m}\neventTime: 2026-01-01T00:00:00.000000Z\nnote: hello\nregarding: {kind: Pod}\nseries: {count: 2, lastObservedTime: 2026-01-01T00:00:00.000000Z}")
	e.(*eventsv1.Event).APIVersion, e.(*eventsv1.Event).Kind = "events.k8s.io/v1", "Event"
	stored, err := k.Storage.To(e)
	if err != nil {
		t.Fatal(err)
	}
	if s := stored.(*corev1.Event); s.Message != "hello" || s.InvolvedObject.Kind != "Pod" || s.Series.Count != 2 {
		t.Errorf("%+v", s)
	}
	back, err := k.Storage.From(stored)
	if err != nil || cmp.Diff(asYAML(t, e), asYAML(t, back)) != "" {
		t.Errorf("%v %s", err, cmp.Diff(asYAML(t, e), asYAML(t, back)))
	}
}
