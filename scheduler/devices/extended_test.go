package devices_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/scheduler/devices"
)

const gpu corev1.ResourceName = "example.com/gpu"

// container asks for resources, "name=quantity" each. A name that begins with
// "init" is one of an init container, with "side" it goes on beside the others.
func containers(p *corev1.Pod, list ...string) *corev1.Pod {
	for _, one := range list {
		fields := strings.Fields(one)
		c := corev1.Container{Name: fields[0], Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{}}}
		for _, r := range fields[1:] {
			name, n, _ := strings.Cut(r, "=")
			c.Resources.Requests[corev1.ResourceName(name)] = resource.MustParse(n)
		}
		switch {
		case strings.HasPrefix(c.Name, "init"):
			p.Spec.InitContainers = append(p.Spec.InitContainers, c)
		case strings.HasPrefix(c.Name, "side"):
			c.RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways)
			p.Spec.InitContainers = append(p.Spec.InitContainers, c)
		default:
			p.Spec.Containers = append(p.Spec.Containers, c)
		}
	}
	return p
}

func class(name string, age time.Duration, resource string) *resourcev1.DeviceClass {
	c := &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(time.Unix(1e9, 0).Add(-age))}}
	if resource != "" {
		c.Spec.ExtendedResourceName = &resource
	}
	return c
}

func offer(d *devices.Devices, on string, n int) {
	s := &resourcev1.ResourceSlice{
		ObjectMeta: metav1.ObjectMeta{Name: on},
		Spec: resourcev1.ResourceSliceSpec{
			Driver: "example.com", NodeName: &on, Pool: resourcev1.ResourcePool{Name: on, Generation: 1, ResourceSliceCount: 1},
		},
	}
	for i := range n {
		s.Spec.Devices = append(s.Spec.Devices, resourcev1.Device{Name: fmt.Sprint("gpu-", i)})
	}
	d.SetSlice(s)
}

func TestExtendedResources(t *testing.T) {
	for name, c := range map[string]struct {
		containers []string
		requests   string // name:class:count
		mappings   string // container:resource>request
	}{
		"one": {
			[]string{"a cpu=1 example.com/gpu=2 memory=1Gi"},
			"container-0-request-1:gpu:2", "a:example.com/gpu>container-0-request-1",
		},
		"the class by its name": {
			[]string{"a deviceclass.resource.kubernetes.io/old=1 example.com/gpu=1"},
			"container-0-request-0:old:1 container-0-request-1:gpu:1",
			"a:deviceclass.resource.kubernetes.io/old>container-0-request-0 a:example.com/gpu>container-0-request-1",
		},
		"side by side": {
			[]string{"side example.com/gpu=1", "a example.com/gpu=1", "b cpu=1", "c example.com/gpu=0"},
			"container-0-request-0:gpu:1 container-1-request-0:gpu:1",
			"side:example.com/gpu>container-0-request-0 a:example.com/gpu>container-1-request-0",
		},
		"one after the other": {
			[]string{"init1 example.com/gpu=2", "init2 example.com/gpu=4", "side example.com/gpu=1", "init3 example.com/gpu=1", "a example.com/gpu=1"},
			"container-1-request-0:gpu:2 container-2-request-0:gpu:1 container-4-request-0:gpu:1",
			"side:example.com/gpu>container-2-request-0 a:example.com/gpu>container-4-request-0 " +
				"init1:example.com/gpu>container-2-request-0 init1:example.com/gpu>container-4-request-0 " +
				"init2:example.com/gpu>container-2-request-0 init2:example.com/gpu>container-4-request-0 init2:example.com/gpu>container-1-request-0 " +
				"init3:example.com/gpu>container-4-request-0",
		},
		"more and more": {
			[]string{"init1 example.com/gpu=1", "init2 example.com/gpu=3", "init3 example.com/gpu=2", "a cpu=1"},
			"container-1-request-0:gpu:3",
			"init1:example.com/gpu>container-1-request-0 init2:example.com/gpu>container-1-request-0 init3:example.com/gpu>container-1-request-0",
		},
		"part of one": {
			[]string{"a deviceclass.resource.kubernetes.io/gpu=1500m"},
			"container-0-request-0:gpu:2", "a:deviceclass.resource.kubernetes.io/gpu>container-0-request-0",
		},
		"only by devices": {
			[]string{"a example.com/gpu=1 example.com/plugin=1"},
			"container-0-request-0:gpu:1", "a:example.com/gpu>container-0-request-0",
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := devices.New(t.Context())
			d.SetClass(class("old", time.Hour, string(gpu)))
			d.SetClass(class("gpu", time.Minute, string(gpu)))
			d.SetClass(class("younger", 0, "example.com/other"))
			d.SetClass(class("yet-another", time.Minute, string(gpu)))
			d.SetClass(class("plugin", 0, "example.com/plugin"))
			offer(d, "a", 9)
			p, n := containers(pod("p"), c.containers...), node("a")
			n.Status.Allocatable = corev1.ResourceList{gpu: resource.MustParse("0"), "example.com/plugin": resource.MustParse("3")}
			v, refusal := d.For(p)
			if v == nil || v.Check(n) != "" {
				t.Fatalf("refused: %q", refusal)
			}
			plan, reason := d.Plan(p, n)
			if plan == nil || len(plan.Claims) != 1 {
				t.Fatalf("plan %+v, %s", plan, reason)
			}
			var requests, mappings []string
			for _, r := range plan.Claims[0].Claim.Spec.Devices.Requests {
				requests = append(requests, fmt.Sprintf("%s:%s:%d", r.Name, r.Exactly.DeviceClassName, r.Exactly.Count))
			}
			for _, m := range plan.Claims[0].Mappings {
				mappings = append(mappings, m.ContainerName+":"+m.ResourceName+">"+m.RequestName)
			}
			if got := strings.Join(requests, " "); got != c.requests {
				t.Errorf("requests\n got %s\nwant %s", got, c.requests)
			}
			if got := strings.Join(mappings, " "); got != c.mappings {
				t.Errorf("mappings\n got %s\nwant %s", got, c.mappings)
			}
		})
	}
}

// TestExtendedClaims follows the claim of a pod from the plan on.
func TestExtendedClaims(t *testing.T) {
	d := devices.New(t.Context())
	if !d.SetClass(class("gpu", 0, string(gpu))) || d.SetClass(class("gpu", 0, string(gpu))) || !d.Backs(gpu) {
		t.Fatal("what the class stands for")
	}
	offer(d, "a", 1)
	p, q := containers(pod("p"), "c example.com/gpu=1"), containers(pod("q"), "c example.com/gpu=1")
	check := func(what, want string, p *corev1.Pod) {
		t.Helper()
		v, refusal := d.For(p)
		if v == nil {
			t.Fatalf("%s: refused, %s", what, refusal)
		}
		if got := v.Check(node("a")); got != want {
			t.Errorf("%s: got %q, want %q", what, got, want)
		}
	}
	full := node("a")
	full.Status.Allocatable = corev1.ResourceList{gpu: resource.MustParse("1")}
	if plan, reason := d.Plan(p, full); plan != nil || reason != "" {
		t.Errorf("the node has it itself: %+v, %s", plan, reason)
	}
	plan, _ := d.Plan(p, node("a"))
	check("promised", "cannot allocate all claims", q)
	d.Withdraw(plan)
	check("withdrawn", "", q)

	plan, _ = d.Plan(p, node("a"))
	r := &plan.Claims[0]
	made := r.Claim.DeepCopy()
	made.Name, made.UID = "p-extended-resources-x", "made"
	d.Made(r, made)
	d.SetClaim(made)
	check("made", "cannot allocate all claims", q)
	written := made.DeepCopy()
	written.Status.Allocation = r.Allocation
	d.SetClaim(written)
	check("written", "cannot allocate all claims", q)
	check("from before", "cannot schedule extended resource claim", p)
	if got := d.Stale(p); got != written {
		t.Errorf("stale: %v", got)
	}
	foreign := written.DeepCopy()
	foreign.Namespace, foreign.UID = "elsewhere", "foreign"
	foreign.Status.Allocation = nil
	d.SetClaim(foreign)
	if got := d.Stale(p); got != written {
		t.Errorf("stale: %v", got)
	}
	d.RemoveClaim(written)
	check("gone", "", p)
	check("gone", "", q)

	if !d.RemoveClass("gpu") || d.Backs(gpu) {
		t.Error("there is no class any more")
	}
	if v, refusal := d.For(p); v != nil || refusal != "" {
		t.Errorf("a pod that devices have nothing for: %v, %q", v, refusal)
	}
}
