package api

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

// A quantity with an endless exponent is refused in every way that it can come
// in, at once; text that looks like one is not.
func TestEndlessQuantities(t *testing.T) {
	ns := namespace(t)
	pods := "/api/v1/namespaces/" + ns + "/pods"
	pod := func(name, cpu, more string) string {
		return fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":%q,"labels":{"commit":"7e1234567"}},"spec":{"schedulerName":"none","containers":[{"name":"c","image":"i","resources":{"limits":{"cpu":%q,"memory":"1Gi"}}}]%s}}`, name, cpu, more)
	}
	if got := do(t, "POST", pods, nil, []byte(pod("ok", "1e3", ""))); got.Code != http.StatusCreated {
		t.Fatalf("%d %s", got.Code, got.Body)
	}
	limits := func(cpu string) string {
		return fmt.Sprintf(`{"spec":{"hard":{"cpu":%q}}}`, cpu)
	}
	quotas := "/api/v1/namespaces/" + ns + "/resourcequotas"
	do(t, "POST", quotas, nil, []byte(`{"metadata":{"name":"q"},"spec":{"hard":{"cpu":"1"}}}`))
	began := time.Now()
	for _, cpu := range []string{"1e1000000000", "1E+2147483647", "-1e1000000000", "0e1000000000", "1e-9999999", "1" + strings.Repeat("0", 500000)} {
		for _, c := range []struct {
			name, method, path string
			header             header
			body               string
		}{
			{"JSON", "POST", pods, nil, pod("x", cpu, "")},
			{"dry run", "POST", pods + "?dryRun=All", nil, pod("x", cpu, "")},
			{"twice", "POST", pods, nil, strings.Replace(pod("x", cpu, ""), `"limits":{`, `"limits":{"cpu":"1e-99999999",`, 1)},
			{"overhead", "POST", pods, nil, pod("x", "1", fmt.Sprintf(`,"overhead":{"cpu":%q}`, cpu))},
			{"YAML", "POST", pods, header{"Content-Type": "application/yaml"}, pod("x", cpu, "")},
			{"merge", "PATCH", quotas + "/q", header{"Content-Type": mergePatch}, limits(cpu)},
			{"strategic", "PATCH", quotas + "/q", header{"Content-Type": strategicPatch}, limits(cpu)},
			{"JSON patch", "PATCH", quotas + "/q", header{"Content-Type": jsonPatch}, fmt.Sprintf(`[{"op":"add","path":"/spec/hard/cpu","value":%q}]`, cpu)},
			{"escaped", "PATCH", quotas + "/q", header{"Content-Type": mergePatch}, strings.Replace(limits(cpu), `"cpu":"`, `"cpu":"\u0030`, 1)},
			{"apply", "PATCH", quotas + "/q?fieldManager=m&force=true", header{"Content-Type": applyPatch}, `{"apiVersion":"v1","kind":"ResourceQuota",` + limits(cpu)[1:]},
			{"resize", "PATCH", pods + "/ok/resize", header{"Content-Type": strategicPatch}, fmt.Sprintf(`{"spec":{"containers":[{"name":"c","resources":{"limits":{"cpu":%q}}}]}}`, cpu)},
		} {
			got := do(t, c.method, c.path, c.header, []byte(c.body))
			if got.Code != http.StatusBadRequest && got.Code != http.StatusUnprocessableEntity || !bytes.Contains(got.Body, []byte("unable to parse ")) && !bytes.Contains(got.Body, []byte("quantities must match")) {
				t.Errorf("%.20s as %s: %d %.300s", cpu, c.name, got.Code, got.Body)
			}
		}
	}
	got := do(t, "POST", pods, header{"Content-Type": protobuf}, hostileProto(t))
	if got.Code != http.StatusBadRequest || !bytes.Contains(got.Body, []byte("unable to parse quantity's suffix")) {
		t.Errorf("protobuf: %d %.300s", got.Code, got.Body)
	}
	if took := time.Since(began); took > time.Minute {
		t.Errorf("took %s", took)
	}
}

// hostileProto is a pod that asks for 1e1000000000 CPUs.
func hostileProto(t *testing.T) []byte {
	t.Helper()
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "x"}}
	p.Spec.Containers = []corev1.Container{{Name: "c", Image: "i", Resources: corev1.ResourceRequirements{
		Limits: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("777777777777")},
	}}}
	raw, err := p.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	raw = bytes.Replace(raw, []byte("777777777777"), []byte("1e1000000000"), 1)
	body := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: "v1", Kind: "Pod"}, Raw: raw}
	data, err := body.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return append([]byte("k8s\x00"), data...)
}

func quotaList(text string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for part := range strings.FieldsSeq(text) {
		name, amount, _ := strings.Cut(part, "=")
		out[corev1.ResourceName(name)] = resource.MustParse(amount)
	}
	return out
}

// counted waits until a quota shows these amounts as used.
func counted(t *testing.T, ns, name, want string) {
	t.Helper()
	eventually(t, func() (bool, any) {
		q, err := world.kube.CoreV1().ResourceQuotas(ns).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		last := q.Status.Used
		for key, amount := range quotaList(want) {
			if have, ok := last[key]; !ok || have.Cmp(amount) != 0 {
				return false, fmt.Sprintf("%s used: %s, want %s", key, have.String(), amount.String())
			}
		}
		return true, nil
	})
}

// A quota follows the life of what it counts, refuses what has no room, and
// what came of a failed write does not stay.
func TestQuota(t *testing.T) {
	ns := namespace(t)
	kube := world.kube.CoreV1()
	_, err := kube.ResourceQuotas(ns).Create(t.Context(), &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "q"},
		Spec: corev1.ResourceQuotaSpec{Hard: quotaList("pods=2 cpu=1 count/configmaps=4 services=2 services.nodeports=1 " +
			"requests.example.com/dongle=3 count/deployments.apps=1")},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	counted(t, ns, "q", "pods=0 cpu=0 services=0 count/deployments.apps=0")
	pod := func(name, cpu string) *corev1.Pod {
		r := quotaList("cpu=" + cpu + " example.com/dongle=2")
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{
			SchedulerName: "none",
			Containers:    []corev1.Container{{Name: "c", Image: "i", Resources: corev1.ResourceRequirements{Requests: r, Limits: quotaList("example.com/dongle=2")}}},
		}}
	}
	if _, err := kube.Pods(ns).Create(t.Context(), pod("a", "700m"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	counted(t, ns, "q", "pods=1 cpu=700m requests.example.com/dongle=2")
	_, err = kube.Pods(ns).Create(t.Context(), pod("b", "400m"), metav1.CreateOptions{})
	want := `pods "b" is forbidden: exceeded quota: q, requested: cpu=400m,requests.example.com/dongle=2, used: cpu=700m,requests.example.com/dongle=2, limited: cpu=1,requests.example.com/dongle=3`
	if !apierrors.IsForbidden(err) || err.Error() != want {
		t.Errorf("too much: %v", err)
	}
	if _, err = kube.Pods(ns).Create(t.Context(), pod("a", "100m"), metav1.CreateOptions{}); !apierrors.IsForbidden(err) && !apierrors.IsAlreadyExists(err) {
		t.Errorf("again: %v", err)
	}
	if err := kube.Pods(ns).Delete(t.Context(), "a", *metav1.NewDeleteOptions(0)); err != nil {
		t.Fatal(err)
	}
	counted(t, ns, "q", "pods=0 cpu=0 requests.example.com/dongle=0")

	// A write that fails after it was charged.
	if _, err := kube.Services(ns).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: corev1.ServiceSpec{Type: "NodePort", Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := kube.Services(ns).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		t.Errorf("twice: %v", err)
	}
	counted(t, ns, "q", "services=1 services.nodeports=1")
	if _, err := kube.Services(ns).Patch(t.Context(), "s", types.StrategicMergePatchType, []byte(`{"spec":{"ports":[{"name":"a","port":80},{"name":"b","port":81}]}}`), metav1.PatchOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("another node port: %v", err)
	}

	// Thirty at once, with room for three beside the namespace's own.
	counted(t, ns, "q", "count/configmaps=1")
	var made atomic.Int64
	var wg sync.WaitGroup
	for i := range 30 {
		wg.Go(func() {
			_, err := kube.ConfigMaps(ns).Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("c", i)}}, metav1.CreateOptions{})
			if err == nil {
				made.Add(1)
			} else if !apierrors.IsForbidden(err) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if made.Load() != 3 {
		t.Errorf("%d made where there was room for 3", made.Load())
	}
	counted(t, ns, "q", "count/configmaps=4")
}

// A LimitRange gives pods what they do not ask for, and refuses what is out of
// bounds.
func TestLimitRange(t *testing.T) {
	ns := namespace(t)
	kube := world.kube.CoreV1()
	_, err := kube.LimitRanges(ns).Create(t.Context(), &corev1.LimitRange{
		ObjectMeta: metav1.ObjectMeta{Name: "l"},
		Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{
			{Type: corev1.LimitTypeContainer, Min: quotaList("cpu=50m"), Max: quotaList("cpu=500m"), Default: quotaList("cpu=300m memory=1Gi"), DefaultRequest: quotaList("cpu=100m"), MaxLimitRequestRatio: quotaList("cpu=4")},
			{Type: corev1.LimitTypePod, Max: quotaList("memory=1500Mi")},
			{Type: corev1.LimitTypePersistentVolumeClaim, Min: quotaList("storage=1Gi"), Max: quotaList("storage=2Gi")},
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	create := func(name, requests, limits string, containers int) (*corev1.Pod, string) {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{SchedulerName: "none"}}
		for i := range containers {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: fmt.Sprint("c", i), Image: "i", Resources: corev1.ResourceRequirements{
				Requests: quotaList(requests), Limits: quotaList(limits),
			}})
		}
		made, err := kube.Pods(ns).Create(t.Context(), p, metav1.CreateOptions{})
		if err != nil {
			_, text, _ := strings.Cut(err.Error(), "is forbidden: ")
			return nil, text
		}
		return made, ""
	}
	p, text := create("plain", "", "", 1)
	if p == nil {
		t.Fatal(text)
	}
	got := p.Spec.Containers[0].Resources
	if got.Requests.Cpu().String() != "100m" || got.Limits.Cpu().String() != "300m" || got.Requests.Memory().String() != "1Gi" || got.Limits.Memory().String() != "1Gi" {
		t.Errorf("filled in: %+v", got)
	}
	if note := p.Annotations["kubernetes.io/limit-ranger"]; note != "LimitRanger plugin set: cpu, memory request for container c0; cpu, memory limit for container c0" {
		t.Errorf("annotation: %s", note)
	}
	for _, c := range []struct {
		requests, limits string
		containers       int
		want             string
	}{
		{"cpu=10m", "cpu=20m", 1, "[minimum cpu usage per Container is 50m, but request is 10m]"},
		{"cpu=200m", "cpu=1", 1, "[maximum cpu usage per Container is 500m, but limit is 1, cpu max limit to request ratio per Container is 4, but provided ratio is 5.000000]"},
		{"", "", 2, "maximum memory usage per Pod is 1500Mi, but limit is 2Gi"},
	} {
		_, text := create("wrong", c.requests, c.limits, c.containers)
		if text != c.want && text != strings.Trim(c.want, "[]") {
			t.Errorf("%s %s: %q, want %q", c.requests, c.limits, text, c.want)
		}
	}
	_, err = kube.PersistentVolumeClaims(ns).Create(t.Context(), &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "big"},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, Resources: corev1.VolumeResourceRequirements{Requests: quotaList("storage=3Gi")},
		},
	}, metav1.CreateOptions{})
	if err == nil || !strings.Contains(err.Error(), "maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi") {
		t.Errorf("claim: %v", err)
	}
}

// The health of the control plane's parts can be read, with a warning.
func TestComponentStatuses(t *testing.T) {
	list, err := world.kube.CoreV1().ComponentStatuses().List(context.WithoutCancel(t.Context()), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range list.Items {
		if len(s.Conditions) != 1 || s.Conditions[0].Status != corev1.ConditionTrue {
			t.Errorf("%s: %+v", s.Name, s.Conditions)
		}
	}
	if len(list.Items) != 3 {
		t.Errorf("%d components", len(list.Items))
	}
	if _, err := world.kube.CoreV1().ComponentStatuses().Get(t.Context(), "etcd-0", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := world.kube.CoreV1().ComponentStatuses().Get(t.Context(), "none", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Error(err)
	}
	got := do(t, "GET", "/api/v1/componentstatuses", header{"Accept": "application/json;as=Table;g=meta.k8s.io;v=v1"}, nil)
	if warning := got.Header.Get("Warning"); !strings.Contains(warning, "v1 ComponentStatus is deprecated in v1.19+") || !bytes.Contains(got.Body, []byte(`["etcd-0","Healthy","ok",""]`)) {
		t.Errorf("%s %s", warning, got.Body)
	}
}

// A watch of negative length ends as soon as it is open.
func TestNegativeWatch(t *testing.T) {
	if got := do(t, "GET", "/api/v1/namespaces?watch=1&timeoutSeconds=-1", nil, nil); got.Code != http.StatusOK {
		t.Errorf("%d %s", got.Code, got.Body)
	}
}
