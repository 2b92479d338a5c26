package api

import (
	"fmt"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	appsclient "k8s.io/client-go/kubernetes/typed/apps/v1"
	"k8s.io/utils/ptr"
)

var web = map[string]string{"name": "web"}

// apps is a namespace with a node for its pods.
type apps struct {
	t    *testing.T
	ns   string
	node string
	appsclient.AppsV1Interface
}

func newApps(t *testing.T) apps {
	t.Helper()
	ns := namespace(t)
	node(t, ns, "50")
	return apps{t, ns, ns, world.kube.AppsV1()}
}

func (a apps) template(image string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: web}, Spec: on(a.node, corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: image}}})}
}

func (a apps) deploy(replicas int32, change func(*appsv1.Deployment)) *appsv1.Deployment {
	a.t.Helper()
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: appsv1.DeploymentSpec{
		Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: web}, Template: a.template("v1"),
	}}
	if change != nil {
		change(d)
	}
	return get[*appsv1.Deployment](a.t)(a.Deployments(a.ns).Create(a.t.Context(), d, metav1.CreateOptions{}))
}

func (a apps) patch(body string, subresource ...string) *appsv1.Deployment {
	a.t.Helper()
	return get[*appsv1.Deployment](a.t)(a.Deployments(a.ns).Patch(a.t.Context(), "web", types.StrategicMergePatchType, []byte(body), metav1.PatchOptions{}, subresource...))
}

func (a apps) image(v string) {
	a.t.Helper()
	a.patch(fmt.Sprintf(`{"spec":{"template":{"spec":{"containers":[{"name":"c","image":%q}]}}}}`, v))
}

// done waits until the Deployment is as its spec has it.
func (a apps) done() *appsv1.Deployment {
	a.t.Helper()
	var d *appsv1.Deployment
	eventually(a.t, func() (bool, any) {
		d = get[*appsv1.Deployment](a.t)(a.Deployments(a.ns).Get(a.t.Context(), "web", metav1.GetOptions{}))
		n := *d.Spec.Replicas
		return d.Status.ObservedGeneration == d.Generation && d.Status.UpdatedReplicas == n && d.Status.Replicas == n && d.Status.AvailableReplicas == n, d.Status
	})
	return d
}

func (a apps) sets() map[string]*appsv1.ReplicaSet {
	a.t.Helper()
	byImage := map[string]*appsv1.ReplicaSet{}
	list := get[*appsv1.ReplicaSetList](a.t)(a.ReplicaSets(a.ns).List(a.t.Context(), metav1.ListOptions{}))
	for i := range list.Items {
		byImage[list.Items[i].Spec.Template.Spec.Containers[0].Image] = &list.Items[i]
	}
	return byImage
}

func (a apps) pods() []corev1.Pod {
	a.t.Helper()
	return get[*corev1.PodList](a.t)(world.kube.CoreV1().Pods(a.ns).List(a.t.Context(), metav1.ListOptions{})).Items
}

// RollingUpdate and Rollover: many changes before one is finished; the
// number of pods stays within its bounds; revisions are counted; old
// ReplicaSets end.
func TestDeploymentRollover(t *testing.T) {
	a := newApps(t)
	a.deploy(6, func(d *appsv1.Deployment) { d.Spec.RevisionHistoryLimit = ptr.To(int32(2)) })
	a.done()
	stop := make(chan struct{})
	worst := make(chan string, 1)
	go func() {
		defer close(worst)
		for {
			select {
			case <-stop:
				return
			default:
			}
			alive := 0
			list, err := world.kube.CoreV1().Pods(a.ns).List(t.Context(), metav1.ListOptions{})
			if err != nil {
				continue
			}
			for _, p := range list.Items {
				if p.DeletionTimestamp == nil {
					alive++
				}
			}
			if alive < 5 || alive > 8 {
				worst <- fmt.Sprintf("%d pods during a rollout of 6", alive)
				return
			}
		}
	}()
	for _, v := range []string{"v2", "v3", "v4", "v5"} {
		a.image(v)
	}
	d := a.done()
	close(stop)
	if w := <-worst; w != "" {
		t.Error(w)
	}
	if rev := d.Annotations["deployment.kubernetes.io/revision"]; rev == "1" || rev == "" {
		t.Errorf("revision %q", rev)
	}
	for _, v := range []string{"v6", "v7"} {
		a.image(v)
		a.done()
	}
	eventually(t, func() (bool, any) { return len(a.sets()) == 3, a.sets() })
	for _, p := range a.pods() {
		if p.DeletionTimestamp == nil && p.Spec.Containers[0].Image != "v7" {
			t.Errorf("left: %s %s", p.Name, p.Spec.Containers[0].Image)
		}
	}
	// Back to a template of before: its ReplicaSet serves again.
	before := a.sets()["v6"].UID
	a.image("v6")
	a.done()
	if got := a.sets()["v6"].UID; got != before {
		t.Error("a rollback made a new ReplicaSet")
	}
	// Its replicas were removed, and progress is told.
	if !slices.ContainsFunc(a.done().Status.Conditions, func(c appsv1.DeploymentCondition) bool {
		return c.Type == appsv1.DeploymentProgressing && c.Reason == "NewReplicaSetAvailable"
	}) {
		t.Errorf("conditions %v", a.done().Status.Conditions)
	}
}

// "RecreateDeployment should delete old pods and create new ones"
func TestDeploymentRecreate(t *testing.T) {
	a := newApps(t)
	a.deploy(3, func(d *appsv1.Deployment) { d.Spec.Strategy.Type = appsv1.RecreateDeploymentStrategyType })
	a.done()
	w, err := world.kube.CoreV1().Pods(a.ns).Watch(t.Context(), metav1.ListOptions{ResourceVersion: get[*corev1.PodList](t)(world.kube.CoreV1().Pods(a.ns).List(t.Context(), metav1.ListOptions{})).ResourceVersion})
	must(t, err)
	defer w.Stop()
	a.image("v2")
	a.done()
	gone := 0
	for gone < 3 {
		e := <-w.ResultChan()
		switch p := e.Object.(*corev1.Pod); {
		case e.Type == "DELETED":
			gone++
		case e.Type == "ADDED" && p.Spec.Containers[0].Image == "v2":
			t.Fatalf("a new pod came when %d of the old were gone", gone)
		}
	}
}

// "deployment should support proportional scaling": 10 replicas with maxSurge 3
// and maxUnavailable 2, a rollout that cannot go on, then 30.
func TestDeploymentProportionalScaling(t *testing.T) {
	a := newApps(t)
	a.deploy(10, func(d *appsv1.Deployment) {
		d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: ptr.To(intstr.FromInt32(3)), MaxUnavailable: ptr.To(intstr.FromInt32(2))}
	})
	a.done()
	a.patch(`{"spec":{"template":{"metadata":{"labels":{"` + manual + `":"x"}},"spec":{"containers":[{"name":"c","image":"404"}]}}}}`)
	want := func(old, fresh int32) {
		t.Helper()
		eventually(t, func() (bool, any) {
			sets := a.sets()
			if len(sets) != 2 {
				return false, len(sets)
			}
			o, n := *sets["v1"].Spec.Replicas, *sets["404"].Spec.Replicas
			return o == old && n == fresh, fmt.Sprintf("%d and %d", o, n)
		})
	}
	want(8, 5)
	eventually(t, func() (bool, any) {
		d := get[*appsv1.Deployment](t)(a.Deployments(a.ns).Get(t.Context(), "web", metav1.GetOptions{}))
		return d.Status.AvailableReplicas == 8 && d.Status.UnavailableReplicas == 5, d.Status
	})
	a.patch(`{"spec":{"replicas":30}}`)
	want(20, 13)
}

// The scale and the status subresources, minReadySeconds, pause and deadline.
func TestDeploymentSubresources(t *testing.T) {
	a, ctx := newApps(t), t.Context()
	a.deploy(1, func(d *appsv1.Deployment) { d.Spec.MinReadySeconds = 1 })
	a.done()
	api := a.Deployments(a.ns)
	scale := get[*autoscalingv1.Scale](t)(api.GetScale(ctx, "web", metav1.GetOptions{}))
	if scale.Spec.Replicas != 1 || scale.Status.Replicas != 1 || scale.Status.Selector != "name=web" {
		t.Errorf("scale %+v", scale)
	}
	scale.ResourceVersion = "" // unconditional
	scale.Spec.Replicas = 2
	if scale = get[*autoscalingv1.Scale](t)(api.UpdateScale(ctx, "web", scale, metav1.UpdateOptions{})); scale.Spec.Replicas != 2 {
		t.Errorf("scale %+v", scale)
	}
	get[*appsv1.Deployment](t)(api.Patch(ctx, "web", types.MergePatchType, []byte(`{"spec":{"paused":true}}`), metav1.PatchOptions{}))
	if d := get[*appsv1.Deployment](t)(api.Get(ctx, "web", metav1.GetOptions{})); *d.Spec.Replicas != 2 {
		t.Errorf("replicas %d", *d.Spec.Replicas)
	}
	patched := a.patch(`{"status":{"conditions":[{"type":"StatusPatched","status":"True"}]}}`, "status")
	if !slices.ContainsFunc(patched.Status.Conditions, func(c appsv1.DeploymentCondition) bool { return c.Type == "StatusPatched" }) {
		t.Errorf("status %v", patched.Status)
	}
	a.image("v2") // paused: nothing follows
	eventually(t, func() (bool, any) {
		d := get[*appsv1.Deployment](t)(api.Get(ctx, "web", metav1.GetOptions{}))
		return d.Status.ObservedGeneration == d.Generation && d.Status.UpdatedReplicas == 0 && d.Status.Replicas == 2, d.Status
	})
	if len(a.sets()) != 1 {
		t.Errorf("a paused Deployment has %d ReplicaSets", len(a.sets()))
	}
	a.patch(`{"spec":{"paused":false}}`)
	a.done()
	a.patch(`{"spec":{"progressDeadlineSeconds":2,"template":{"metadata":{"labels":{"` + manual + `":"x"}},"spec":{"containers":[{"name":"c","image":"404"}]}}}}`)
	eventually(t, func() (bool, any) {
		d := get[*appsv1.Deployment](t)(api.Get(ctx, "web", metav1.GetOptions{}))
		return slices.ContainsFunc(d.Status.Conditions, func(c appsv1.DeploymentCondition) bool {
			return c.Type == appsv1.DeploymentProgressing && c.Status == corev1.ConditionFalse && c.Reason == "ProgressDeadlineExceeded"
		}), d.Status.Conditions
	})
	must(t, api.Delete(ctx, "web", metav1.DeleteOptions{}))
	eventually(t, func() (bool, any) { return len(a.sets()) == 0, a.sets() })
}

// "should adopt matching pods on creation and release no longer matching pods",
// scale, status, failed pods.
func TestReplicaSets(t *testing.T) {
	a, ctx := newApps(t), t.Context()
	pods := world.kube.CoreV1().Pods(a.ns)
	template := a.template("v1")
	orphan := get[*corev1.Pod](t)(pods.Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "orphan", Labels: web}, Spec: template.Spec}, metav1.CreateOptions{}))
	sets := a.ReplicaSets(a.ns)
	rs := get[*appsv1.ReplicaSet](t)(sets.Create(ctx, &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Name: "web", Labels: web}, Spec: appsv1.ReplicaSetSpec{
		Replicas: ptr.To(int32(1)), Selector: &metav1.LabelSelector{MatchLabels: web}, Template: template,
	}}, metav1.CreateOptions{}))
	owned := func(name string, want bool) {
		t.Helper()
		eventually(t, func() (bool, any) {
			p := get[*corev1.Pod](t)(pods.Get(ctx, name, metav1.GetOptions{}))
			return metav1.IsControlledBy(p, rs) == want, p.OwnerReferences
		})
	}
	owned("orphan", true)
	get[*corev1.Pod](t)(pods.Patch(ctx, orphan.Name, types.MergePatchType, []byte(`{"metadata":{"labels":{"name":"other"}}}`), metav1.PatchOptions{}))
	owned("orphan", false)
	ready := func(n int32) {
		t.Helper()
		eventually(t, func() (bool, any) {
			rs = get[*appsv1.ReplicaSet](t)(sets.Get(ctx, "web", metav1.GetOptions{}))
			return rs.Status.ReadyReplicas == n && rs.Status.AvailableReplicas == n && rs.Status.Replicas == n, rs.Status
		})
	}
	ready(1)
	scale := get[*autoscalingv1.Scale](t)(sets.GetScale(ctx, "web", metav1.GetOptions{}))
	scale.ResourceVersion, scale.Spec.Replicas = "", 3
	get[*autoscalingv1.Scale](t)(sets.UpdateScale(ctx, "web", scale, metav1.UpdateOptions{}))
	ready(3)
	for _, p := range a.pods() {
		if metav1.IsControlledBy(&p, rs) {
			p.Status.Phase = corev1.PodFailed
			get[*corev1.Pod](t)(pods.UpdateStatus(ctx, &p, metav1.UpdateOptions{}))
			break
		}
	}
	ready(3)
	get[*appsv1.ReplicaSet](t)(sets.Patch(ctx, "web", types.StrategicMergePatchType, []byte(`{"spec":{"replicas":2}}`), metav1.PatchOptions{}))
	ready(2)
	must(t, sets.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "name=web"}))
	eventually(t, func() (bool, any) { return len(a.pods()) == 1, len(a.pods()) })
}
