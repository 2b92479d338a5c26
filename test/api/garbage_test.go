package api

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

func controllerOf(name string, replicas int32) *corev1.ReplicationController {
	labels := map[string]string{"rc": name}
	return &corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ReplicationControllerSpec{
		Replicas: &replicas, Selector: labels,
		Template: &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
			NodeSelector: map[string]string{"no": "where"}, Containers: []corev1.Container{{Name: "c", Image: "i"}},
		}},
	}}
}

// Background, foreground and orphan deletion of a ReplicationController.
func TestGarbageCollector(t *testing.T) {
	for _, c := range []struct {
		policy metav1.DeletionPropagation
		left   int
	}{{metav1.DeletePropagationBackground, 0}, {metav1.DeletePropagationForeground, 0}, {metav1.DeletePropagationOrphan, 20}} {
		t.Run(string(c.policy), func(t *testing.T) {
			ns, ctx := namespace(t), t.Context()
			core := world.kube.CoreV1()
			rc := get[*corev1.ReplicationController](t)(core.ReplicationControllers(ns).Create(ctx, controllerOf("rc", 20), metav1.CreateOptions{}))
			list := func() []corev1.Pod {
				return get[*corev1.PodList](t)(core.Pods(ns).List(ctx, metav1.ListOptions{})).Items
			}
			eventually(t, func() (bool, any) {
				rc = get[*corev1.ReplicationController](t)(core.ReplicationControllers(ns).Get(ctx, "rc", metav1.GetOptions{}))
				return rc.Status.Replicas == 20 && len(list()) == 20, rc.Status
			})
			must(t, core.ReplicationControllers(ns).Delete(ctx, "rc", metav1.DeleteOptions{PropagationPolicy: &c.policy, Preconditions: metav1.NewUIDPreconditions(string(rc.UID))}))
			eventually(t, func() (bool, any) {
				pods := list()
				_, err := core.ReplicationControllers(ns).Get(ctx, "rc", metav1.GetOptions{})
				if c.policy == metav1.DeletePropagationForeground && apierrors.IsNotFound(err) && len(list()) > 0 {
					t.Fatal("the owner went before its pods")
				}
				return apierrors.IsNotFound(err) && len(pods) == c.left, len(pods)
			})
			for _, p := range list() {
				if len(p.OwnerReferences) > 0 || p.DeletionTimestamp != nil {
					t.Errorf("orphan: %+v", p.ObjectMeta)
				}
			}
		})
	}
}

// "should not delete dependents that have both valid owner and owner that's
// waiting for dependents to be deleted"
func TestGarbageOfTwoOwners(t *testing.T) {
	ns, ctx := namespace(t), t.Context()
	core := world.kube.CoreV1()
	get[*corev1.ReplicationController](t)(core.ReplicationControllers(ns).Create(ctx, controllerOf("leaves", 10), metav1.CreateOptions{}))
	stays := get[*corev1.ReplicationController](t)(core.ReplicationControllers(ns).Create(ctx, controllerOf("stays", 0), metav1.CreateOptions{}))
	var pods []corev1.Pod
	eventually(t, func() (bool, any) {
		pods = get[*corev1.PodList](t)(core.Pods(ns).List(ctx, metav1.ListOptions{})).Items
		return len(pods) == 10, len(pods)
	})
	for _, p := range pods[:5] {
		patch := fmt.Sprintf(`{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"ReplicationController","name":"stays","uid":%q}]}}`, stays.UID)
		get[*corev1.Pod](t)(core.Pods(ns).Patch(ctx, p.Name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}))
	}
	must(t, core.ReplicationControllers(ns).Delete(ctx, "leaves", metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationForeground)}))
	eventually(t, func() (bool, any) {
		_, err := core.ReplicationControllers(ns).Get(ctx, "leaves", metav1.GetOptions{})
		return apierrors.IsNotFound(err), err
	})
	for _, p := range get[*corev1.PodList](t)(core.Pods(ns).List(ctx, metav1.ListOptions{})).Items {
		if p.DeletionTimestamp != nil || len(p.OwnerReferences) != 1 || p.OwnerReferences[0].Name != "stays" {
			t.Errorf("left: %+v", p.ObjectMeta)
		}
		pods = pods[1:]
	}
	if len(pods) != 5 {
		t.Errorf("%d pods are left", 10-len(pods))
	}
}

// "should not be blocked by dependency circle"
func TestGarbageCircle(t *testing.T) {
	ns, ctx := namespace(t), t.Context()
	pods := world.kube.CoreV1().Pods(ns)
	made := make([]*corev1.Pod, 3)
	for i := range made {
		made[i] = get[*corev1.Pod](t)(pods.Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("pod%d", i)}, Spec: corev1.PodSpec{
			NodeSelector: map[string]string{"no": "where"}, Containers: []corev1.Container{{Name: "c", Image: "i"}},
		}}, metav1.CreateOptions{}))
	}
	for i, p := range made {
		owner := made[(i+2)%3]
		patch := fmt.Sprintf(`{"metadata":{"ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":%q,"uid":%q,"controller":true,"blockOwnerDeletion":true}]}}`, owner.Name, owner.UID)
		get[*corev1.Pod](t)(pods.Patch(ctx, p.Name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}))
	}
	must(t, pods.Delete(ctx, "pod0", metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationForeground)}))
	eventually(t, func() (bool, any) {
		n := len(get[*corev1.PodList](t)(pods.List(ctx, metav1.ListOptions{})).Items)
		return n == 0, n
	})
}

// "namespace deletion should delete pod first": what else is there waits for
// the pods.
func TestOrderedNamespaceDeletion(t *testing.T) {
	ns, ctx := namespace(t), t.Context()
	core := world.kube.CoreV1()
	get[*corev1.ConfigMap](t)(core.ConfigMaps(ns).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "cm"}}, metav1.CreateOptions{}))
	get[*corev1.Pod](t)(core.Pods(ns).Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "held", Finalizers: []string{"test.io/hold"}},
		Spec:       corev1.PodSpec{NodeSelector: map[string]string{"no": "where"}, Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}, metav1.CreateOptions{}))
	must(t, core.Namespaces().Delete(ctx, ns, metav1.DeleteOptions{}))
	eventually(t, func() (bool, any) {
		n := get[*corev1.Namespace](t)(core.Namespaces().Get(ctx, ns, metav1.GetOptions{}))
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NamespaceFinalizersRemaining && c.Status == corev1.ConditionTrue {
				return n.Status.Phase == corev1.NamespaceTerminating, c
			}
		}
		return false, n.Status
	})
	get[*corev1.ConfigMap](t)(core.ConfigMaps(ns).Get(ctx, "cm", metav1.GetOptions{}))
	_, err := core.ConfigMaps(ns).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "late"}}, metav1.CreateOptions{})
	if !apierrors.IsForbidden(err) || !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		t.Errorf("create while it ends: %v", err)
	}
	if _, err := core.Pods(ns).Patch(ctx, "held", types.MergePatchType, []byte(`{"metadata":{"finalizers":["test.io/hold","test.io/more"]}}`), metav1.PatchOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("a finalizer was added to a pod that is being deleted: %v", err)
	}
	get[*corev1.Pod](t)(core.Pods(ns).Patch(ctx, "held", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}))
	eventually(t, func() (bool, any) {
		n, err := core.Namespaces().Get(ctx, ns, metav1.GetOptions{})
		return apierrors.IsNotFound(err), n.Status
	})
}

// "should apply a finalizer to a Namespace"
func TestNamespaceFinalizers(t *testing.T) {
	ns, ctx := namespace(t), t.Context()
	api := world.kube.CoreV1().Namespaces()
	n := get[*corev1.Namespace](t)(api.Get(ctx, ns, metav1.GetOptions{}))
	n.Spec.Finalizers = append(n.Spec.Finalizers, "e2e.example.com/fakeFinalizer")
	n = get[*corev1.Namespace](t)(api.Finalize(ctx, n, metav1.UpdateOptions{}))
	if len(n.Spec.Finalizers) != 2 {
		t.Errorf("finalizers %v", n.Spec.Finalizers)
	}
	n.Spec.Finalizers = []corev1.FinalizerName{corev1.FinalizerKubernetes}
	if n = get[*corev1.Namespace](t)(api.Finalize(ctx, n, metav1.UpdateOptions{})); len(n.Spec.Finalizers) != 1 {
		t.Errorf("finalizers %v", n.Spec.Finalizers)
	}
}
