package node_test

import (
	"context"
	"log/slog"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/kubelet/internal/fakeapi"
	"github.com/proa-dev/proa/kubelet/node"
)

func TestThresholds(t *testing.T) {
	for _, c := range []struct {
		flags []string
		wrong string
		met   string // when 10 of 100 are left
	}{
		{flags: nil, met: ""},
		{flags: []string{"memory.available<10", "nodefs.available<10%"}, met: ""},
		{flags: []string{"nodefs.available<11.5%", "memory.available<11"}, met: "memory.available nodefs.available"},
		{flags: []string{"pid.available<1Ki"}, met: "pid.available"},
		{flags: []string{"nodefs.available<100%", "imagefs.inodesFree<0%"}, met: ""}, // as upstream: none
		{flags: []string{"memory.available"}, wrong: "want signal<quantity"},
		{flags: []string{"memory.free<1"}, wrong: "unsupported eviction signal memory.free"},
		{flags: []string{"memory.available<0"}, wrong: "must be a positive quantity"},
		{flags: []string{"memory.available<-1Mi"}, wrong: "must be a positive quantity"},
		{flags: []string{"memory.available<much"}, wrong: "must be a positive quantity"},
		{flags: []string{"nodefs.available<101%"}, wrong: "from 0% to 100%"},
		{flags: []string{"nodefs.available<NaN%"}, wrong: "from 0% to 100%"},
	} {
		got, err := node.ParseThresholds(c.flags)
		if (err != nil) != (c.wrong != "") || (err != nil && !strings.Contains(err.Error(), c.wrong)) {
			t.Errorf("%v: %v", c.flags, err)
			continue
		}
		levels := map[node.Signal]node.Level{}
		for _, s := range []node.Signal{node.MemoryAvailable, node.NodeFSAvailable, node.ImageFSInodes, node.PIDAvailable} {
			levels[s] = node.Level{Available: 10, Capacity: 100}
		}
		var names []string
		for _, s := range got.Met(levels) {
			names = append(names, string(s))
		}
		if met := strings.Join(names, " "); met != c.met {
			t.Errorf("%v: met %q, want %q", c.flags, met, c.met)
		}
	}
}

func TestMeasure(t *testing.T) {
	levels, err := node.Measure(t.TempDir(), "", 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []node.Signal{node.MemoryAvailable, node.NodeFSAvailable, node.ImageFSAvailable, node.PIDAvailable} {
		if l := levels[s]; l.Available <= 0 || l.Available > l.Capacity {
			t.Errorf("%s: %+v", s, l)
		}
	}
	if _, err := node.Measure("/does/not/exist", "", 0); err == nil {
		t.Error("a directory that does not exist was measured")
	}
}

// bench is a node of an API in memory.
type bench struct {
	*node.Node
	api      *fakeapi.API
	recorder *record.FakeRecorder
	notReady atomic.Pointer[string]
	memory   atomic.Bool
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{api: &fakeapi.API{}, recorder: record.NewFakeRecorder(100)}
	ready := ""
	b.notReady.Store(&ready)
	var err error
	b.Node, err = node.New(node.Config{
		Name: "n", Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}},
		Labels: map[string]string{"disk": "ssd"}, Taints: []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoSchedule}},
		MaxPods: 110, Thresholds: node.DefaultThresholds(), RootDir: t.TempDir(), Port: 10250, KubeletVersion: "v1",
		Runtime:  func(context.Context) (string, string) { return "fake://1", *b.notReady.Load() },
		Pressure: func() (bool, bool, bool) { return b.memory.Load(), false, false },
		Client:   b.api, Reader: b.api, Recorder: b.recorder, Clock: clock.RealClock{}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bench) get(t *testing.T) *corev1.Node {
	t.Helper()
	n := &corev1.Node{}
	if err := b.api.Get(t.Context(), ctrl.ObjectKey{Name: "n"}, n); err != nil {
		t.Fatal(err)
	}
	return n
}

func find(t *testing.T, n *corev1.Node, kind corev1.NodeConditionType) corev1.NodeCondition {
	t.Helper()
	for _, c := range n.Status.Conditions {
		if c.Type == kind {
			return c
		}
	}
	t.Fatalf("no condition %s", kind)
	return corev1.NodeCondition{}
}

func TestRegister(t *testing.T) {
	b := newBench(t)
	if err := b.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	n := b.get(t)
	if n.Labels["disk"] != "ssd" || n.Labels[corev1.LabelHostname] != "n" || len(n.Spec.Taints) != 1 {
		t.Errorf("node %+v", n)
	}
	reserved := n.Status.Capacity.Memory().DeepCopy()
	reserved.Sub(*n.Status.Allocatable.Memory())
	if reserved.Cmp(resource.MustParse("100Mi")) < 0 { // and huge pages
		t.Errorf("pods get all memory but %s", reserved.String())
	}
	if c := find(t, n, corev1.NodeReady); c.Status != corev1.ConditionTrue || c.Reason != "KubeletReady" {
		t.Errorf("%+v", c)
	}

	// The list of its CSI drivers belongs to this node, not to an earlier one of its name.
	drivers := func() *storagev1.CSINode {
		t.Helper()
		list := &storagev1.CSINode{}
		if err := b.api.Get(t.Context(), ctrl.ObjectKey{Name: "n"}, list); err != nil {
			t.Fatal(err)
		}
		return list
	}
	owner := []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "n", UID: n.UID}}
	own := drivers()
	const migrated = "kubernetes.io/aws-ebs,kubernetes.io/azure-disk,kubernetes.io/azure-file,kubernetes.io/cinder," +
		"kubernetes.io/gce-pd,kubernetes.io/portworx-volume,kubernetes.io/vsphere-volume"
	if !reflect.DeepEqual(own.OwnerReferences, owner) || own.Annotations[corev1.MigratedPluginsAnnotationKey] != migrated {
		t.Errorf("CSINode %+v", own)
	}
	own.Annotations = map[string]string{"mine": "1"}
	own.Spec.Drivers = []storagev1.CSINodeDriver{{Name: "example.com", NodeID: "n"}}
	if err := b.api.Update(t.Context(), own); err != nil {
		t.Fatal(err)
	}
	for _, of := range []types.UID{n.UID, "earlier"} {
		own.OwnerReferences[0].UID = of
		if err := b.api.Update(t.Context(), own); err != nil {
			t.Fatal(err)
		}
		if err := b.Register(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := drivers(); !reflect.DeepEqual(got.OwnerReferences, owner) || (len(got.Spec.Drivers) == 1) != (of == n.UID) ||
			(got.Annotations["mine"] == "1") != (of == n.UID) || got.Annotations[corev1.MigratedPluginsAnnotationKey] != migrated {
			t.Errorf("CSINode of %s: %+v", of, got)
		}
	}

	// A node that is known keeps what others gave it.
	b = newBench(t)
	foreign := corev1.NodeCondition{Type: "Foreign", Status: corev1.ConditionTrue}
	old := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{"mine": "1", "disk": "old"}},
		Spec: corev1.NodeSpec{Unschedulable: true}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{foreign},
			Capacity: corev1.ResourceList{"example.com/device": resource.MustParse("3"), corev1.ResourcePods: resource.MustParse("1")}}}
	if err := b.api.Create(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	if err := b.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	n = b.get(t)
	if n.UID != old.UID || n.Labels["mine"] != "1" || n.Labels["disk"] != "ssd" || !n.Spec.Unschedulable || len(n.Spec.Taints) != 0 || find(t, n, "Foreign") != foreign {
		t.Errorf("node %+v", n)
	}
	capacity, devices := n.Status.Capacity["example.com/device"], n.Status.Allocatable["example.com/device"]
	if capacity.Value() != 3 || devices.Value() != 3 || n.Status.Capacity.Pods().Value() == 1 {
		t.Errorf("capacity %v, allocatable %v", n.Status.Capacity, n.Status.Allocatable)
	}
}

func TestLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		if err := b.Register(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { b.Run(ctx); close(done) }()
		defer func() { cancel(); <-done }()
		renewed := func() time.Time {
			t.Helper()
			lease := &coordinationv1.Lease{}
			if err := b.api.Get(t.Context(), ctrl.ObjectKey{Namespace: corev1.NamespaceNodeLease, Name: "n"}, lease); err != nil {
				t.Fatal(err)
			}
			return lease.Spec.RenewTime.Time
		}
		synctest.Wait()
		began := find(t, b.get(t), corev1.NodeMemoryPressure)
		first := renewed()
		time.Sleep(time.Minute)
		synctest.Wait()
		if d := renewed().Sub(first); d != time.Minute {
			t.Errorf("the lease was renewed %s later", d)
		}

		// What somebody else declares on the node stays, and pods get all of it.
		bare := b.get(t)
		declared := bare.DeepCopy()
		declared.Status.Capacity["example.com/fake"] = resource.MustParse("5")
		if err := b.api.Status().Patch(t.Context(), declared, ctrl.StrategicMergeFrom(bare)); err != nil {
			t.Fatal(err)
		}
		b.Observed(declared)

		// A shortage shows at once, with its own time of transition.
		b.memory.Store(true)
		b.Poke()
		synctest.Wait()
		c := find(t, b.get(t), corev1.NodeMemoryPressure)
		if c.Status != corev1.ConditionTrue || c.Reason != "KubeletHasInsufficientMemory" || c.Message != "kubelet has insufficient memory available" ||
			c.LastTransitionTime.Sub(began.LastTransitionTime.Time) != time.Minute {
			t.Errorf("%+v, was %+v", c, began)
		}
		for name, list := range map[string]corev1.ResourceList{"capacity": b.get(t).Status.Capacity, "allocatable": b.get(t).Status.Allocatable} {
			if q := list["example.com/fake"]; q.Value() != 5 {
				t.Errorf("%s of a declared resource is %s, want 5", name, q.String())
			}
		}
		if got := find(t, b.get(t), corev1.NodeReady); !got.LastTransitionTime.Equal(&began.LastTransitionTime) {
			t.Errorf("%+v moved too", got)
		}

		// A runtime that fails shows within the period, and its return soon.
		why := "container runtime is down: RuntimeReady=false"
		b.notReady.Store(&why)
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if got := find(t, b.get(t), corev1.NodeReady); got.Status != corev1.ConditionFalse || got.Reason != "KubeletNotReady" || got.Message != why {
			t.Errorf("%+v", got)
		}
		why2 := ""
		b.notReady.Store(&why2)
		time.Sleep(time.Second)
		synctest.Wait()
		if got := find(t, b.get(t), corev1.NodeReady); got.Status != corev1.ConditionTrue {
			t.Errorf("%+v", got)
		}

		// A node that someone deletes comes back.
		if err := b.api.Delete(t.Context(), b.get(t)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(6 * time.Minute)
		synctest.Wait()
		b.get(t)
		var events []string
		for len(b.recorder.Events) > 0 {
			events = append(events, <-b.recorder.Events)
		}
		for _, want := range []string{"NodeHasInsufficientMemory", "NodeNotReady", "NodeReady"} {
			if all := strings.Join(events, "\n"); !strings.Contains(all, "Normal "+want+" Node n status is now: "+want) {
				t.Errorf("no event %s in\n%s", want, all)
			}
		}
	})
}
