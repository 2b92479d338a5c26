package clienttest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"
)

func writeAndRead(t *testing.T, e *env) {
	cm := configMap("a", "1")
	e.create(t, cm)
	if cm.UID == "" || cm.ResourceVersion == "" {
		t.Fatalf("create did not fill the object: %+v", cm.ObjectMeta)
	}
	if err := e.Client().Create(e.ctx, configMap("a", "2")); !apierrors.IsAlreadyExists(err) {
		t.Fatalf("second create: %v", err)
	}
	dry := configMap("dry", "1")
	if err := e.Client().Create(e.ctx, dry, ctrl.DryRunAll); err != nil {
		t.Fatal(err)
	}
	if err := e.Reader().Get(e.ctx, key(dry), dry); !apierrors.IsNotFound(err) {
		t.Fatalf("a dry run created something: %v", err)
	}

	stale := cm.DeepCopy()
	cm.Data["value"] = "2"
	if err := e.Client().Update(e.ctx, cm, ctrl.FieldOwner("me")); err != nil {
		t.Fatal(err)
	}
	stale.Data["value"] = "3"
	if err := e.Client().Update(e.ctx, stale); !apierrors.IsConflict(err) {
		t.Fatalf("update of a stale object: %v", err)
	}
	if stale.Data["value"] != "3" {
		t.Fatal("a failed update changed the caller's object")
	}
	var live corev1.ConfigMap
	if err := e.Reader().Get(e.ctx, key(cm), &live); err != nil || live.Data["value"] != "2" || live.ResourceVersion != cm.ResourceVersion {
		t.Fatalf("live read: %+v, %v", live, err)
	}
	live.Data["value"] = "mine" // a read is the caller's own
	e.eventually(t, "cached read", func() error {
		var got corev1.ConfigMap
		if err := e.Client().Get(e.ctx, key(cm), &got); err != nil {
			return err
		}
		if got.Data["value"] != "2" {
			return fmt.Errorf("value is %q", got.Data["value"])
		}
		return nil
	})
}

// times come back as the wire has them, whoever wrote them: who reads an
// object and writes it again changes nothing.
func times(t *testing.T, e *env) {
	exact := time.Date(2026, 1, 2, 3, 4, 5, 678901234, time.UTC)
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "a"},
		Spec: coordinationv1.LeaseSpec{RenewTime: &metav1.MicroTime{Time: exact}}}
	e.create(t, lease)
	d := deployment()
	e.create(t, d)
	d.Status.Conditions = []appsv1.DeploymentCondition{{Type: "Tested", Status: corev1.ConditionTrue, LastUpdateTime: metav1.Time{Time: exact}}}
	if err := e.Client().Status().Update(e.ctx, d); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(e.Reader().Get(e.ctx, key(lease), lease), e.Reader().Get(e.ctx, key(d), d)); err != nil {
		t.Fatal(err)
	}
	if got, want := lease.Spec.RenewTime.Time, exact.Truncate(time.Microsecond); !got.Equal(want) {
		t.Errorf("micro time %s, want %s", got, want)
	}
	if got, want := d.Status.Conditions[0].LastUpdateTime.Time, exact.Truncate(time.Second); !got.Equal(want) {
		t.Errorf("time %s, want %s", got, want)
	}
}

func lists(t *testing.T, e *env) {
	for i := range 5 {
		e.create(t, configMap(fmt.Sprintf("cm-%d", i), fmt.Sprint(i%2)))
	}
	other := configMap("cm-0", "1")
	other.Namespace = "other"
	e.create(t, other)

	var list corev1.ConfigMapList
	check := func(what string, r ctrl.Reader, want int, opts ...ctrl.ListOption) {
		t.Helper()
		e.eventually(t, what, func() error {
			if err := r.List(e.ctx, &list, append(opts, ctrl.HasLabels{"value"})...); err != nil {
				return err
			}
			if len(list.Items) != want {
				return fmt.Errorf("%d items, want %d", len(list.Items), want)
			}
			return nil
		})
	}
	for name, r := range map[string]ctrl.Reader{"cached": e.Client(), "live": e.Reader(), "cache": e.Cache()} {
		check(name, r, 6)
		check(name+" of a namespace", r, 5, ctrl.InNamespace("default"))
		check(name+" with labels", r, 2, ctrl.InNamespace("default"), ctrl.MatchingLabels{"value": "1"})
		check(name+" of nothing", r, 0, ctrl.InNamespace("nowhere"))
		check(name+" shared", r, 5, ctrl.InNamespace("default"), ctrl.UnsafeDisableDeepCopy)
	}
	check("live, limited", e.Reader(), 2, ctrl.InNamespace("default"), ctrl.Limit(2))
	if list.Continue == "" {
		t.Fatal("a limited list has no continue token")
	}
	check("live, the rest", e.Reader(), 3, ctrl.InNamespace("default"), ctrl.Continue(list.Continue))
	check("live, by name", e.Reader(), 1, ctrl.InNamespace("default"), ctrl.MatchingFields{"metadata.name": "cm-3"})
}

func otherTypes(t *testing.T, e *env) {
	u := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]any{"namespace": "default", "name": "a"},
		"data":     map[string]any{"value": "1"},
	}}
	e.create(t, u)
	if u.GetUID() == "" {
		t.Fatal("create did not fill the unstructured object")
	}
	if err := unstructured.SetNestedField(u.Object, "2", "data", "value"); err != nil {
		t.Fatal(err)
	}
	if err := e.Client().Update(e.ctx, u); err != nil {
		t.Fatal(err)
	}
	e.eventually(t, "unstructured read", func() error {
		got := &unstructured.Unstructured{}
		got.SetGroupVersionKind(u.GroupVersionKind())
		if err := e.Client().Get(e.ctx, key(u), got); err != nil {
			return err
		}
		if v, _, _ := unstructured.NestedString(got.Object, "data", "value"); v != "2" || got.GetKind() != "ConfigMap" {
			return fmt.Errorf("got %v", got.Object)
		}
		return nil
	})
	e.eventually(t, "metadata list", func() error {
		var list metav1.PartialObjectMetadataList
		list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("ConfigMapList"))
		if err := e.Client().List(e.ctx, &list, ctrl.InNamespace("default")); err != nil {
			return err
		}
		for _, m := range list.Items {
			if m.Name == "a" && m.UID == u.GetUID() && m.Kind == "ConfigMap" {
				return nil
			}
		}
		return fmt.Errorf("got %+v", list.Items)
	})
}

func patches(t *testing.T, e *env) {
	cm := configMap("a", "1")
	e.create(t, cm)
	base := cm.DeepCopy()
	cm.Data["more"] = "x"
	if err := e.Client().Patch(e.ctx, cm, ctrl.MergeFrom(base)); err != nil {
		t.Fatal(err)
	}
	if cm.Data["more"] != "x" || cm.ResourceVersion == base.ResourceVersion {
		t.Fatalf("patched object %+v", cm)
	}
	// An optimistic lock on the version before fails.
	cm.Data["more"] = "y"
	locked := ctrl.MergeFromWithOptions(base, ctrl.MergeFromWithOptimisticLock{})
	if err := e.Client().Patch(e.ctx, cm, locked); !apierrors.IsConflict(err) {
		t.Fatalf("locked patch: %v", err)
	}
	raw := ctrl.RawPatch(types.JSONPatchType, []byte(`[{"op":"remove","path":"/data/more"}]`))
	if err := e.Client().Patch(e.ctx, cm, raw); err != nil || cm.Data["more"] != "" {
		t.Fatalf("JSON patch: %+v, %v", cm.Data, err)
	}
}

func apply(t *testing.T, e *env) {
	ac := corev1ac.ConfigMap("a", "default").WithData(map[string]string{"value": "1"})
	if err := e.Client().Apply(e.ctx, ac, ctrl.FieldOwner("me")); err != nil {
		t.Fatal(err)
	}
	if ac.UID == nil || *ac.UID == "" {
		t.Fatal("apply did not fill the configuration")
	}
	theirs := corev1ac.ConfigMap("a", "default").WithData(map[string]string{"value": "2"})
	if err := e.Client().Apply(e.ctx, theirs, ctrl.FieldOwner("you")); !apierrors.IsConflict(err) {
		t.Fatalf("apply over another's field: %v", err)
	}
	theirs = corev1ac.ConfigMap("a", "default").WithData(map[string]string{"value": "2"})
	if err := e.Client().Apply(e.ctx, theirs, ctrl.FieldOwner("you"), ctrl.ForceOwnership); err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]any{"namespace": "default", "name": "a"},
		"data":     map[string]any{"third": "3"},
	}}
	if err := e.Client().Apply(e.ctx, ctrl.ApplyConfigurationFromUnstructured(u), ctrl.FieldOwner("third")); err != nil {
		t.Fatal(err)
	}
	var got corev1.ConfigMap
	if err := e.Reader().Get(e.ctx, ctrl.ObjectKey{Namespace: "default", Name: "a"}, &got); err != nil {
		t.Fatal(err)
	}
	if got.Data["value"] != "2" || got.Data["third"] != "3" {
		t.Fatalf("data is %v", got.Data)
	}
}

func deployment() *appsv1.Deployment {
	labels := map[string]string{"app": "a"}
	one := int32(1)
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "a"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &one,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
			},
		},
	}
}

func subresources(t *testing.T, e *env) {
	d := deployment()
	e.create(t, d)
	d.Status.Replicas = 1
	d.Status.ObservedGeneration = d.Generation
	d.Labels = map[string]string{"not": "for status"}
	if err := e.Client().Status().Update(e.ctx, d); err != nil {
		t.Fatal(err)
	}
	if d.Status.Replicas != 1 || d.Labels["not"] != "" {
		t.Fatalf("after the status update: %+v %v", d.Status, d.Labels)
	}
	base := d.DeepCopy()
	d.Status.Replicas = 2
	if err := e.Client().Status().Patch(e.ctx, d, ctrl.MergeFrom(base)); err != nil || d.Status.Replicas != 2 {
		t.Fatalf("status patch: %+v, %v", d.Status, err)
	}
	scale := &autoscalingv1.Scale{}
	if err := e.Client().SubResource("scale").Get(e.ctx, d, scale); err != nil || scale.Spec.Replicas != 1 {
		t.Fatalf("scale: %+v, %v", scale, err)
	}
	scale.Spec.Replicas = 3
	if err := e.Client().SubResource("scale").Update(e.ctx, d, ctrl.WithSubResourceBody(scale)); err != nil {
		t.Fatal(err)
	}
	if err := e.Reader().Get(e.ctx, key(d), d); err != nil || *d.Spec.Replicas != 3 {
		t.Fatalf("after scaling: %+v, %v", d.Spec.Replicas, err)
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
	e.create(t, pod)
	binding := &corev1.Binding{Target: corev1.ObjectReference{Kind: "Node", Name: "n"}}
	if err := e.Client().SubResource("binding").Create(e.ctx, pod, binding); err != nil {
		t.Fatal(err)
	}
	if err := e.Reader().Get(e.ctx, key(pod), pod); err != nil || pod.Spec.NodeName != "n" {
		t.Fatalf("after binding: %q, %v", pod.Spec.NodeName, err)
	}
}

func deletes(t *testing.T, e *env) {
	held := configMap("held", "1")
	held.Finalizers = []string{"example.com/hold"}
	e.create(t, held)
	for i := range 3 {
		e.create(t, configMap(fmt.Sprintf("many-%d", i), "many"))
	}
	if err := e.Client().Delete(e.ctx, held); err != nil {
		t.Fatal(err)
	}
	if err := e.Reader().Get(e.ctx, key(held), held); err != nil || held.DeletionTimestamp == nil {
		t.Fatalf("a finalizer does not hold: %+v, %v", held.ObjectMeta, err)
	}
	held.Finalizers = nil
	if err := e.Client().Update(e.ctx, held); err != nil {
		t.Fatal(err)
	}
	if err := e.Reader().Get(e.ctx, key(held), held); !apierrors.IsNotFound(err) {
		t.Fatalf("after the last finalizer: %v", err)
	}
	wrong := types.UID("wrong")
	if err := e.Client().Delete(e.ctx, configMap("many-0", ""), ctrl.Preconditions{UID: &wrong}); !apierrors.IsConflict(err) {
		t.Fatalf("delete of another uid: %v", err)
	}
	if err := e.Client().DeleteAllOf(e.ctx, &corev1.ConfigMap{}, ctrl.InNamespace("default"), ctrl.MatchingLabels{"value": "many"}); err != nil {
		t.Fatal(err)
	}
	var list corev1.ConfigMapList
	if err := e.Reader().List(e.ctx, &list, ctrl.HasLabels{"value"}); err != nil || len(list.Items) != 0 {
		t.Fatalf("left: %d, %v", len(list.Items), err)
	}
}
