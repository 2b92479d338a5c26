package resourcequota_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/builtin"
	"github.com/proa-dev/proa/controllers/internal/clustertest"
	"github.com/proa-dev/proa/controllers/resourcequota"
)

func kinds() []*api.Kind {
	return slices.DeleteFunc(builtin.Kinds(), func(k *api.Kind) bool {
		return !slices.Contains([]string{"pods", "services", "configmaps", "resourcequotas", "persistentvolumeclaims", "resourceclaims"}, k.Resource)
	})
}

func meta(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "ns", Name: name} }

func list(text string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for part := range strings.FieldsSeq(text) {
		name, amount, _ := strings.Cut(part, "=")
		out[corev1.ResourceName(name)] = resource.MustParse(amount)
	}
	return out
}

func show(l corev1.ResourceList) string {
	var parts []string
	for name, q := range l {
		parts = append(parts, fmt.Sprintf("%s=%s", name, q.String()))
	}
	slices.Sort(parts)
	return strings.Join(parts, " ")
}

func pod(name, requests string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: meta(name), Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: list(requests)}}},
	}}
}

func start(t *testing.T, objs ...client.Object) *clustertest.Cluster {
	t.Helper()
	c := clustertest.New(t, objs...)
	l, err := resourcequota.New(c.Env(nil), kinds)
	c.Do(err)
	c.Run(l)
	return c
}

// used waits until nothing happens any more.
func used(t *testing.T, c *clustertest.Cluster, name string) string {
	t.Helper()
	time.Sleep(2 * time.Second)
	synctest.Wait()
	var q corev1.ResourceQuota
	if !c.Get(&q, "ns", name) {
		t.Fatalf("no quota %s", name)
	}
	return show(q.Status.Used)
}

func TestUsage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hard := "pods=5 cpu=2 limits.memory=1Gi count/pods=9 services=3 services.nodeports=2 count/configmaps=4 configmaps=4 requests.storage=1Ti gold.storageclass.storage.k8s.io/requests.storage=1Ti requests.example.com/x=4 count/widgets.example.com=1"
		ended := pod("ended", "cpu=1")
		ended.Status.Phase = corev1.PodSucceeded
		c := start(t,
			&corev1.ResourceQuota{ObjectMeta: meta("q"), Spec: corev1.ResourceQuotaSpec{Hard: list(hard)}},
			pod("a", "cpu=500m example.com/x=1"), pod("b", "cpu=250m"), ended,
			&corev1.Service{ObjectMeta: meta("s"), Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 1}, {Port: 2}}}},
			&corev1.ConfigMap{ObjectMeta: meta("m")},
			&corev1.PersistentVolumeClaim{ObjectMeta: meta("p"), Spec: corev1.PersistentVolumeClaimSpec{
				StorageClassName: ptr.To("gold"), Resources: corev1.VolumeResourceRequirements{Requests: list("storage=10Gi")},
			}},
		)
		// A kind that is not served has no usage.
		want := "configmaps=1 count/configmaps=1 count/pods=3 cpu=750m gold.storageclass.storage.k8s.io/requests.storage=10Gi limits.memory=0 pods=2 requests.example.com/x=1 requests.storage=10Gi services.nodeports=2 services=1"
		if got := used(t, c, "q"); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}

		c.Do(c.API.Delete(t.Context(), pod("a", "")))
		c.Do(c.API.Delete(t.Context(), &corev1.ConfigMap{ObjectMeta: meta("m")}))
		done := &corev1.Pod{}
		c.Get(done, "ns", "b")
		done.Status.Phase = corev1.PodFailed
		c.Do(c.API.Status().Update(t.Context(), done))
		want = "configmaps=0 count/configmaps=0 count/pods=2 cpu=0 gold.storageclass.storage.k8s.io/requests.storage=10Gi limits.memory=0 pods=0 requests.example.com/x=0 requests.storage=10Gi services.nodeports=2 services=1"
		if got := used(t, c, "q"); got != want {
			t.Errorf("after deletes:\ngot  %s\nwant %s", got, want)
		}

		// A change of the limits shows in the status.
		q := &corev1.ResourceQuota{}
		c.Get(q, "ns", "q")
		q.Spec.Hard = list("services=7")
		c.Do(c.API.Update(t.Context(), q))
		if got := used(t, c, "q"); got != "services=1" {
			t.Errorf("after a change: %s", got)
		}
		c.Get(q, "ns", "q")
		if got := show(q.Status.Hard); got != "services=7" {
			t.Errorf("hard: %s", got)
		}
	})
}

func TestScopes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		quotaOf := func(name string, spec corev1.ResourceQuotaSpec) *corev1.ResourceQuota {
			spec.Hard = list("pods=9")
			return &corev1.ResourceQuota{ObjectMeta: meta(name), Spec: spec}
		}
		scoped := func(s corev1.ResourceQuotaScope) corev1.ResourceQuotaSpec {
			return corev1.ResourceQuotaSpec{Scopes: []corev1.ResourceQuotaScope{s}}
		}
		high, brief, far := pod("high", "cpu=1"), pod("brief", ""), pod("far", "")
		high.Spec.PriorityClassName = "high"
		brief.Spec.ActiveDeadlineSeconds = ptr.To[int64](5)
		far.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{Namespaces: []string{"other"}}},
		}}
		c := start(t, high, brief, far,
			quotaOf("best", scoped(corev1.ResourceQuotaScopeBestEffort)), quotaOf("not-best", scoped(corev1.ResourceQuotaScopeNotBestEffort)),
			quotaOf("ending", scoped(corev1.ResourceQuotaScopeTerminating)), quotaOf("not-ending", scoped(corev1.ResourceQuotaScopeNotTerminating)),
			quotaOf("far", scoped(corev1.ResourceQuotaScopeCrossNamespacePodAffinity)), quotaOf("classes", scoped(corev1.ResourceQuotaScopePriorityClass)),
			quotaOf("not-high", corev1.ResourceQuotaSpec{ScopeSelector: &corev1.ScopeSelector{MatchExpressions: []corev1.ScopedResourceSelectorRequirement{
				{ScopeName: corev1.ResourceQuotaScopePriorityClass, Operator: corev1.ScopeSelectorOpNotIn, Values: []string{"high"}},
			}}}),
		)
		for name, want := range map[string]string{
			"best": "pods=2", "not-best": "pods=1", "ending": "pods=1", "not-ending": "pods=2", "far": "pods=1", "classes": "pods=1", "not-high": "pods=2",
		} {
			if got := used(t, c, name); got != want {
				t.Errorf("%s: %s, want %s", name, got, want)
			}
		}
	})
}

// What was charged for an object that never came is taken off, and a pod whose
// node is lost stops to count when its time has come.
func TestLeftovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &corev1.ResourceQuota{
			ObjectMeta: meta("q"), Spec: corev1.ResourceQuotaSpec{Hard: list("pods=5")},
			Status: corev1.ResourceQuotaStatus{Hard: list("pods=5"), Used: list("pods=1")},
		}
		lost := pod("lost", "")
		lost.Finalizers = []string{"test/hold"}
		lost.DeletionTimestamp, lost.DeletionGracePeriodSeconds = ptr.To(metav1.NewTime(time.Now().Add(time.Minute).Truncate(time.Second))), ptr.To[int64](30)
		c := start(t, q, lost)
		if got := used(t, c, "q"); got != "pods=1" {
			t.Errorf("at first: %s", got)
		}
		c.Get(q, "ns", "q")
		q.Status.Used = list("pods=4")
		c.Do(c.API.Status().Update(t.Context(), q))
		if got := used(t, c, "q"); got != "pods=1" {
			t.Errorf("after a charge without an object: %s", got)
		}
		time.Sleep(2 * time.Minute)
		if got := used(t, c, "q"); got != "pods=0" {
			t.Errorf("after its end: %s", got)
		}
	})
}

// A kind that went and came back is counted as before, although its watch was
// ended meanwhile; one that cannot be watched keeps no other from being counted.
func TestKindsThatComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := clustertest.New(t, &corev1.ResourceQuota{ObjectMeta: meta("q"), Spec: corev1.ResourceQuotaSpec{Hard: list("count/configmaps=4")}},
			&corev1.ConfigMap{ObjectMeta: meta("m")})
		bad := *kinds()[0]
		bad.GVK.Group, bad.Resource = "example.com", "things"
		bad.New = func() api.Object { return &unstructured.Unstructured{} }
		l, err := resourcequota.New(c.Env(nil), func() []*api.Kind { return append(kinds(), &bad) })
		c.Do(err)
		c.Run(l)
		if got := used(t, c, "q"); got != "count/configmaps=1" {
			t.Error(got)
		}
		c.Do(c.Cache().RemoveInformer(t.Context(), &corev1.ConfigMap{}))
		time.Sleep(time.Minute)
		c.Do(c.API.Delete(t.Context(), &corev1.ConfigMap{ObjectMeta: meta("m")}))
		if got := used(t, c, "q"); got != "count/configmaps=0" {
			t.Error(got)
		}
	})
}

// charged is a cluster in which the quota was charged a moment ago: who reads
// it knows, the watch has yet to tell.
type charged struct {
	*clustertest.Cluster
	quota  *corev1.ResourceQuota // nil before
	writes atomic.Int64
}

func (c *charged) Client() client.WithWatch { return chargedClient{c.Cluster.Client(), c} }

type chargedClient struct {
	client.WithWatch
	c *charged
}

func (c chargedClient) Get(ctx context.Context, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
	if q, ok := o.(*corev1.ResourceQuota); ok && c.c.quota != nil {
		c.c.quota.DeepCopyInto(q)
		return nil
	}
	return c.WithWatch.Get(ctx, key, o, opts...)
}

func (c chargedClient) Status() client.SubResourceWriter {
	if c.c.quota == nil {
		return c.WithWatch.Status()
	}
	return chargedStatus{c.WithWatch.Status(), c.c}
}

type chargedStatus struct {
	client.SubResourceWriter
	c *charged
}

func (c chargedStatus) Update(context.Context, client.Object, ...client.SubResourceUpdateOption) error {
	c.c.writes.Add(1)
	return nil
}

// What was charged for an object that is about to be written is not taken off,
// though another object that goes calls for a count.
func TestChargeBeforeItsEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &corev1.ResourceQuota{ObjectMeta: meta("q"), Spec: corev1.ResourceQuotaSpec{Hard: list("pods=2")}}
		c := &charged{Cluster: clustertest.New(t, q, pod("a", ""))}
		env := c.Env(nil)
		env.Cluster = c
		l, err := resourcequota.New(env, kinds)
		c.Do(err)
		c.Run(l)
		if got := used(t, c.Cluster, "q"); got != "pods=1" {
			t.Fatal(got)
		}
		next := &corev1.ResourceQuota{}
		c.Get(next, "ns", "q")
		version, err := strconv.Atoi(next.ResourceVersion)
		c.Do(err)
		next.ResourceVersion, next.Status.Used = strconv.Itoa(version+10), list("pods=2")
		c.quota = next
		c.Do(c.API.Delete(t.Context(), pod("a", "")))
		time.Sleep(40 * time.Millisecond)
		synctest.Wait()
		if c.writes.Load() > 0 {
			t.Error("the charge is taken off at once")
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if c.writes.Load() == 0 {
			t.Error("a charge for nothing stays")
		}
	})
}

// Devices of claims count under the names of the extended resources that a class
// makes them stand for, from when it does.
func TestDevices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		class := &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "gpu"}}
		c := start(t, class,
			&corev1.ResourceQuota{ObjectMeta: meta("q"), Spec: corev1.ResourceQuotaSpec{Hard: list("requests.example.com/gpu=9 requests.deviceclass.resource.kubernetes.io/gpu=9")}},
			pod("a", "example.com/gpu=1"),
			&resourcev1.ResourceClaim{ObjectMeta: meta("c"), Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{
				Name: "r", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 2},
			}}}}},
		)
		if got, want := used(t, c, "q"), "requests.deviceclass.resource.kubernetes.io/gpu=2 requests.example.com/gpu=1"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		c.Get(class, "", "gpu")
		class.Spec.ExtendedResourceName = ptr.To("example.com/gpu")
		c.Do(c.API.Update(t.Context(), class))
		if got, want := used(t, c, "q"), "requests.deviceclass.resource.kubernetes.io/gpu=2 requests.example.com/gpu=3"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}
