package admission_test

import (
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/admission"
)

func namespaceAt(labels ...string) *corev1.Namespace {
	ns := &corev1.Namespace{ObjectMeta: meta("", "ns")}
	ns.Labels = map[string]string{}
	for _, l := range labels {
		k, v, _ := strings.Cut(l, "=")
		ns.Labels["pod-security.kubernetes.io/"+k] = v
	}
	return ns
}

func podWith(change func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: meta("ns", "p"), Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	if change != nil {
		change(pod)
	}
	return pod
}

func TestPodSecurity(t *testing.T) {
	host := func(p *corev1.Pod) { p.Spec.HostNetwork = true }
	other := func(p *corev1.Pod) { p.Spec.HostNetwork, p.Spec.Containers[0].Image = true, "j" }
	debugged := func(p *corev1.Pod) {
		host(p)
		p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "d", Image: "i"}}}
	}
	const refused = `pods "p" is forbidden: violates PodSecurity "baseline:latest": host namespaces (hostNetwork=true)`
	for _, c := range []struct {
		name     string
		ns       *corev1.Namespace
		old, pod *corev1.Pod
		sub      string
		err      string
		warned   string
	}{
		{name: "no labels", ns: namespaceAt(), pod: podWith(host)},
		{name: "privileged", ns: namespaceAt("enforce=privileged"), pod: podWith(host)},
		{name: "baseline, plain", ns: namespaceAt("enforce=baseline"), pod: podWith(nil)},
		{name: "baseline", ns: namespaceAt("enforce=baseline"), pod: podWith(host), err: refused},
		{name: "restricted, plain", ns: namespaceAt("enforce=restricted"), pod: podWith(nil), err: `violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false`},
		{name: "a level that is none", ns: namespaceAt("enforce=strict"), pod: podWith(nil), err: `violates PodSecurity "restricted:latest"`},
		{name: "warn", ns: namespaceAt("warn=baseline"), pod: podWith(host), warned: `would violate PodSecurity "baseline:latest": host namespaces (hostNetwork=true)`},
		{name: "update that runs nothing else", ns: namespaceAt("enforce=baseline"), old: podWith(host), pod: podWith(host)},
		{name: "update of an image", ns: namespaceAt("enforce=baseline"), old: podWith(host), pod: podWith(other), err: refused},
		{name: "ephemeral container", ns: namespaceAt("enforce=baseline"), old: podWith(host), pod: podWith(debugged), sub: "ephemeralcontainers", err: refused},
		{name: "status", ns: namespaceAt("enforce=baseline"), old: podWith(host), pod: podWith(other), sub: "status"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := admission.NewPodSecurity(admission.Lookup{Source: cluster().Put(res("namespaces"), c.ns)})
			a := attributes(admission.Create, res("pods"), c.pod)
			if c.old != nil {
				a.Operation, a.OldObject = admission.Update, c.old
			}
			var warned []string
			a.Subresource, a.Warn = c.sub, func(text string) { warned = append(warned, text) }
			err := p.Validate(t.Context(), a)
			if c.err == "" && err != nil || c.err != "" && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), c.err)) {
				t.Errorf("%v, want %q", err, c.err)
			}
			if got := strings.Join(warned, "\n"); got != c.warned {
				t.Errorf("warned of %q, want %q", got, c.warned)
			}
		})
	}
}

// A template is warned of and never refused: its pods will be.
func TestPodSecurityOfTemplates(t *testing.T) {
	p := admission.NewPodSecurity(admission.Lookup{Source: cluster().Put(res("namespaces"), namespaceAt("enforce=baseline"))})
	d := &appsv1.Deployment{ObjectMeta: meta("ns", "d")}
	d.Spec.Template.Spec = podWith(func(p *corev1.Pod) { p.Spec.HostPID = true }).Spec
	a := attributes(admission.Create, schema.GroupResource{Group: "apps", Resource: "deployments"}, d)
	var warned []string
	a.Warn = func(text string) { warned = append(warned, text) }
	if err := p.Validate(t.Context(), a); err != nil {
		t.Error(err)
	}
	if want := []string{`would violate PodSecurity "baseline:latest": host namespaces (hostPID=true)`}; !slices.Equal(warned, want) {
		t.Errorf("%q", warned)
	}
}

func TestPodSecurityOfNamespaces(t *testing.T) {
	var pods []api.Object
	for _, name := range []string{"b", "a", "c"} {
		pods = append(pods, podWith(func(p *corev1.Pod) { p.Name, p.Spec.HostIPC = name, true }))
	}
	p := admission.NewPodSecurity(admission.Lookup{Source: cluster().Put(res("pods"), pods...)})
	validate := func(ns, old *corev1.Namespace) (warned []string, err error) {
		a := attributes(admission.Create, res("namespaces"), ns)
		if old != nil {
			a.Operation, a.OldObject = admission.Update, old
		}
		a.Warn = func(text string) { warned = append(warned, text) }
		err = p.Validate(t.Context(), a)
		return warned, err
	}
	if _, err := validate(namespaceAt("enforce=strict"), nil); !apierrors.IsInvalid(err) {
		t.Errorf("a level that is none: %v", err)
	}
	if _, err := validate(namespaceAt("enforce=strict"), namespaceAt("enforce=strict")); err != nil {
		t.Errorf("a level that was none before: %v", err)
	}
	warned, err := validate(namespaceAt("enforce=baseline"), namespaceAt())
	want := []string{`existing pods in namespace "ns" violate the new PodSecurity enforce level "baseline:latest"`, "a (and 2 other pods): host namespaces"}
	if err != nil || !slices.Equal(warned, want) {
		t.Errorf("%q %v", warned, err)
	}
	if warned, err := validate(namespaceAt("enforce=baseline"), namespaceAt("enforce=restricted")); err != nil || len(warned) > 0 {
		t.Errorf("a level that falls: %q %v", warned, err)
	}
}
