package api

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// "should create and delete Endpoints and EndpointSlices for a Service with a
// selector specified", with named ports that differ between pods.
func TestEndpoints(t *testing.T) {
	ns, ctx := namespace(t), t.Context()
	node(t, ns, "4")
	core := world.kube.CoreV1()
	pod := func(name string, port int32) {
		t.Helper()
		get[*corev1.Pod](t)(core.Pods(ns).Create(ctx, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"foo": "bar"}},
			Spec:       on(ns, corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i", Ports: []corev1.ContainerPort{{Name: "example", ContainerPort: port}}}}}),
		}, metav1.CreateOptions{}))
	}
	service := func(name string) {
		t.Helper()
		get[*corev1.Service](t)(core.Services(ns).Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{
			Selector: map[string]string{"foo": "bar"}, Ports: []corev1.ServicePort{{Name: "p", Port: 80, TargetPort: intstr.FromString("example")}},
		}}, metav1.CreateOptions{}))
	}
	// have waits until the addresses with their ports are those of ready pods.
	have := func(name string, want ...string) {
		t.Helper()
		slices.Sort(want)
		eventually(t, func() (bool, any) {
			var sliced, plain []string
			list := get[*discoveryv1.EndpointSliceList](t)(world.kube.DiscoveryV1().EndpointSlices(ns).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + name}))
			for _, s := range list.Items {
				for _, e := range s.Endpoints {
					if e.TargetRef != nil && e.Conditions.Ready != nil && *e.Conditions.Ready {
						sliced = append(sliced, fmt.Sprintf("%s:%d", e.TargetRef.Name, *s.Ports[0].Port))
					}
				}
			}
			if ep, err := core.Endpoints(ns).Get(ctx, name, metav1.GetOptions{}); err == nil { //nolint:staticcheck // served as long as upstream serves it
				for _, s := range ep.Subsets {
					for _, a := range s.Addresses {
						plain = append(plain, fmt.Sprintf("%s:%d", a.TargetRef.Name, s.Ports[0].Port))
					}
				}
			}
			slices.Sort(sliced)
			slices.Sort(plain)
			return slices.Equal(sliced, want) && slices.Equal(plain, want), fmt.Sprint(sliced, plain)
		})
	}
	service("early")
	pod("pod1", 3000)
	pod("pod2", 3001)
	have("early", "pod1:3000", "pod2:3001")
	service("late")
	have("late", "pod1:3000", "pod2:3001")
	get[*corev1.Pod](t)(core.Pods(ns).Patch(ctx, "pod1", types.MergePatchType, []byte(`{"metadata":{"labels":{"foo":"else"}}}`), metav1.PatchOptions{}))
	have("early", "pod2:3001")
	must(t, core.Pods(ns).Delete(ctx, "pod2", metav1.DeleteOptions{}))
	have("late")
	must(t, client("v1/services", ns).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))
	eventually(t, func() (bool, any) {
		n := len(get[*discoveryv1.EndpointSliceList](t)(world.kube.DiscoveryV1().EndpointSlices(ns).List(ctx, metav1.ListOptions{})).Items)
		_, err := core.Endpoints(ns).Get(ctx, "early", metav1.GetOptions{}) //nolint:staticcheck // see above
		return n == 0 && apierrors.IsNotFound(err), n
	})
}

// "should mirror a custom Endpoints resource through create update and delete",
// and the API server's own.
func TestEndpointSliceMirroring(t *testing.T) {
	ns, ctx := namespace(t), t.Context()
	core := world.kube.CoreV1()
	get[*corev1.Service](t)(core.Services(ns).Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}, metav1.CreateOptions{}))
	do(t, "POST", "/api/v1/namespaces/"+ns+"/endpoints", nil, []byte(`{"metadata":{"name":"s"},"subsets":[{"ports":[{"port":80}],"addresses":[{"ip":"10.1.2.3"}]}]}`))
	mirrored := func(want ...string) {
		t.Helper()
		eventually(t, func() (bool, any) {
			var got []string
			list := get[*discoveryv1.EndpointSliceList](t)(world.kube.DiscoveryV1().EndpointSlices(ns).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=s," + discoveryv1.LabelManagedBy + "=endpointslicemirroring-controller.k8s.io"}))
			for _, s := range list.Items {
				for _, e := range s.Endpoints {
					got = append(got, e.Addresses...)
				}
			}
			return slices.Equal(got, want), got
		})
	}
	mirrored("10.1.2.3")
	do(t, "PATCH", "/api/v1/namespaces/"+ns+"/endpoints/s", header{"Content-Type": mergePatch}, []byte(`{"subsets":[{"ports":[{"port":80}],"addresses":[{"ip":"10.2.3.4"}]}]}`))
	mirrored("10.2.3.4")
	do(t, "DELETE", "/api/v1/namespaces/"+ns+"/endpoints/s", nil, nil)
	mirrored()
	own := get[*discoveryv1.EndpointSliceList](t)(world.kube.DiscoveryV1().EndpointSlices("default").List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=kubernetes"}))
	if len(own.Items) != 1 || len(own.Items[0].Endpoints) != 1 {
		t.Errorf("the API server's endpoints: %+v", own.Items)
	}
}

// A further range gives addresses, and stays as long as one is in use.
func TestServiceCIDRs(t *testing.T) {
	ns, ctx := namespace(t), t.Context()
	ranges, core := world.kube.NetworkingV1().ServiceCIDRs(), world.kube.CoreV1()
	ready := func(name string, want metav1.ConditionStatus) {
		t.Helper()
		eventually(t, func() (bool, any) {
			c, err := ranges.Get(ctx, name, metav1.GetOptions{})
			return err == nil && len(c.Status.Conditions) == 1 && c.Status.Conditions[0].Status == want, c
		})
	}
	ready("kubernetes", metav1.ConditionTrue)
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: corev1.ServiceSpec{ClusterIP: "10.143.0.7", Ports: []corev1.ServicePort{{Port: 80}}}}
	_, err := core.Services(ns).Create(ctx, service, metav1.CreateOptions{})
	if err == nil || !strings.Contains(err.Error(), "failed to allocate IP 10.143.0.7: the provided network does not match the current range") {
		t.Errorf("an address of no range: %v", err)
	}
	get[*networkingv1.ServiceCIDR](t)(ranges.Create(ctx, &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: ns}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.143.0.0/24"}}}, metav1.CreateOptions{}))
	ready(ns, metav1.ConditionTrue)
	get[*corev1.Service](t)(core.Services(ns).Create(ctx, service, metav1.CreateOptions{}))
	must(t, ranges.Delete(ctx, ns, metav1.DeleteOptions{}))
	ready(ns, metav1.ConditionFalse)
	service.Name, service.Spec.ClusterIP = "late", "10.143.0.8"
	if _, err := core.Services(ns).Create(ctx, service, metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("an address of a range that is being deleted: %v", err)
	}
}

// What clients leave out of an update stays, and a changed clusterIP or type
// takes along what belongs to it.
func TestServiceUpdates(t *testing.T) {
	ns, ctx := namespace(t), t.Context()
	services := world.kube.CoreV1().Services(ns)
	for i, test := range []struct {
		name, spec, patch, want string
	}{
		{"a port's number", `{"type":"NodePort","ports":[{"port":80,"nodePort":31790}]}`, `{"ports":[{"port":81}]}`, "81:31790"},
		{"ports by name", `{"type":"NodePort","ports":[{"name":"a","port":80,"nodePort":31791},{"name":"b","port":81,"nodePort":31792}]}`, `{"ports":[{"name":"b","port":80},{"name":"a","port":81}]}`, "80:31792 81:31791"},
		{"another address", `{"clusterIP":"10.43.9.1","ports":[{"port":80}]}`, `{"clusterIP":"10.43.9.2"}`, `spec.clusterIPs[0]: Invalid value: ["10.43.9.2"]: may not change once set`},
		{"no address", `{"clusterIP":"10.43.9.3","ports":[{"port":80}]}`, `{"clusterIP":null}`, "10.43.9.3 80:0"},
		{"another name instead of an address", `{"clusterIP":"10.43.9.4","ports":[{"port":80}]}`, `{"type":"ExternalName","externalName":"proa.dev","clusterIP":""}`, "80:0"},
		{"an address instead of another name", `{"type":"ExternalName","externalName":"proa.dev"}`, `{"type":"ClusterIP","clusterIP":"None"}`, "None"},
		{"another name and an address", `{"clusterIP":"10.43.9.5","ports":[{"port":80}]}`, `{"type":"ExternalName","externalName":"proa.dev","clusterIP":"10.43.9.6"}`, "spec.clusterIPs: Forbidden: may not be set for ExternalName services"},
	} {
		t.Run(test.name, func(t *testing.T) {
			svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("s", i)}}
			must(t, json.Unmarshal([]byte(test.spec), &svc.Spec))
			get[*corev1.Service](t)(services.Create(ctx, svc, metav1.CreateOptions{}))
			got, err := services.Patch(ctx, svc.Name, types.MergePatchType, fmt.Appendf(nil, `{"spec":%s}`, test.patch), metav1.PatchOptions{})
			var said []string
			if err != nil {
				said = append(said, err.Error())
			} else {
				said = append(said, got.Spec.ClusterIPs...)
				for _, p := range got.Spec.Ports {
					said = append(said, fmt.Sprintf("%d:%d", p.Port, p.NodePort))
				}
			}
			if all := strings.Join(said, " "); !strings.HasSuffix(all, test.want) {
				t.Errorf("%s, not %s", all, test.want)
			}
		})
	}
	both := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "both"}, Spec: corev1.ServiceSpec{ClusterIPs: []string{"None"}}}
	if _, err := services.Create(ctx, both, metav1.CreateOptions{}); err == nil || !strings.Contains(err.Error(), "must be empty when `clusterIP` is not specified") {
		t.Errorf("clusterIPs alone: %v", err)
	}
}

// Events of one group are those of the other.
func TestEvents(t *testing.T) {
	ns, ctx := namespace(t), t.Context()
	fresh := world.kube.EventsV1().Events(ns)
	made := get[*eventsv1.Event](t)(fresh.Create(ctx, &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "e"}, EventTime: metav1.NewMicroTime(time.Unix(1505828956, 123456000)),
		Note: "note", Reason: "Test", Action: "Do", Type: "Normal", ReportingController: "test-controller", ReportingInstance: "test-node",
		Regarding: corev1.ObjectReference{Namespace: ns, Kind: "Pod", Name: "p"},
	}, metav1.CreateOptions{}))
	old := get[*corev1.Event](t)(world.kube.CoreV1().Events(ns).Get(ctx, "e", metav1.GetOptions{}))
	if old.Message != "note" || old.InvolvedObject.Name != "p" || !old.EventTime.Equal(&made.EventTime) || old.ReportingController != "test-controller" || old.UID != made.UID {
		t.Errorf("as a core event: %+v", old)
	}
	got := get[*eventsv1.Event](t)(fresh.Patch(ctx, "e", types.StrategicMergePatchType, []byte(`{"series":{"count":2,"lastObservedTime":"2017-09-19T13:49:16.654321Z"}}`), metav1.PatchOptions{}))
	if got.Series == nil || got.Series.Count != 2 {
		t.Errorf("series %+v", got.Series)
	}
	if _, err := fresh.Patch(ctx, "e", types.MergePatchType, []byte(`{"reason":"Other"}`), metav1.PatchOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("the reason of an event was patched: %v", err)
	}
	for _, selector := range []string{"involvedObject.name=p,type=Normal", "reason=Test,reportingComponent=test-controller"} {
		if n := len(get[*corev1.EventList](t)(world.kube.CoreV1().Events("").List(ctx, metav1.ListOptions{FieldSelector: selector + ",metadata.namespace=" + ns})).Items); n != 1 {
			t.Errorf("%s: %d events", selector, n)
		}
	}
	if n := len(get[*eventsv1.EventList](t)(fresh.List(ctx, metav1.ListOptions{FieldSelector: "regarding.name=p"})).Items); n != 1 {
		t.Errorf("by regarding.name: %d events", n)
	}
	must(t, fresh.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}))
	if n := len(get[*corev1.EventList](t)(world.kube.CoreV1().Events(ns).List(ctx, metav1.ListOptions{})).Items); n != 0 {
		t.Errorf("%d events are left", n)
	}
}
