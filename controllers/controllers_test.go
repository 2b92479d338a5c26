package controllers_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/builtin"
	"github.com/proa-dev/proa/apiserver"
	"github.com/proa-dev/proa/apiserver/admission"
	"github.com/proa-dev/proa/apiserver/apiservertest"
	"github.com/proa-dev/proa/client"
	"github.com/proa-dev/proa/client/local"
	"github.com/proa-dev/proa/controllers"
	"github.com/proa-dev/proa/controllers/certificates"
	"github.com/proa-dev/proa/internal/certs"
)

// cluster is a whole control plane but for the scheduler.
type cluster struct {
	client.Cluster
	ctrl.Client
	t *testing.T
	// launch starts the controllers, stop ends them.
	launch, stop func()
}

func start(t *testing.T) *cluster {
	t.Helper()
	server := apiservertest.Start(t, func(c *apiserver.Config) {
		c.Admission = append(c.Admission, admission.Default(admission.Config{Source: c.Store, Live: func(ctx context.Context, gr schema.GroupResource, ns, name string) (api.Object, bool) {
			return c.Store.Get(gr, ns, name)
		}, Authorizer: c.Authorizer})...)
	})
	as, err := local.New(local.Config{
		Registry: server.Registry(), Store: server.Store, Kinds: server.Kinds(), Scheme: builtin.Scheme(),
		User:   &user.DefaultInfo{Name: "admin", Groups: []string{user.SystemPrivilegedGroup}},
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	all, err := controllers.All(t.Context(), as, controllers.Config{
		Logger: slog.New(slog.DiscardHandler), Kinds: builtin.Kinds,
		RootCA: testCA(t), Tokens: issuer{}, PodCIDR: netip.MustParsePrefix("10.42.0.0/16"), ServiceCIDR: netip.MustParsePrefix("10.43.0.0/16"), MetricsAPI: &rest.Config{}, Schema: server.Schema,
		Certificates: certificates.Config{Issuer: issuer{}, CA: testCA(t), Life: time.Hour},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	wg.Go(func() {
		if err := as.Start(ctx); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("caches: %v", err)
		}
	})
	c := &cluster{Cluster: as, Client: as.Client(), t: t}
	c.launch = func() {
		ctx, cancel := context.WithCancel(ctx)
		done := make(chan struct{})
		c.stop = func() { cancel(); <-done }
		wg.Go(func() {
			defer close(done)
			if err := all.Run(ctx); err != nil {
				t.Errorf("controllers: %v", err)
			}
		})
	}
	c.launch()
	return c
}

type issuer struct{}

func testCA(t *testing.T) []byte {
	t.Helper()
	a, err := certs.Open(t.TempDir(), clock.RealClock{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return a.CAPEM()
}

func (issuer) LegacyToken(sa *corev1.ServiceAccount, secret string) (string, error) {
	return sa.Name + "/" + secret, nil
}

func (issuer) Issue(*x509.CertificateRequest, []certificatesv1.KeyUsage, time.Duration) ([]byte, error) {
	return nil, errors.New("no certificates here")
}

func (c *cluster) do(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) eventually(ok func() (bool, string)) {
	c.t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		good, why := ok()
		if good {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			c.t.Fatalf("condition not met: %s", why)
		}
	}
}

func (c *cluster) get(o ctrl.Object, namespace, name string) bool {
	c.t.Helper()
	err := c.Reader().Get(c.t.Context(), types.NamespacedName{Namespace: namespace, Name: name}, o)
	if err != nil && !apierrors.IsNotFound(err) {
		c.t.Fatal(err)
	}
	return err == nil
}

func (c *cluster) pods(namespace string) []corev1.Pod {
	c.t.Helper()
	var list corev1.PodList
	c.do(c.Reader().List(c.t.Context(), &list, ctrl.InNamespace(namespace)))
	return list.Items
}

// run makes pods run on a node, as a scheduler and a kubelet would.
func (c *cluster) run(namespace string) {
	c.t.Helper()
	for i, p := range c.pods(namespace) {
		if p.Status.Phase == corev1.PodRunning || p.DeletionTimestamp != nil {
			continue
		}
		if p.Spec.NodeName == "" {
			b := &corev1.Binding{Target: corev1.ObjectReference{Kind: "Node", Name: "n1"}}
			if err := c.SubResource("binding").Create(c.t.Context(), &p, b); err != nil {
				c.t.Logf("bind: %v", err)
				continue
			}
			c.get(&p, p.Namespace, p.Name)
		}
		ip := fmt.Sprintf("10.42.0.%d", 10+i)
		p.Status.Phase, p.Status.PodIP, p.Status.PodIPs = corev1.PodRunning, ip, []corev1.PodIP{{IP: ip}}
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		if err := c.Status().Update(c.t.Context(), &p); err != nil {
			c.t.Logf("status: %v", err)
		}
	}
}

func web(replicas int32) *appsv1.Deployment {
	l := map[string]string{"app": "web"}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: "web"},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: l},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: l},
				Spec: corev1.PodSpec{
					TerminationGracePeriodSeconds: ptr.To[int64](0),
					Containers:                    []corev1.Container{{Name: "c", Image: "v1"}},
				},
			},
		},
	}
}

// The life of an application, from its namespace to the end of it.
func TestApplication(t *testing.T) {
	c := start(t)
	ctx := t.Context()
	c.do(c.Create(ctx, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n1"},
		Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}},
	}))
	c.do(c.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "app"}}))
	c.eventually(func() (bool, string) {
		return c.get(&corev1.ServiceAccount{}, "app", "default") && c.get(&corev1.ConfigMap{}, "app", "kube-root-ca.crt"), "no account, no CA"
	})

	c.do(c.Create(ctx, web(3)))
	c.do(c.Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: "web"},
		Spec: corev1.ServiceSpec{
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, Selector: map[string]string{"app": "web"}, ClusterIP: corev1.ClusterIPNone, ClusterIPs: []string{corev1.ClusterIPNone}, Ports: []corev1.ServicePort{{Port: 80}},
		},
	}))
	available := func(image string, n int32) func() (bool, string) {
		return func() (bool, string) {
			c.run("app")
			var d appsv1.Deployment
			c.get(&d, "app", "web")
			for _, p := range c.pods("app") {
				if p.Spec.Containers[0].Image != image {
					return false, "an old pod runs"
				}
			}
			s := d.Status
			return s.ObservedGeneration == d.Generation && s.AvailableReplicas == n && s.UpdatedReplicas == n && s.Replicas == n, fmt.Sprintf("%+v", s)
		}
	}
	c.eventually(available("v1", 3))
	c.eventually(func() (bool, string) {
		var list discoveryv1.EndpointSliceList
		c.do(c.Reader().List(ctx, &list, ctrl.InNamespace("app"), ctrl.MatchingLabels{discoveryv1.LabelServiceName: "web"}))
		return len(list.Items) == 1 && len(list.Items[0].Endpoints) == 3, fmt.Sprintf("%d slices", len(list.Items))
	})

	victim := c.pods("app")[0]
	begin := time.Now()
	c.do(c.Delete(ctx, &victim))
	c.eventually(func() (bool, string) {
		pods := c.pods("app")
		same := slices.ContainsFunc(pods, func(p corev1.Pod) bool { return p.UID == victim.UID })
		return len(pods) == 3 && !same, "the deleted pod is not replaced"
	})
	if took := time.Since(begin); took > time.Second {
		t.Errorf("a deleted pod was replaced after %v", took)
	}

	var d appsv1.Deployment
	c.eventually(func() (bool, string) {
		c.get(&d, "app", "web")
		d.Spec.Template.Spec.Containers[0].Image = "v2"
		err := c.Update(ctx, &d)
		return err == nil, fmt.Sprint(err)
	})
	c.eventually(available("v2", 3))
	c.get(&d, "app", "web")
	if d.Annotations["deployment.kubernetes.io/revision"] != "2" {
		t.Errorf("annotations %v", d.Annotations)
	}

	// The Deployment takes its ReplicaSets and pods with it, in the foreground.
	c.do(c.Delete(ctx, &d, ctrl.PropagationPolicy(metav1.DeletePropagationForeground)))
	c.eventually(func() (bool, string) {
		var sets appsv1.ReplicaSetList
		c.do(c.Reader().List(ctx, &sets, ctrl.InNamespace("app")))
		return !c.get(&d, "app", "web") && len(sets.Items) == 0 && len(c.pods("app")) == 0,
			fmt.Sprintf("%d ReplicaSets, %d pods", len(sets.Items), len(c.pods("app")))
	})

	c.do(c.Create(ctx, web(2)))
	c.eventually(available("v1", 2))
	begin = time.Now()
	c.do(c.Delete(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "app"}}))
	c.eventually(func() (bool, string) {
		var ns corev1.Namespace
		there := c.get(&ns, "", "app")
		return !there, fmt.Sprintf("%+v", ns.Status)
	})
	t.Logf("the namespace was gone after %v", time.Since(begin))
}

// Content with a finalizer holds its namespace, which says so.
func TestNamespaceWaits(t *testing.T) {
	c := start(t)
	ctx := t.Context()
	c.do(c.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "app"}}))
	held := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: "held", Finalizers: []string{"example.com/hold"}}}
	c.do(c.Create(ctx, held))
	c.do(c.Delete(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "app"}}))
	var ns corev1.Namespace
	c.eventually(func() (bool, string) {
		if !c.get(&ns, "", "app") {
			t.Fatal("the namespace is gone before its content")
		}
		var got []string
		for _, cond := range ns.Status.Conditions {
			if cond.Status == corev1.ConditionTrue {
				got = append(got, cond.Reason+": "+cond.Message)
			}
		}
		return strings.Join(got, "; ") == "SomeResourcesRemain: Some resources are remaining: configmaps. has 1 resource instances; "+
			"SomeFinalizersRemain: Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances", fmt.Sprint(got)
	})
	c.get(held, "app", "held")
	held.Finalizers = nil
	c.do(c.Update(ctx, held))
	c.eventually(func() (bool, string) { return !c.get(&ns, "", "app"), "the namespace stays" })
}

// Two clusters in one process share nothing.
func TestTwoClusters(t *testing.T) {
	for range 2 {
		c := start(t)
		c.do(c.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "app"}}))
		c.eventually(func() (bool, string) { return c.get(&corev1.ServiceAccount{}, "app", "default"), "no account" })
	}
}

// What is left when owners go, with the policies that the API server turns
// into finalizers.
func TestPolicies(t *testing.T) {
	c := start(t)
	ctx := t.Context()
	c.do(c.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "app"}}))
	c.eventually(func() (bool, string) { return c.get(&corev1.ServiceAccount{}, "app", "default"), "no account" })

	// A circle of owners does not hold itself up.
	var circle []*corev1.ConfigMap
	for _, name := range []string{"a", "b", "c"} {
		o := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "app", Name: name}}
		c.do(c.Create(ctx, o))
		circle = append(circle, o)
	}
	for i, o := range circle {
		next := circle[(i+1)%len(circle)]
		o.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(next, corev1.SchemeGroupVersion.WithKind("ConfigMap"))}
		c.do(c.Update(ctx, o))
	}
	c.do(c.Delete(ctx, circle[0], ctrl.PropagationPolicy(metav1.DeletePropagationForeground)))
	c.eventually(func() (bool, string) {
		left := 0
		for _, o := range circle {
			if c.get(&corev1.ConfigMap{}, "app", o.Name) {
				left++
			}
		}
		return left == 0, fmt.Sprintf("%d of the circle left", left)
	})

	// Orphans stay, and a new Deployment takes them over.
	d := web(2)
	c.do(c.Create(ctx, d))
	set := func() *appsv1.ReplicaSet {
		var list appsv1.ReplicaSetList
		c.do(c.Reader().List(ctx, &list, ctrl.InNamespace("app")))
		if len(list.Items) != 1 {
			return &appsv1.ReplicaSet{}
		}
		return &list.Items[0]
	}
	c.eventually(func() (bool, string) { return len(c.pods("app")) == 2 && set().Status.Replicas == 2, "no pods" })
	uid := set().UID
	c.do(c.Delete(ctx, d, ctrl.PropagationPolicy(metav1.DeletePropagationOrphan)))
	c.eventually(func() (bool, string) {
		return !c.get(&appsv1.Deployment{}, "app", "web") && len(set().OwnerReferences) == 0, fmt.Sprint(set().OwnerReferences)
	})
	if set().UID != uid || len(c.pods("app")) != 2 {
		t.Fatal("the orphans are gone")
	}
	d = web(2)
	c.do(c.Create(ctx, d))
	c.eventually(func() (bool, string) {
		ref := metav1.GetControllerOf(set())
		return ref != nil && ref.UID == d.UID && set().UID == uid, fmt.Sprint(set().OwnerReferences)
	})
}

// Who loses the lead and gets it again goes on where the others stopped, with
// the caches that it has.
func TestRunAgain(t *testing.T) {
	c := start(t)
	c.do(c.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "app"}}))
	c.do(c.Create(t.Context(), web(2)))
	for want := int32(2); want < 5; want++ {
		c.eventually(func() (bool, string) { n := len(c.pods("app")); return n == int(want), fmt.Sprint(n, " pods") })
		c.stop()
		c.do(c.Patch(t.Context(), web(0), ctrl.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, want+1))))
		c.launch()
	}
	c.eventually(func() (bool, string) { n := len(c.pods("app")); return n == 5, fmt.Sprint(n, " pods") })
}
