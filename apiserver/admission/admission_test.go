package admission_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/admission"
	"github.com/proa-dev/proa/apiserver/admission/admissiontest"
)

func res(name string) schema.GroupResource { return corev1.Resource(name) }

var (
	classes        = schema.GroupResource{Group: "scheduling.k8s.io", Resource: "priorityclasses"}
	runtimeClasses = schema.GroupResource{Group: "node.k8s.io", Resource: "runtimeclasses"}
)

func meta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name}
}

// cluster is a namespace with its default service account.
func cluster() *admissiontest.Source {
	return admissiontest.New().
		Put(res("namespaces"), &corev1.Namespace{ObjectMeta: meta("", "ns")},
			&corev1.Namespace{ObjectMeta: meta("", "ending"), Status: corev1.NamespaceStatus{Phase: corev1.NamespaceTerminating}}).
		Put(res("serviceaccounts"), &corev1.ServiceAccount{ObjectMeta: meta("ns", "default")}).
		Put(classes, &schedulingv1.PriorityClass{ObjectMeta: meta("", "high"), Value: 1000})
}

func attributes(op admission.Operation, gr schema.GroupResource, obj api.Object) *admission.Attributes {
	a := &admission.Attributes{
		Operation: op, GVR: gr.WithVersion("v1"), Namespace: obj.GetNamespace(), Name: obj.GetName(),
		User: &user.DefaultInfo{Name: "u"},
	}
	if op == admission.Delete {
		a.OldObject = obj
	} else {
		a.Object = obj
	}
	return a
}

func run(c admission.Chain, a *admission.Attributes) error {
	if err := c.Admit(context.Background(), a); err != nil {
		return err
	}
	return c.Validate(context.Background(), a)
}

// text is an error's, and a complaint when it is none that clients get.
func text(err error) string {
	if err == nil {
		return ""
	}
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return "not a status error: " + err.Error()
	}
	return err.Error()
}

func TestNamespaceLifecycle(t *testing.T) {
	chain := admission.Default(admission.Config{Source: cluster()})
	cm := func(ns string) api.Object { return &corev1.ConfigMap{ObjectMeta: meta(ns, "c")} }
	ns := func(name string) api.Object { return &corev1.Namespace{ObjectMeta: meta("", name)} }
	for _, c := range []struct {
		name string
		a    *admission.Attributes
		want string
	}{
		{"create", attributes(admission.Create, res("configmaps"), cm("ns")), ""},
		{"missing", attributes(admission.Create, res("configmaps"), cm("gone")), `namespaces "gone" not found`},
		{"update in a missing one", attributes(admission.Update, res("configmaps"), cm("gone")), `namespaces "gone" not found`},
		{"delete in a missing one", attributes(admission.Delete, res("configmaps"), cm("gone")), ""},
		{"create in an ending one", attributes(admission.Create, res("configmaps"), cm("ending")),
			`configmaps "c" is forbidden: unable to create new content in namespace ending because it is being terminated`},
		{"update in an ending one", attributes(admission.Update, res("configmaps"), cm("ending")), ""},
		{"delete default", attributes(admission.Delete, res("namespaces"), ns("default")), `namespaces "default" is forbidden: this namespace may not be deleted`},
		{"delete kube-system", attributes(admission.Delete, res("namespaces"), ns("kube-system")), `namespaces "kube-system" is forbidden: this namespace may not be deleted`},
		{"delete kube-node-lease", attributes(admission.Delete, res("namespaces"), ns("kube-node-lease")), ""},
		{"a node", attributes(admission.Update, res("nodes"), &corev1.Node{ObjectMeta: meta("", "n")}), ""},
	} {
		err := run(chain, c.a)
		if got := text(err); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
		if strings.Contains(c.want, "terminated") && !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			t.Errorf("%s: no cause", c.name)
		}
	}
}

func TestLiveIsAskedForWhatTheCacheLacks(t *testing.T) {
	asked := ""
	chain := admission.Default(admission.Config{Source: admissiontest.New(), Live: func(_ context.Context, gr schema.GroupResource, _, name string) (api.Object, bool) {
		asked = gr.Resource + " " + name
		return &corev1.Namespace{ObjectMeta: meta("", name)}, true
	}})
	if err := run(chain, attributes(admission.Create, res("configmaps"), &corev1.ConfigMap{ObjectMeta: meta("new", "c")})); err != nil || asked != "namespaces new" {
		t.Errorf("asked for %q: %v", asked, err)
	}
}

func newPod(change func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: meta("ns", "p"), Spec: corev1.PodSpec{
		InitContainers: []corev1.Container{{Name: "i"}}, Containers: []corev1.Container{{Name: "c"}},
	}}
	if change != nil {
		change(p)
	}
	return p
}

func TestPodGetsServiceAccountAndDefaults(t *testing.T) {
	chain := admission.Default(admission.Config{Source: cluster()})
	pod := newPod(nil)
	if err := run(chain, attributes(admission.Create, res("pods"), pod)); err != nil {
		t.Fatal(err)
	}
	volume := pod.Spec.Volumes[0].Name
	if !strings.HasPrefix(volume, "kube-api-access-") || len(volume) != len("kube-api-access-")+5 {
		t.Errorf("volume %q", volume)
	}
	got, err := json.Marshal(pod.Spec)
	if err != nil {
		t.Fatal(err)
	}
	mount := `"resources":{},"volumeMounts":[{"name":"V","readOnly":true,"mountPath":"/var/run/secrets/kubernetes.io/serviceaccount"}]}]`
	want := `{"volumes":[{"name":"V","projected":{"sources":[{"serviceAccountToken":{"expirationSeconds":3607,"path":"token"}},` +
		`{"configMap":{"name":"kube-root-ca.crt","items":[{"key":"ca.crt","path":"ca.crt"}]}},` +
		`{"downwardAPI":{"items":[{"path":"namespace","fieldRef":{"apiVersion":"v1","fieldPath":"metadata.namespace"}}]}}],"defaultMode":420}}],` +
		`"initContainers":[{"name":"i",` + mount + `,"containers":[{"name":"c",` + mount + `,"serviceAccountName":"default","serviceAccount":"default",` +
		`"tolerations":[{"key":"node.kubernetes.io/not-ready","operator":"Exists","effect":"NoExecute","tolerationSeconds":300},` +
		`{"key":"node.kubernetes.io/unreachable","operator":"Exists","effect":"NoExecute","tolerationSeconds":300}],"priority":0,"preemptionPolicy":"PreemptLowerPriority"}`
	if s := strings.ReplaceAll(string(got), volume, "V"); s != want {
		t.Errorf("spec\n%s, want\n%s", s, want)
	}
	again := pod.DeepCopy()
	if err := run(chain, attributes(admission.Create, res("pods"), again)); err != nil || len(again.Spec.Volumes) != 1 || len(again.Spec.Tolerations) != 2 {
		t.Errorf("a copy of an admitted pod: %v, %d volumes, %d tolerations", err, len(again.Spec.Volumes), len(again.Spec.Tolerations))
	}
}

func TestDefaultServiceAccountIsAwaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := cluster()
		source.Delete(res("serviceaccounts"), "ns", "default")
		chain := admission.Default(admission.Config{Source: source})
		start := time.Now()
		want := `pods "p" is forbidden: error looking up service account ns/default: serviceaccount "default" not found`
		if got := text(run(chain, attributes(admission.Create, res("pods"), newPod(nil)))); got != want || time.Since(start) > 2*time.Second {
			t.Errorf("never made: %q after %s", got, time.Since(start))
		}
		start = time.Now()
		time.AfterFunc(100*time.Millisecond, func() {
			source.Put(res("serviceaccounts"), &corev1.ServiceAccount{ObjectMeta: meta("ns", "default")})
		})
		if err := run(chain, attributes(admission.Create, res("pods"), newPod(nil))); err != nil || time.Since(start) > 150*time.Millisecond {
			t.Errorf("made a moment later: %v after %s", err, time.Since(start))
		}
	})
}

func TestPods(t *testing.T) {
	yes, no, number, never := true, false, int32(7), corev1.PreemptNever
	class := "gvisor"
	cpu := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m")}
	source := cluster().
		Put(res("serviceaccounts"),
			&corev1.ServiceAccount{ObjectMeta: meta("ns", "quiet"), AutomountServiceAccountToken: &no, ImagePullSecrets: []corev1.LocalObjectReference{{Name: "pull"}}},
			&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "strict", Annotations: map[string]string{"kubernetes.io/enforce-mountable-secrets": "true"}},
				Secrets: []corev1.ObjectReference{{Name: "mine"}}}).
		Put(classes, &schedulingv1.PriorityClass{ObjectMeta: meta("", "usual"), Value: 5, GlobalDefault: true, PreemptionPolicy: &never}).
		Put(runtimeClasses, &nodev1.RuntimeClass{ObjectMeta: meta("", "gvisor"), Handler: "runsc", Overhead: &nodev1.Overhead{PodFixed: cpu},
			Scheduling: &nodev1.Scheduling{NodeSelector: map[string]string{"rt": "gvisor"}}})
	chain := admission.Default(admission.Config{Source: source})
	secret := func(name string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.ServiceAccountName = "strict"
			p.Spec.Volumes = []corev1.Volume{{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name}}}}
		}
	}
	mirror := func(change func(*corev1.Pod)) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "x"}
			if change != nil {
				change(p)
			}
		}
	}
	for _, c := range []struct {
		name   string
		change func(*corev1.Pod)
		want   string
		check  func(*corev1.Pod) bool
	}{
		{"unknown account", func(p *corev1.Pod) { p.Spec.ServiceAccountName = "gone" },
			`pods "p" is forbidden: error looking up service account ns/gone: serviceaccount "gone" not found`, nil},
		{"generated name", func(p *corev1.Pod) { p.Name, p.GenerateName, p.Spec.ServiceAccountName = "", "web-", "gone" },
			`pods "web-" is forbidden: error looking up service account ns/gone: serviceaccount "gone" not found`, nil},
		{"deprecated field", func(p *corev1.Pod) { p.Spec.DeprecatedServiceAccount = "quiet" }, "", func(p *corev1.Pod) bool { return p.Spec.ServiceAccountName == "quiet" }},
		{"account opts out", func(p *corev1.Pod) { p.Spec.ServiceAccountName = "quiet" }, "",
			func(p *corev1.Pod) bool { return len(p.Spec.Volumes) == 0 && p.Spec.ImagePullSecrets[0].Name == "pull" }},
		{"pod opts in again", func(p *corev1.Pod) {
			p.Spec.ServiceAccountName, p.Spec.AutomountServiceAccountToken = "quiet", &yes
			p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "own"}}
		}, "", func(p *corev1.Pod) bool { return len(p.Spec.Volumes) == 1 && p.Spec.ImagePullSecrets[0].Name == "own" }},
		{"pod opts out", func(p *corev1.Pod) { p.Spec.AutomountServiceAccountToken = &no }, "", func(p *corev1.Pod) bool { return len(p.Spec.Volumes) == 0 }},
		{"path is taken", func(p *corev1.Pod) {
			p.Spec.InitContainers = nil
			p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "x", MountPath: "/var/run/secrets/kubernetes.io/serviceaccount"}}
		}, "", func(p *corev1.Pod) bool {
			return len(p.Spec.Volumes) == 0 && len(p.Spec.Containers[0].VolumeMounts) == 1
		}},
		{"listed secret", secret("mine"), "", nil},
		{"other secret", secret("yours"), `pods "p" is forbidden: volume with secret.secretName="yours" is not allowed because service account strict does not reference that secret`, nil},
		{"mirror pod", mirror(nil), "", func(p *corev1.Pod) bool { return len(p.Spec.Volumes) == 0 && p.Spec.ServiceAccountName == "" }},
		{"mirror pod with an account", mirror(func(p *corev1.Pod) { p.Spec.ServiceAccountName = "default" }), `pods "p" is forbidden: a mirror pod may not reference service accounts`, nil},
		{"global default", nil, "", func(p *corev1.Pod) bool {
			return *p.Spec.Priority == 5 && p.Spec.PriorityClassName == "usual" && *p.Spec.PreemptionPolicy == never
		}},
		{"class", func(p *corev1.Pod) { p.Spec.PriorityClassName = "high" }, "", func(p *corev1.Pod) bool {
			return *p.Spec.Priority == 1000 && *p.Spec.PreemptionPolicy == corev1.PreemptLowerPriority
		}},
		{"unknown class", func(p *corev1.Pod) { p.Spec.PriorityClassName = "gone" }, `pods "p" is forbidden: no PriorityClass with name gone was found`, nil},
		{"own number", func(p *corev1.Pod) { p.Spec.Priority = &number },
			`pods "p" is forbidden: the integer value of priority (7) must not be provided in pod spec; priority admission controller computed 5 from the given PriorityClass name`, nil},
		{"own policy", func(p *corev1.Pod) { p.Spec.PriorityClassName, p.Spec.PreemptionPolicy = "high", &never },
			`pods "p" is forbidden: the string value of PreemptionPolicy (Never) must not be provided in pod spec; priority admission controller computed PreemptLowerPriority from the given PriorityClass name`, nil},
		{"own tolerations", func(p *corev1.Pod) {
			p.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
		}, "", func(p *corev1.Pod) bool { return len(p.Spec.Tolerations) == 1 }},
		{"runtime class", func(p *corev1.Pod) { p.Spec.RuntimeClassName = &class }, "", func(p *corev1.Pod) bool {
			return p.Spec.Overhead.Cpu().String() == "100m" && p.Spec.NodeSelector["rt"] == "gvisor"
		}},
		{"overhead of one's own", func(p *corev1.Pod) { p.Spec.Overhead = cpu }, `pods "p" is forbidden: pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead`, nil},
		{"conflicting selector", func(p *corev1.Pod) {
			p.Spec.RuntimeClassName, p.Spec.NodeSelector = &class, map[string]string{"rt": "kata"}
		}, `pods "p" is forbidden: conflict: runtimeClass.scheduling.nodeSelector[rt] = gvisor; pod.spec.nodeSelector[rt] = kata`, nil},
	} {
		pod := newPod(c.change)
		err := run(chain, attributes(admission.Create, res("pods"), pod))
		if got := text(err); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
		if c.check != nil && !c.check(pod) {
			t.Errorf("%s: %+v", c.name, pod.Spec)
		}
	}
}

func TestOneGlobalDefault(t *testing.T) {
	source := cluster().Put(classes, &schedulingv1.PriorityClass{ObjectMeta: meta("", "usual"), GlobalDefault: true})
	chain := admission.Default(admission.Config{Source: source})
	class := func(name string) api.Object {
		return &schedulingv1.PriorityClass{ObjectMeta: meta("", name), GlobalDefault: true}
	}
	want := `priorityclasses.scheduling.k8s.io "x" is forbidden: PriorityClass usual is already marked as default. Only one default can exist`
	if got := text(run(chain, attributes(admission.Create, classes, class("x")))); got != want {
		t.Errorf("%q", got)
	}
	if got := text(run(chain, attributes(admission.Update, classes, class("usual")))); got != "" {
		t.Errorf("%q", got)
	}
}

func TestNewNodesAreNotReady(t *testing.T) {
	chain := admission.Default(admission.Config{Source: cluster()})
	node := &corev1.Node{ObjectMeta: meta("", "n1")}
	for range 2 {
		if err := run(chain, attributes(admission.Create, res("nodes"), node)); err != nil {
			t.Fatal(err)
		}
	}
	if len(node.Spec.Taints) != 1 || node.Spec.Taints[0].ToString() != "node.kubernetes.io/not-ready:NoSchedule" {
		t.Errorf("taints %v", node.Spec.Taints)
	}
}

// mutator is a plugin that labels what it sees.
type mutator struct {
	name  string
	admit func(*mutator, *admission.Attributes)
}

func (m *mutator) Name() string { return m.name }

func (m *mutator) Admit(_ context.Context, a *admission.Attributes) error {
	m.admit(m, a)
	return nil
}

func TestMutatorsRunAgain(t *testing.T) {
	var calls []string
	// A plugin that asks to be called again, changes the object, or both.
	part := func(name string, again, changes bool) admission.Plugin {
		return &mutator{name, func(m *mutator, a *admission.Attributes) {
			r := a.Recall(m.name)
			if r.Skips("part") {
				return
			}
			calls = append(calls, m.name)
			if changes {
				a.Object.(*corev1.ConfigMap).Data[m.name] = "here"
				r.Changed()
			}
			if again {
				r.Called("part")
			}
			r.Done()
		}}
	}
	plain := &mutator{"plain", func(_ *mutator, a *admission.Attributes) {
		calls = append(calls, "plain")
		data := a.Object.(*corev1.ConfigMap).Data
		data["plain"] = data["changes"]
	}}
	for _, c := range []struct {
		name  string
		chain admission.Chain
		want  string
	}{
		{"nothing changes", admission.Chain{plain, part("asks", true, false)}, "plain asks"},
		{"nobody asks", admission.Chain{part("changes", false, true), part("silent", false, false)}, "changes silent"},
		{"a built-in plugin follows the change", admission.Chain{plain, part("changes", false, true), part("asks", true, false)}, "plain changes asks plain asks"},
		{"no further change", admission.Chain{part("changes", false, true), part("asks", true, false)}, "changes asks"},
		{"its own change is not news", admission.Chain{part("changes", true, true)}, "changes"},
	} {
		calls = nil
		a := attributes(admission.Create, res("configmaps"), &corev1.ConfigMap{ObjectMeta: meta("ns", "c"), Data: map[string]string{}})
		if err := c.chain.Admit(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(calls, " "); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}
