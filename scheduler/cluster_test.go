package scheduler_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	toolscache "k8s.io/client-go/tools/cache"
	cachetesting "k8s.io/client-go/tools/cache/testing"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/scheduler"
)

// fakeCluster is the little of an API server that a scheduler needs: real
// informers over a store in memory, and the four calls that it makes.
type fakeCluster struct {
	ctx     context.Context
	sources map[string]*cachetesting.FakeControllerSource

	informers sync.WaitGroup

	mu       sync.Mutex
	pods     map[types.NamespacedName]*corev1.Pod
	events   []string
	changed  chan struct{} // closed and replaced at every change
	bindFail func(pod, node string) error
	onPatch  func(pod string) // before a status is written
	graceful bool             // pods that are deleted stay until they are removed
	onChange func()
	made     int // objects whose names were generated
}

func newFakeCluster(t testing.TB) *fakeCluster {
	c := &fakeCluster{ctx: t.Context(), sources: map[string]*cachetesting.FakeControllerSource{},
		pods: map[types.NamespacedName]*corev1.Pod{}, changed: make(chan struct{})}
	for _, obj := range []ctrl.Object{&corev1.Service{}, &corev1.ReplicationController{}, &appsv1.ReplicaSet{}, &appsv1.StatefulSet{}, &storagev1.StorageClass{}, &storagev1.CSIDriver{}, &storagev1.CSINode{}, &storagev1.CSIStorageCapacity{}, &storagev1.VolumeAttachment{}, &resourcev1.DeviceClass{}, &resourcev1.ResourceSlice{}, &resourcev1.DeviceTaintRule{}, &resourcev1.ResourceClaim{}, &corev1.PersistentVolume{}, &corev1.PersistentVolumeClaim{}, &corev1.Namespace{}, &corev1.Node{}, &policyv1.PodDisruptionBudget{}, &corev1.Pod{}} {
		c.sources[fmt.Sprintf("%T", obj)] = cachetesting.NewFakeControllerSource()
	}
	t.Cleanup(func() {
		c.informers.Wait() // who watches a source that is shut down hangs
		for _, s := range c.sources {
			s.Shutdown()
		}
	})
	return c
}

func (c *fakeCluster) Client() ctrl.WithWatch               { return &fakeClient{c: c} }
func (c *fakeCluster) Reader() ctrl.Reader                  { return nil }
func (c *fakeCluster) Cache() cache.Cache                   { return &fakeCache{c: c} }
func (c *fakeCluster) Recorder(string) record.EventRecorder { return c }
func (c *fakeCluster) Start(context.Context) error          { return nil }

type fakeClient struct {
	ctrl.WithWatch
	c *fakeCluster
}

func (f *fakeClient) SubResource(n string) ctrl.SubResourceClient {
	return &subresource{cluster: f.c, name: n}
}

func (f *fakeClient) Create(_ context.Context, obj ctrl.Object, _ ...ctrl.CreateOption) error {
	f.c.mu.Lock()
	f.c.made++
	obj.SetName(fmt.Sprint(obj.GetGenerateName(), f.c.made))
	obj.SetUID(types.UID(obj.GetName()))
	f.c.mu.Unlock()
	f.c.add(obj)
	return nil
}

func (f *fakeClient) Delete(ctx context.Context, obj ctrl.Object, _ ...ctrl.DeleteOption) error {
	if _, ok := obj.(*corev1.Pod); !ok {
		f.c.sources[fmt.Sprintf("%T", obj)].Delete(obj.DeepCopyObject())
		return nil
	}
	if f.c.graceful {
		return f.c.change(key(obj), obj.GetUID(), func(pod *corev1.Pod) error {
			pod.DeletionTimestamp = &metav1.Time{Time: time.Now()}
			return nil
		})
	}
	return f.c.delete(obj)
}

func (f *fakeClient) Update(_ context.Context, obj ctrl.Object, _ ...ctrl.UpdateOption) error {
	f.c.update(obj)
	return nil
}

func (f *fakeClient) Patch(_ context.Context, obj ctrl.Object, patch ctrl.Patch, _ ...ctrl.PatchOption) error {
	body, err := patch.Data(obj)
	if err != nil {
		return err
	}
	f.c.mu.Lock()
	defer f.c.mu.Unlock()
	f.c.events = append(f.c.events, fmt.Sprintf("patched %s: %s", obj.GetName(), body))
	f.c.announce()
	return nil
}

type fakeCache struct {
	cache.Cache
	c *fakeCluster
}

func (f *fakeCache) GetInformer(_ context.Context, obj ctrl.Object, _ ...cache.InformerGetOption) (cache.Informer, error) {
	informer := toolscache.NewSharedIndexInformer(f.c.sources[fmt.Sprintf("%T", obj)], obj, 0, nil)
	f.c.informers.Go(func() { informer.RunWithContext(f.c.ctx) })
	return informer, nil
}

func (c *fakeCluster) Event(obj runtime.Object, kind, reason, message string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events = append(c.events, fmt.Sprintf("%s %s %s: %s", obj.(*corev1.Pod).Name, kind, reason, message))
	c.announce()
}

func (c *fakeCluster) Eventf(obj runtime.Object, kind, reason, format string, args ...any) {
	c.Event(obj, kind, reason, fmt.Sprintf(format, args...))
}

func (c *fakeCluster) AnnotatedEventf(obj runtime.Object, _ map[string]string, kind, reason, format string, args ...any) {
	c.Eventf(obj, kind, reason, format, args...)
}

func (c *fakeCluster) announce() {
	close(c.changed)
	c.changed = make(chan struct{})
}

func key(obj metav1.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: obj.GetNamespace(), Name: obj.GetName()}
}

func (c *fakeCluster) add(objs ...ctrl.Object) {
	for _, obj := range objs {
		if pod, ok := obj.(*corev1.Pod); ok {
			c.mu.Lock()
			c.pods[key(pod)] = pod
			c.mu.Unlock()
		}
		c.sources[fmt.Sprintf("%T", obj)].Add(obj.DeepCopyObject())
	}
}

func (c *fakeCluster) update(obj ctrl.Object) {
	c.sources[fmt.Sprintf("%T", obj)].Modify(obj.DeepCopyObject())
}

// change applies f to a copy of the stored pod.
func (c *fakeCluster) change(name types.NamespacedName, uid types.UID, f func(*corev1.Pod) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	pod, ok := c.pods[name]
	if !ok {
		return apierrors.NewNotFound(schema.GroupResource{Resource: "pods"}, name.Name)
	}
	if uid != "" && pod.UID != uid {
		return apierrors.NewConflict(schema.GroupResource{Resource: "pods"}, name.Name, fmt.Errorf("uid differs"))
	}
	pod = pod.DeepCopy()
	if err := f(pod); err != nil {
		return err
	}
	c.pods[name] = pod
	if c.onChange != nil {
		c.onChange()
	}
	c.sources["*v1.Pod"].Modify(pod.DeepCopy()) // the source writes into what it gets
	c.announce()
	return nil
}

func (c *fakeCluster) delete(obj ctrl.Object) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	pod, ok := c.pods[key(obj)]
	if !ok {
		return apierrors.NewNotFound(schema.GroupResource{Resource: "pods"}, obj.GetName())
	}
	delete(c.pods, key(obj))
	c.sources["*v1.Pod"].Delete(pod.DeepCopy())
	c.announce()
	return nil
}

type subresource struct {
	ctrl.SubResourceClient
	cluster *fakeCluster
	name    string
}

func (r *subresource) Create(_ context.Context, obj, body ctrl.Object, _ ...ctrl.SubResourceCreateOption) error {
	b, ok := body.(*corev1.Binding)
	if !ok || r.name != "binding" {
		return fmt.Errorf("unexpected create of %s %T", r.name, body)
	}
	return r.cluster.change(key(obj), b.UID, func(pod *corev1.Pod) error {
		if fail := r.cluster.bindFail; fail != nil {
			if err := fail(pod.Name, b.Target.Name); err != nil {
				return err
			}
		}
		if pod.Spec.NodeName != "" {
			return apierrors.NewConflict(schema.GroupResource{Resource: "pods"}, pod.Name, fmt.Errorf("already assigned"))
		}
		pod.Spec.NodeName, pod.Status.NominatedNodeName = b.Target.Name, ""
		pod.Status.Conditions = slices.DeleteFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodScheduled })
		pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue})
		return nil
	})
}

func (r *subresource) Update(_ context.Context, obj ctrl.Object, _ ...ctrl.SubResourceUpdateOption) error {
	r.cluster.update(obj)
	return nil
}

func (r *subresource) Patch(_ context.Context, obj ctrl.Object, patch ctrl.Patch, _ ...ctrl.SubResourcePatchOption) error {
	body, err := patch.Data(obj)
	if err != nil {
		return err
	}
	if _, ok := obj.(*resourcev1.ResourceClaim); ok {
		return r.cluster.patchClaim(obj.GetName(), patch, body)
	}
	if hook := r.cluster.onPatch; hook != nil {
		hook(obj.GetName())
	}
	return r.cluster.change(key(obj), obj.GetUID(), func(pod *corev1.Pod) error {
		old, err := json.Marshal(pod)
		if err != nil {
			return err
		}
		merged, err := strategicpatch.StrategicMergePatch(old, body, &corev1.Pod{})
		if err != nil {
			return err
		}
		*pod = corev1.Pod{}
		return json.Unmarshal(merged, pod)
	})
}

// eventually waits until f is true of the cluster.
func (c *fakeCluster) eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Minute) // of a bubble's time, mostly
	for {
		c.mu.Lock()
		ok, changed := f(), c.changed
		c.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			c.mu.Lock()
			defer c.mu.Unlock()
			t.Fatalf("never: %s\nevents:\n%s", what, strings.Join(c.events, "\n"))
		}
	}
}

func (c *fakeCluster) node(pod string) string {
	if p, ok := c.pods[types.NamespacedName{Namespace: "default", Name: pod}]; ok {
		return p.Spec.NodeName
	}
	return "gone"
}

func (c *fakeCluster) condition(pod string, kind corev1.PodConditionType) corev1.PodCondition {
	if p, ok := c.pods[types.NamespacedName{Namespace: "default", Name: pod}]; ok {
		for _, cond := range p.Status.Conditions {
			if cond.Type == kind {
				return cond
			}
		}
	}
	return corev1.PodCondition{}
}

func (c *fakeCluster) hasEvent(text string) bool {
	for _, e := range c.events {
		if strings.Contains(e, text) {
			return true
		}
	}
	return false
}

// start runs a scheduler until the test ends.
func start(t testing.TB, c *fakeCluster, change ...func(*scheduler.Config)) {
	t.Helper()
	cfg := scheduler.Config{Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}
	for _, f := range change {
		f(&cfg)
	}
	s, err := scheduler.New(c, cfg)
	if err != nil {
		t.Fatal(err)
	}
	ready, done := make(chan struct{}), make(chan error, 1)
	ctx, cancel := context.WithCancel(c.ctx)
	go func() { done <- s.Run(ctx, func() { close(ready) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	<-ready
}

func newNode(name, cpu string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), Labels: map[string]string{"kubernetes.io/hostname": name}},
		Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse("16Gi"), corev1.ResourcePods: resource.MustParse("110"),
		}},
	}
}

func newPod(name, cpu string, change ...func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name)},
		Spec: corev1.PodSpec{SchedulerName: "default-scheduler", Containers: []corev1.Container{{Name: "c", Image: "image",
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}}}}},
	}
	for _, f := range change {
		f(pod)
	}
	return pod
}

func priority(n int32) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.Priority = &n } }
