package api

import (
	"context"
	"fmt"
	"hash/fnv"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"
)

// manual marks pods whose status the test writes.
const manual = "test/manual"

// kubelets does what the kubelets of all nodes would: bound pods run and are
// Ready, deleted ones end, and the nodes are heard of.
func kubelets(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { heartbeats(ctx) })
	// A pod's changes stay in order.
	hands := make([]chan *corev1.Pod, 8)
	for i := range hands {
		hands[i] = make(chan *corev1.Pod, 16)
		wg.Go(func() {
			for {
				select {
				case pod := <-hands[i]:
					kubelet(ctx, pod)
				case <-ctx.Done():
					return
				}
			}
		})
	}
	act := func(o any) {
		if pod, ok := o.(*corev1.Pod); ok && pod.Spec.NodeName != "" && pod.Labels[manual] == "" {
			select {
			case hands[sum32(string(pod.UID))%uint32(len(hands))] <- pod:
			case <-ctx.Done():
			}
		}
	}
	lw := cache.NewListWatchFromClient(world.kube.CoreV1().RESTClient(), "pods", "", fields.Everything())
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: lw, ObjectType: &corev1.Pod{},
		Handler: cache.ResourceEventHandlerFuncs{AddFunc: act, UpdateFunc: func(_, o any) { act(o) }},
	})
	informer.RunWithContext(ctx)
}

// heartbeats renews the nodes' Leases. What fails is tried again in time.
func heartbeats(ctx context.Context) {
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	leases := world.kube.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		nodes, err := world.kube.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			continue
		}
		for i := range nodes.Items {
			name := nodes.Items[i].Name
			now := fmt.Sprintf(`{"spec":{"renewTime":%q}}`, time.Now().UTC().Format(metav1.RFC3339Micro))
			if _, err := leases.Patch(ctx, name, types.MergePatchType, []byte(now), metav1.PatchOptions{}); apierrors.IsNotFound(err) {
				owner := metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: name, UID: nodes.Items[i].UID}
				_, _ = leases.Create(ctx, &coordinationv1.Lease{
					ObjectMeta: metav1.ObjectMeta{Name: name, OwnerReferences: []metav1.OwnerReference{owner}},
					Spec:       coordinationv1.LeaseSpec{RenewTime: ptr.To(metav1.NowMicro())},
				}, metav1.CreateOptions{})
			}
		}
	}
}

func sum32(s string) uint32 {
	h := fnv.New32()
	_, _ = h.Write([]byte(s))
	return h.Sum32()
}

// kubelet brings one pod on. A failure is of a pod that changed meanwhile,
// which comes again.
func kubelet(ctx context.Context, pod *corev1.Pod) {
	pods := world.kube.CoreV1().Pods(pod.Namespace)
	if pod.DeletionTimestamp != nil {
		_ = pods.Delete(ctx, pod.Name, metav1.DeleteOptions{
			GracePeriodSeconds: ptr.To(int64(0)), Preconditions: metav1.NewUIDPreconditions(string(pod.UID)),
		})
		return
	}
	if pod.Status.Phase != corev1.PodPending {
		return
	}
	pod = pod.DeepCopy()
	setRunning(pod)
	_, _ = pods.UpdateStatus(ctx, pod, metav1.UpdateOptions{})
}

func setRunning(pod *corev1.Pod) {
	sum := sum32(string(pod.UID))
	ip := fmt.Sprintf("10.42.%d.%d", sum>>8&0xff, sum&0xff)
	now := metav1.Now()
	pod.Status.Phase, pod.Status.PodIP, pod.Status.PodIPs = corev1.PodRunning, ip, []corev1.PodIP{{IP: ip}}
	pod.Status.StartTime = &now
	for _, c := range []corev1.PodConditionType{corev1.PodInitialized, corev1.ContainersReady, corev1.PodReady} {
		pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: c, Status: corev1.ConditionTrue, LastTransitionTime: now})
	}
}

// node makes a Ready node with room for so many CPUs, which only pods that
// select it by the label "test/node" get to.
func node(t *testing.T, name, cpu string) {
	t.Helper()
	nodeOf(t, name, name, cpu)
}

// nodeOf makes a node of several that are selected by the name of their group.
func nodeOf(t *testing.T, group, name, cpu string) {
	t.Helper()
	room := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse("64Gi"),
		corev1.ResourcePods: resource.MustParse("110"), corev1.ResourceEphemeralStorage: resource.MustParse("100Gi"),
	}
	now := metav1.Now()
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"test/node": group, corev1.LabelHostname: name}},
		Spec:       corev1.NodeSpec{Taints: []corev1.Taint{{Key: "test/node", Value: group, Effect: corev1.TaintEffectNoSchedule}}},
		Status: corev1.NodeStatus{Capacity: room, Allocatable: room, Conditions: []corev1.NodeCondition{
			{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", LastHeartbeatTime: now, LastTransitionTime: now},
		}},
	}
	_, err := world.kube.CoreV1().Nodes().Create(t.Context(), n, metav1.CreateOptions{})
	must(t, err)
	t.Cleanup(func() {
		if err := world.kube.CoreV1().Nodes().Delete(context.WithoutCancel(t.Context()), name, metav1.DeleteOptions{}); err != nil {
			t.Log(err)
		}
	})
	eventually(t, func() (bool, any) {
		n, err := world.kube.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
		return err == nil && len(n.Spec.Taints) == 1, n
	})
}

// on makes pods of a template run on a node of node.
func on(name string, spec corev1.PodSpec) corev1.PodSpec {
	spec.NodeSelector = map[string]string{"test/node": name}
	spec.Tolerations = append(spec.Tolerations, corev1.Toleration{Key: "test/node", Operator: corev1.TolerationOpExists})
	if spec.Containers == nil {
		spec.Containers = []corev1.Container{{Name: "c", Image: "image"}}
	}
	return spec
}
