// Package clustertest is a small cluster in memory, for tests of controllers:
// controller-runtime's fake API with its real cache in front of it, so that
// reads lag behind writes as they do in a real cluster.
package clustertest

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/proa-dev/proa/controllers/internal/index"
	"github.com/proa-dev/proa/controllers/internal/loop"
)

// Cluster is a client.Cluster for tests. API is the API itself, past the cache.
type Cluster struct {
	API client.WithWatch
	// Graceful pods stay when they are deleted until the Kubelet lets them go.
	Graceful bool
	// Before, if set, is called before each "create" and "delete".
	Before func(verb string, o client.Object)

	t      testing.TB
	cache  cache.Cache
	mu     sync.Mutex
	events []string
	gets   map[string]int
}

// New makes a cluster with the controllers' indexes; Start runs its cache.
func New(t testing.TB, objs ...client.Object) *Cluster {
	t.Helper()
	for _, o := range objs {
		complete(o)
	}
	c := &Cluster{t: t, gets: map[string]int{}}
	c.API = fake.NewClientBuilder().WithObjects(objs...).WithRESTMapper(mapper()).
		WithStatusSubresource(&autoscalingv2.HorizontalPodAutoscaler{}). // the fake knows v1 alone
		WithGlobalResourceVersionCounter().WithStatusSubresource(&corev1.ResourceQuota{}, &networkingv1.ServiceCIDR{}, &resourcev1.ResourceClaim{}, &resourcev1.DeviceTaintRule{}).
		WithInterceptorFuncs(interceptor.Funcs{Create: c.create, Update: update, Delete: c.remove, SubResourceUpdate: updateSubresource, SubResourceGet: getScale}).Build()
	var err error
	c.cache, err = cache.New(&rest.Config{}, cache.Options{
		Scheme: scheme.Scheme, Mapper: mapper(), HTTPClient: http.DefaultClient, NewInformer: c.informer,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := index.Install(t.Context(), c.cache); err != nil {
		t.Fatal(err)
	}
	return c
}

// Env is an environment over the cluster, on a given clock or the real one.
func (c *Cluster) Env(clk clock.WithTicker) loop.Env {
	if clk == nil {
		clk = clock.RealClock{}
	}
	return loop.Env{Cluster: c, Logger: slog.New(slog.DiscardHandler), Clock: clk}
}

// Run starts the cache and loops until the test ends.
func (c *Cluster) Run(loops ...loop.Loop) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(c.t.Context()))
	var wg sync.WaitGroup
	c.t.Cleanup(func() { cancel(); wg.Wait() })
	wg.Go(func() { _ = c.cache.Start(ctx) })
	if !c.cache.WaitForCacheSync(ctx) {
		c.t.Fatal("cache does not sync")
	}
	for _, l := range loops {
		c.Launch(l)
	}
}

// Launch runs a loop until the test ends or kill is called, which returns when
// the loop has ended. The cluster must run.
func (c *Cluster) Launch(l loop.Loop) (kill func()) {
	c.t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(c.t.Context()))
	var wg sync.WaitGroup
	wg.Go(func() {
		// A loop that is killed before it has begun says that it could not.
		if err := l.Run(ctx); err != nil && ctx.Err() == nil {
			c.t.Errorf("%s: %v", l.Name, err)
		}
	})
	kill = func() { cancel(); wg.Wait() }
	c.t.Cleanup(kill)
	return kill
}

// Eventually waits until ok reports true; it fails the test after ten seconds
// with what ok says is wrong.
func (c *Cluster) Eventually(ok func() (bool, string)) {
	c.t.Helper()
	var why string
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		good, msg := ok()
		if good {
			return
		}
		why = msg
		select {
		case <-tick.C:
		case <-deadline:
			c.t.Fatalf("condition not met: %s\nevents: %q", why, c.Events())
		}
	}
}

// Get reads an object from the API; false when there is none.
func (c *Cluster) Get(obj client.Object, namespace, name string) bool {
	c.t.Helper()
	err := c.API.Get(c.t.Context(), types.NamespacedName{Namespace: namespace, Name: name}, obj)
	if err != nil && !apierrors.IsNotFound(err) {
		c.t.Fatal(err)
	}
	return err == nil
}

// Do fails the test on an error.
func (c *Cluster) Do(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// Gets returns how often an object of obj's type was read from the cache by
// name. A loop does so once when it looks at its object.
func (c *Cluster) Gets(obj client.Object) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gets[fmt.Sprintf("%T", obj)]
}

// Context ends with the test.
func (c *Cluster) Context() context.Context { return c.t.Context() }

// Events returns what was recorded so far: "Normal Reason Message".
func (c *Cluster) Events() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.events)
}

// Client implements client.Cluster.
func (c *Cluster) Client() client.WithWatch { return cached{c.API, c} }

// Reader implements client.Cluster.
func (c *Cluster) Reader() client.Reader { return c.API }

// Cache implements client.Cluster.
func (c *Cluster) Cache() cache.Cache { return c.cache }

// Start implements client.Cluster.
func (c *Cluster) Start(ctx context.Context) error { return c.cache.Start(ctx) }

// Recorder implements client.Cluster.
func (c *Cluster) Recorder(string) record.EventRecorder { return recorder{c} }

// cached writes to the API and reads from the cache.
type cached struct {
	client.WithWatch
	c *Cluster
}

func (c cached) Get(ctx context.Context, key client.ObjectKey, obj client.Object, opts ...client.GetOption) error {
	c.c.mu.Lock()
	c.c.gets[fmt.Sprintf("%T", obj)]++
	c.c.mu.Unlock()
	return c.c.cache.Get(ctx, key, obj, opts...)
}

func (c cached) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	return c.c.cache.List(ctx, list, opts...)
}

type recorder struct{ c *Cluster }

func (r recorder) Event(_ runtime.Object, kind, reason, message string) {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	r.c.events = append(r.c.events, kind+" "+reason+" "+message)
}

func (r recorder) Eventf(o runtime.Object, kind, reason, format string, args ...any) {
	r.Event(o, kind, reason, fmt.Sprintf(format, args...))
}

func (r recorder) AnnotatedEventf(o runtime.Object, _ map[string]string, kind, reason, format string, args ...any) {
	r.Eventf(o, kind, reason, format, args...)
}

func (r recorder) WithLogger(any) record.EventRecorder { return r }

// informer lists and watches the fake API in place of what the cache would do
// over HTTP. The fake's watch has no history, so it is opened before the list.
func (c *Cluster) informer(_ toolscache.ListerWatcher, obj runtime.Object, resync time.Duration, ix toolscache.Indexers) toolscache.SharedIndexInformer {
	gvk, err := apiutil.GVKForObject(obj, scheme.Scheme)
	if err != nil {
		c.t.Fatal(err)
	}
	newList := func() client.ObjectList {
		l, err := scheme.Scheme.New(gvk.GroupVersion().WithKind(gvk.Kind + "List"))
		if err != nil {
			c.t.Fatal(err)
		}
		return l.(client.ObjectList)
	}
	opened := make(chan watch.Interface, 1)
	lw := &toolscache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, _ metav1.ListOptions) (runtime.Object, error) {
			w, err := c.API.Watch(ctx, newList())
			if err != nil {
				return nil, err
			}
			opened <- w
			l := newList()
			return l, c.API.List(ctx, l)
		},
		WatchFuncWithContext: func(context.Context, metav1.ListOptions) (watch.Interface, error) { return <-opened, nil },
	}
	return toolscache.NewSharedIndexInformer(toolscache.ToListWatcherWithWatchListSemantics(lw, noWatchList{}), obj, resync, ix)
}

type noWatchList struct{}

func (noWatchList) IsWatchListSemanticsUnSupported() bool { return true }

// complete sets what an API server sets on creation.
func complete(o client.Object) {
	if o.GetUID() == "" {
		o.SetUID(uuid.NewUUID())
	}
	if created := o.GetCreationTimestamp(); created.IsZero() {
		o.SetCreationTimestamp(metav1.Now())
	}
	o.SetGeneration(1)
	if pod, ok := o.(*corev1.Pod); ok && pod.Status.Phase == "" {
		pod.Status.Phase = corev1.PodPending
	}
}

func (c *Cluster) create(ctx context.Context, w client.WithWatch, o client.Object, opts ...client.CreateOption) error {
	if c.Before != nil {
		c.Before("create", o)
	}
	complete(o)
	if _, ok := o.(*corev1.Pod); ok && c.Graceful {
		o.SetFinalizers(append(o.GetFinalizers(), grace))
	}
	return w.Create(ctx, o, opts...)
}

func update(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.UpdateOption) error {
	old := o.DeepCopyObject().(client.Object)
	if err := c.Get(ctx, client.ObjectKeyFromObject(o), old); err != nil {
		return err
	}
	if !apiequality.Semantic.DeepEqual(spec(old), spec(o)) {
		o.SetGeneration(old.GetGeneration() + 1)
	}
	return c.Update(ctx, o, opts...)
}

// updateSubresource lets a status change annotations, as an API server does,
// and a scale nothing but the number of replicas.
func updateSubresource(ctx context.Context, c client.Client, sub string, o client.Object, opts ...client.SubResourceUpdateOption) error {
	if sub == "scale" {
		if err := c.Get(ctx, client.ObjectKeyFromObject(o), o); err != nil {
			return err
		}
		return c.SubResource(sub).Update(ctx, o, opts...)
	}
	annotations := o.GetAnnotations()
	if err := c.SubResource(sub).Update(ctx, o, opts...); err != nil {
		return err
	}
	if maps.Equal(annotations, o.GetAnnotations()) {
		return nil
	}
	o.SetAnnotations(annotations)
	return c.Update(ctx, o)
}

// getScale gives a Deployment's selector as text, for which the fake has a Go
// literal.
func getScale(ctx context.Context, c client.Client, sub string, o, body client.Object, opts ...client.SubResourceGetOption) error {
	if err := c.SubResource(sub).Get(ctx, o, body, opts...); err != nil {
		return err
	}
	scale, isScale := body.(*autoscalingv1.Scale)
	if d, ok := o.(*appsv1.Deployment); ok && isScale {
		scale.Status.Selector = metav1.FormatLabelSelector(d.Spec.Selector)
	}
	return nil
}

// remove checks the UID, which the fake does not.
func (c *Cluster) remove(ctx context.Context, w client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
	if c.Before != nil {
		c.Before("delete", o)
	}
	var d client.DeleteOptions
	d.ApplyOptions(opts)
	if d.Preconditions != nil && d.Preconditions.UID != nil {
		old := o.DeepCopyObject().(client.Object)
		if err := w.Get(ctx, client.ObjectKeyFromObject(o), old); err != nil {
			return err
		}
		if old.GetUID() != *d.Preconditions.UID {
			return apierrors.NewConflict(metav1.Unversioned.WithResource("").GroupResource(), o.GetName(),
				fmt.Errorf("the UID in the precondition does not match"))
		}
	}
	return w.Delete(ctx, o, opts...)
}

func spec(o client.Object) any {
	m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		return nil
	}
	return m["spec"]
}

// clusterScoped are the kinds without a namespace that tests use.
var clusterScoped = []string{"Node", "Namespace", "PersistentVolume", "ClusterRole", "ServiceCIDR", "IPAddress", "VolumeAttributesClass", "ResourceSlice", "DeviceTaintRule"}

func mapper() meta.RESTMapper {
	m := meta.NewDefaultRESTMapper(scheme.Scheme.PrioritizedVersionsAllGroups())
	for gvk := range scheme.Scheme.AllKnownTypes() {
		scope := meta.RESTScopeNamespace
		if slices.Contains(clusterScoped, gvk.Kind) {
			scope = meta.RESTScopeRoot
		}
		m.Add(gvk, scope)
	}
	return m
}
