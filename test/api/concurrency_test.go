package api

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// at runs n calls at once and returns what each said.
func at(n int, call func(i int) error) []error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = call(i) })
	}
	wg.Wait()
	return errs
}

// TestConcurrentWrites is about many writers of one object: each patch counts,
// and of conditional writes and of deletes one wins.
func TestConcurrentWrites(t *testing.T) {
	ns, ctx := namespace(t), t.Context()
	maps := world.kube.CoreV1().ConfigMaps(ns)
	cm := get[*corev1.ConfigMap](t)(maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "cm"}}, metav1.CreateOptions{}))
	const writers = 100
	for _, pt := range []types.PatchType{types.MergePatchType, types.StrategicMergePatchType, types.ApplyPatchType} {
		errs := at(writers, func(i int) error {
			opts := metav1.PatchOptions{FieldManager: fmt.Sprintf("m%d", i%10)}
			if pt == types.ApplyPatchType {
				opts.FieldManager, opts.Force = fmt.Sprintf("m%d", i), ptr.To(true)
			}
			body := fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","data":{"%c%d":"x"}}`, pt[len("application/")], i)
			_, err := maps.Patch(ctx, "cm", pt, []byte(body), opts)
			return err
		})
		must(t, errors.Join(errs...))
	}
	if n := len(get[*corev1.ConfigMap](t)(maps.Get(ctx, "cm", metav1.GetOptions{})).Data); n != 3*writers {
		t.Errorf("%d of %d patches are left", n, 3*writers)
	}
	count := func(what string, errs []error, is func(error) bool, want int) {
		t.Helper()
		won := 0
		for _, err := range errs {
			if err == nil {
				won++
			} else if !is(err) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if won != want {
			t.Errorf("%s: %d won, want %d", what, won, want)
		}
	}
	cm = get[*corev1.ConfigMap](t)(maps.Get(ctx, "cm", metav1.GetOptions{}))
	count("updates", at(writers, func(i int) error {
		mine := cm.DeepCopy()
		mine.Data["winner"] = fmt.Sprint(i)
		_, err := maps.Update(ctx, mine, metav1.UpdateOptions{})
		return err
	}), apierrors.IsConflict, 1)
	count("creates", at(writers, func(int) error {
		_, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "one"}}, metav1.CreateOptions{})
		return err
	}), apierrors.IsAlreadyExists, 1)
	count("deletes", at(writers, func(int) error {
		return maps.Delete(ctx, "one", metav1.DeleteOptions{})
	}), apierrors.IsNotFound, 1)
	count("generated names", at(writers, func(int) error {
		_, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: strings.Repeat("g", 70) + "-"}}, metav1.CreateOptions{})
		return err
	}), func(error) bool { return false }, writers)
}

// TestFinalizers is about an object between its deletion and its end.
func TestFinalizers(t *testing.T) {
	ns, ctx := namespace(t), t.Context()
	maps := world.kube.CoreV1().ConfigMaps(ns)
	get[*corev1.ConfigMap](t)(maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "cm", Finalizers: []string{"test.io/a", "test.io/b"}}}, metav1.CreateOptions{}))
	must(t, maps.Delete(ctx, "cm", metav1.DeleteOptions{}))
	first := get[*corev1.ConfigMap](t)(maps.Get(ctx, "cm", metav1.GetOptions{}))
	must(t, maps.Delete(ctx, "cm", metav1.DeleteOptions{}))
	again := get[*corev1.ConfigMap](t)(maps.Get(ctx, "cm", metav1.GetOptions{}))
	if first.DeletionTimestamp == nil || !first.DeletionTimestamp.Equal(again.DeletionTimestamp) {
		t.Errorf("deleted at %v, then at %v", first.DeletionTimestamp, again.DeletionTimestamp)
	}
	patch := func(body string) error {
		_, err := maps.Patch(ctx, "cm", types.MergePatchType, []byte(body), metav1.PatchOptions{})
		return err
	}
	if err := patch(`{"metadata":{"finalizers":["test.io/a","test.io/b","test.io/c"]}}`); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "no new finalizers can be added if the object is being deleted") {
		t.Errorf("one more: %v", err)
	}
	must(t, patch(`{"metadata":{"deletionTimestamp":null}}`))
	must(t, patch(`{"data":{"still":"writable"},"metadata":{"finalizers":["test.io/b"]}}`))
	if _, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "cm"}}, metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		t.Errorf("created over it: %v", err)
	}
	must(t, patch(`{"metadata":{"finalizers":[]}}`))
	if _, err := maps.Get(ctx, "cm", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("without finalizers: %v", err)
	}
}

// TestServices is about the types of Services and what the server allots.
func TestServices(t *testing.T) {
	ns, ctx := namespace(t), t.Context()
	services := world.kube.CoreV1().Services(ns)
	svc := get[*corev1.Service](t)(services.Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "example.com"}}, metav1.CreateOptions{}))
	if svc.Spec.ClusterIP != "" {
		t.Errorf("an ExternalName has an address: %v", svc.Spec)
	}
	change := func(body string) *corev1.Service {
		t.Helper()
		return get[*corev1.Service](t)(services.Patch(ctx, "s", types.MergePatchType, []byte(body), metav1.PatchOptions{}))
	}
	svc = change(`{"spec":{"type":"ClusterIP","externalName":"","ports":[{"port":80,"protocol":"TCP"}],"selector":{"a":"b"}}}`)
	if svc.Spec.ClusterIP == "" || svc.Spec.ClusterIP == "None" || svc.Spec.IPFamilies[0] != corev1.IPv4Protocol {
		t.Errorf("ClusterIP: %+v", svc.Spec)
	}
	svc = change(`{"spec":{"type":"NodePort","ports":[{"name":"t","port":80,"protocol":"TCP"},{"name":"u","port":80,"protocol":"UDP"}]}}`)
	if p := svc.Spec.Ports; p[0].NodePort < 30000 || p[0].NodePort > 32767 || p[1].NodePort == 0 {
		t.Errorf("NodePort: %+v", p)
	}
	taken := svc.Spec.Ports[0].NodePort
	_, err := services.Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "twice"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 1, NodePort: taken}}}}, metav1.CreateOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "provided port is already allocated") {
		t.Errorf("a taken port: %v", err)
	}
	_, err = services.Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "twice"}, Spec: corev1.ServiceSpec{ClusterIP: svc.Spec.ClusterIP, Ports: []corev1.ServicePort{{Port: 1}}}}, metav1.CreateOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "provided IP is already allocated") {
		t.Errorf("a taken address: %v", err)
	}
	svc = change(`{"spec":{"type":"ClusterIP"}}`)
	for _, p := range svc.Spec.Ports {
		if p.NodePort != 0 {
			t.Errorf("a ClusterIP has a node port: %+v", p)
		}
	}
	svc = change(`{"spec":{"type":"ExternalName","externalName":"example.org"}}`)
	if svc.Spec.ClusterIP != "" {
		t.Errorf("an ExternalName kept an address: %+v", svc.Spec)
	}
	a := do(t, "PATCH", "/api/v1/namespaces/"+ns+"/services/s", header{"Content-Type": mergePatch}, []byte(`{"spec":{"type":"Odd"}}`))
	if a.Code != http.StatusUnprocessableEntity {
		t.Errorf("an odd type: %d %s", a.Code, a.Body)
	}
}
