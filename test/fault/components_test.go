package fault

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/builtin"
	"github.com/proa-dev/proa/apiserver"
	"github.com/proa-dev/proa/apiserver/admission"
	"github.com/proa-dev/proa/apiserver/apiservertest"
	"github.com/proa-dev/proa/client"
	"github.com/proa-dev/proa/client/local"
	"github.com/proa-dev/proa/controllers"
	"github.com/proa-dev/proa/controllers/certificates"
	"github.com/proa-dev/proa/controllers/nodelifecycle"
	"github.com/proa-dev/proa/controllers/podgc"
	"github.com/proa-dev/proa/internal/certs"
	"github.com/proa-dev/proa/scheduler"
)

// TestComponentsDie kills the controllers and the scheduler at random, each by
// itself, while the API goes on, in the middle of rollouts, scaling, evictions
// and Jobs, with nodes that come and go.
func TestComponentsDie(t *testing.T) {
	const kills, nodes = 40, 4
	c := newPlane(t)
	for i := range nodes {
		c.addNode(fmt.Sprintf("node-%d", i), nil)
	}
	stop := watchPods(t, c.kube, rules())
	s := newStage(t, c.server.Config("admin"), `{restartPolicy: Never, containers: [{name: c, image: i}]}`)
	s.insist("the default service account", func() error {
		_, err := c.kube.CoreV1().ServiceAccounts("default").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	})
	endEvictions := s.evict()
	killControllers, killScheduler := c.controllers(), c.scheduler()
	for i := range kills {
		switch i % 4 {
		case 0:
			s.next()
		case 1:
			c.addNode("guest", []corev1.Taint{{Key: "guest", Effect: corev1.TaintEffectNoSchedule}})
		case 3:
			s.insist("the guest leaves", func() error { return c.kube.CoreV1().Nodes().Delete(t.Context(), "guest", metav1.DeleteOptions{}) })
		}
		time.Sleep(rand.N(250 * time.Millisecond)) // the moment is what the test is about
		if rand.IntN(3) > 0 {
			killControllers()
			killControllers = c.controllers()
		} else {
			killScheduler()
			killScheduler = c.scheduler()
		}
	}
	endEvictions()
	deadline, look := time.After(time.Minute), time.NewTicker(20*time.Millisecond)
	defer look.Stop()
	for wrong := s.settled(nodes); wrong != nil; wrong = s.settled(nodes) {
		select {
		case <-look.C:
		case <-deadline:
			t.Fatal(wrong)
		}
	}
	events, _ := stop()
	t.Logf("%d events, %d evictions", events, s.evicted.Load())
	if s.evicted.Load() == 0 {
		t.Error("nothing was evicted")
	}
}

// plane is a control plane in this process whose parts can be killed.
type plane struct {
	t      *testing.T
	server *apiservertest.Server
	kube   kubernetes.Interface
	ca     []byte
	failed atomic.Bool // a pod has; the next comes after seconds
}

func newPlane(t *testing.T) *plane {
	t.Helper()
	server := apiservertest.Start(t, func(c *apiserver.Config) {
		c.Admission = append(c.Admission, admission.Default(admission.Config{
			Source: c.Store, Authorizer: c.Authorizer,
			Live: func(_ context.Context, gr schema.GroupResource, ns, name string) (api.Object, bool) {
				return c.Store.Get(gr, ns, name)
			},
		})...)
	})
	authority, err := certs.Open(t.TempDir(), clock.RealClock{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	cfg := server.Config("admin")
	cfg.ContentType = "application/vnd.kubernetes.protobuf"
	kube, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, ns := range []string{"default", "kube-system", "kube-public", "kube-node-lease"} {
		_, err := kube.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
	c := &plane{t: t, server: server, kube: kube, ca: authority.CAPEM()}
	c.live("kubelets", func(ctx context.Context) error { return c.kubelets(ctx) })
	return c
}

// live runs something until the test ends or it is killed.
func (c *plane) live(name string, run func(ctx context.Context) error) (kill func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(c.t.Context()))
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := run(ctx); err != nil && ctx.Err() == nil {
			c.t.Errorf("%s: %v", name, err)
		}
	})
	kill = func() { cancel(); wg.Wait() }
	c.t.Cleanup(kill)
	return kill
}

// view is the cluster as a component sees it that knows nothing yet.
func (c *plane) view(name string) client.Cluster {
	v, err := local.New(local.Config{
		Registry: c.server.Registry(), Store: c.server.Store, Kinds: c.server.Kinds(), Scheme: builtin.Scheme(),
		User:   &user.DefaultInfo{Name: name, Groups: []string{user.SystemPrivilegedGroup}},
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return v
}

func (c *plane) controllers() (kill func()) {
	v := c.view("system:kube-controller-manager")
	all, err := controllers.All(c.t.Context(), v, controllers.Config{
		Logger: slog.New(slog.DiscardHandler), Kinds: builtin.Kinds, RootCA: c.ca, Tokens: issuer{}, PodCIDR: netip.MustParsePrefix("10.42.0.0/16"), MetricsAPI: &rest.Config{},
		Certificates: certificates.Config{Issuer: issuer{}, CA: c.ca, Life: time.Hour},
		// The nodes here are never heard of again.
		NodeLifecycle: nodelifecycle.Config{GracePeriod: time.Hour, StartupGracePeriod: time.Hour},
		PodGC:         podgc.Config{Period: 50 * time.Millisecond, Quarantine: 50 * time.Millisecond},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	endView := c.live("caches", v.Start)
	endAll := c.live("controllers", all.Run)
	return func() { endAll(); endView(); c.elect("controllers") }
}

func (c *plane) scheduler() (kill func()) {
	v := c.view("system:kube-scheduler")
	s, err := scheduler.New(v, scheduler.Config{})
	if err != nil {
		c.t.Fatal(err)
	}
	endView := c.live("caches", v.Start)
	endScheduler := c.live("scheduler", func(ctx context.Context) error { return s.Run(ctx, func() {}) })
	return func() { endScheduler(); endView(); c.elect("scheduler") }
}

// elect writes down who comes next, as an election of leaders does: what the
// one before had under way is done or lost when that is written.
func (c *plane) elect(component string) {
	c.t.Helper()
	leases := c.kube.CoordinationV1().Leases("kube-system")
	ctx := context.WithoutCancel(c.t.Context())
	now := fmt.Sprintf(`{"spec":{"renewTime":%q}}`, time.Now().UTC().Format(metav1.RFC3339Micro))
	_, err := leases.Patch(ctx, component, types.MergePatchType, []byte(now), metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		_, err = leases.Create(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: component}}, metav1.CreateOptions{})
	}
	if err != nil {
		c.t.Errorf("elect: %v", err)
	}
}

func (c *plane) addNode(name string, taints []corev1.Taint) {
	c.t.Helper()
	room := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("8"), corev1.ResourceMemory: resource.MustParse("8Gi"), corev1.ResourcePods: resource.MustParse("110")}
	_, err := c.kube.CoreV1().Nodes().Create(c.t.Context(), &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}},
		Spec:       corev1.NodeSpec{Taints: taints},
		Status: corev1.NodeStatus{Capacity: room, Allocatable: room, Conditions: []corev1.NodeCondition{
			{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now()},
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
}

// kubelets brings the pods of all nodes on, each a step at a time after a
// moment: they run, those of Jobs end, one of them badly, and those that are
// deleted go.
func (c *plane) kubelets(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	act := func(o any) {
		pod, ok := o.(*corev1.Pod)
		if !ok || pod.Spec.NodeName == "" {
			return
		}
		wg.Go(func() {
			select {
			case <-time.After(rand.N(30 * time.Millisecond)):
				c.kubelet(ctx, pod)
			case <-ctx.Done():
			}
		})
	}
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: cache.NewListWatchFromClient(c.kube.CoreV1().RESTClient(), "pods", "default", fields.Everything()), ObjectType: &corev1.Pod{},
		Handler: cache.ResourceEventHandlerFuncs{AddFunc: act, UpdateFunc: func(_, o any) { act(o) }},
	})
	informer.RunWithContext(ctx)
	return nil
}

// kubelet takes one step. A failure is of a pod that changed meanwhile, which
// comes again, or of a node that is gone.
func (c *plane) kubelet(ctx context.Context, pod *corev1.Pod) {
	if _, err := c.kube.CoreV1().Nodes().Get(ctx, pod.Spec.NodeName, metav1.GetOptions{}); err != nil {
		return
	}
	pods := c.kube.CoreV1().Pods(pod.Namespace)
	if pod.DeletionTimestamp != nil {
		_ = pods.Delete(ctx, pod.Name, metav1.DeleteOptions{
			GracePeriodSeconds: ptr.To(int64(0)), Preconditions: &metav1.Preconditions{UID: ptr.To(types.UID(pod.UID))},
		})
		return
	}
	now := metav1.Now()
	status := pod.DeepCopy()
	switch ends := pod.Spec.RestartPolicy == corev1.RestartPolicyNever; {
	case pod.Status.Phase == corev1.PodPending:
		status.Status.Phase, status.Status.StartTime = corev1.PodRunning, &now
		status.Status.Conditions = append(status.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: now})
	case pod.Status.Phase == corev1.PodRunning && ends:
		status.Status.Phase, status.Status.Conditions = corev1.PodSucceeded, nil
		if strings.HasPrefix(pod.Name, "work-1-0-") && c.failed.CompareAndSwap(false, true) {
			status.Status.Phase = corev1.PodFailed
		}
	default:
		return
	}
	_, _ = pods.UpdateStatus(ctx, status, metav1.UpdateOptions{})
}

// issuer issues nothing: no test here asks for it.
type issuer struct{}

func (issuer) LegacyToken(*corev1.ServiceAccount, string) (string, error) {
	return "", errors.New("no tokens here")
}

func (issuer) Issue(*x509.CertificateRequest, []certificatesv1.KeyUsage, time.Duration) ([]byte, error) {
	return nil, errors.New("no certificates here")
}
