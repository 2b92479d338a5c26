package resourceclaim_test

import (
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/controllers/internal/clustertest"
	"github.com/proa-dev/proa/controllers/resourceclaim"
)

func start(t *testing.T, objs ...client.Object) *clustertest.Cluster {
	c := clustertest.New(t, objs...)
	run(c)
	return c
}

func run(c *clustertest.Cluster) {
	l, err := resourceclaim.New(c.Env(nil))
	c.Do(err)
	c.Run(l)
}

func pod(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("uid-" + name)}}
	for _, f := range change {
		f(p)
	}
	return p
}

func wants(of, template string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.ResourceClaims = append(p.Spec.ResourceClaims, corev1.PodResourceClaim{Name: of, ResourceClaimTemplateName: &template})
	}
}

func names(claim string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.ResourceClaims = append(p.Spec.ResourceClaims, corev1.PodResourceClaim{Name: claim, ResourceClaimName: &claim})
	}
}

// allocated is a claim that has devices and is reserved for pods.
func allocated(name string, users ...*corev1.Pod) *resourcev1.ResourceClaim {
	c := &resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, Finalizers: []string{resourcev1.Finalizer}},
		Status:     resourcev1.ResourceClaimStatus{Allocation: &resourcev1.AllocationResult{}},
	}
	for _, p := range users {
		c.Status.ReservedFor = append(c.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: p.Name, UID: p.UID})
	}
	return c
}

func ownedBy(c *resourcev1.ResourceClaim, p *corev1.Pod) *resourcev1.ResourceClaim {
	c.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: p.Name, UID: p.UID, Controller: ptr.To(true)}}
	return c
}

func claims(t *testing.T, c *clustertest.Cluster) []resourcev1.ResourceClaim {
	var list resourcev1.ResourceClaimList
	c.Do(c.API.List(t.Context(), &list))
	return list.Items
}

// statuses are the claims that a pod is told of.
func statuses(c *clustertest.Cluster, name string) map[string]string {
	out, p := map[string]string{}, &corev1.Pod{}
	if c.Get(p, "ns", name) {
		for _, s := range p.Status.ResourceClaimStatuses {
			out[s.Name] = ptr.Deref(s.ResourceClaimName, "")
		}
	}
	return out
}

// Claims are made from templates, once, and again when they are deleted.
func TestTemplates(t *testing.T) {
	long := strings.Repeat("x", 60)
	c := clustertest.New(t, pod("p", wants("gpu", "t"), wants("late", "missing")), pod(long, wants("gpu", "t")), &resourcev1.ResourceClaimTemplate{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "t"},
		Spec: resourcev1.ResourceClaimTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"c": "d"}},
			Spec:       resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{Name: "r"}}}},
		},
	})
	var made atomic.Int32
	c.Before = func(verb string, o client.Object) {
		if _, ok := o.(*resourcev1.ResourceClaim); ok && verb == "create" {
			made.Add(1)
		}
	}
	run(c)
	c.Eventually(func() (bool, string) {
		return slices.ContainsFunc(c.Events(), func(e string) bool {
			return strings.HasPrefix(e, `Warning FailedResourceClaimCreation PodResourceClaim late: resource claim template "missing": `)
		}), "nothing is said of the missing template"
	})
	c.Do(c.API.Create(t.Context(), &resourcev1.ResourceClaimTemplate{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "missing"}}))
	c.Eventually(func() (bool, string) {
		return len(statuses(c, "p")) == 2 && len(statuses(c, long)) == 1, "the pods are not told"
	})
	claim := &resourcev1.ResourceClaim{}
	if name := statuses(c, "p")["gpu"]; !strings.HasPrefix(name, "p-gpu-") || !c.Get(claim, "ns", name) {
		t.Fatalf("no claim %s", name)
	}
	if claim.Labels["a"] != "b" || claim.Annotations["c"] != "d" || claim.Annotations[resourcev1.PodResourceClaimAnnotation] != "gpu" ||
		!metav1.IsControlledBy(claim, pod("p")) || claim.Spec.Devices.Requests[0].Name != "r" {
		t.Errorf("claim %+v", claim)
	}
	if name := statuses(c, long)["gpu"]; !strings.Contains(name, "x-gp") || len(name) > 63 {
		t.Errorf("name %s", name)
	}
	if n := len(claims(t, c)); n != 3 {
		t.Errorf("%d claims", n)
	}
	c.Do(c.API.Delete(t.Context(), claim))
	c.Eventually(func() (bool, string) {
		name := statuses(c, "p")["gpu"]
		return name != claim.Name && c.Get(&resourcev1.ResourceClaim{}, "ns", name), "the deleted claim is not made again"
	})
	if n := len(claims(t, c)); n != 3 {
		t.Errorf("%d claims", n)
	}

	// Pods that have ended want none.
	for _, name := range []string{"p", long} {
		p := &corev1.Pod{}
		c.Get(p, "ns", name)
		p.Status.Phase = corev1.PodFailed
		c.Do(c.API.Status().Update(t.Context(), p))
	}
	made.Store(0)
	c.Eventually(func() (bool, string) { return len(claims(t, c)) == 0, "claims of pods that have ended stay" })
	c.Do(c.API.Create(t.Context(), pod("last", wants("gpu", "t"))))
	c.Eventually(func() (bool, string) { return len(statuses(c, "last")) == 1, "the last pod is not told" })
	if n := made.Load(); n != 1 {
		t.Errorf("%d claims were made", n)
	}
}

// A claim that was made before this controller began is found again.
func TestOrphan(t *testing.T) {
	p := pod("p", wants("gpu", "t"))
	claim := ownedBy(&resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{
		Namespace: "ns", Name: "p-gpu-x", Annotations: map[string]string{resourcev1.PodResourceClaimAnnotation: "gpu"},
	}}, p)
	c := start(t, p, claim)
	c.Eventually(func() (bool, string) { return statuses(c, "p")["gpu"] == claim.Name, "the claim is not found" })
}

// A pod that was bound by hand has its claims reserved.
func TestReserve(t *testing.T) {
	c := start(t, pod("p", names("c"), func(p *corev1.Pod) { p.Spec.NodeName = "n" }), allocated("c", pod("q")), pod("q"))
	c.Eventually(func() (bool, string) {
		claim := &resourcev1.ResourceClaim{}
		return c.Get(claim, "ns", "c") && len(claim.Status.ReservedFor) == 2, "the claim is not reserved"
	})
}

func TestFree(t *testing.T) {
	ended := func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }
	extended := func(p *corev1.Pod) {
		p.Status.ExtendedResourceClaimStatus = &corev1.PodExtendedResourceClaimStatus{ResourceClaimName: "c"}
	}
	unknown := allocated("c", pod("p"))
	unknown.Status.ReservedFor[0].APIGroup = "example.com"
	type outcome struct {
		users                 int
		allocated, there, own bool
	}
	for name, test := range map[string]struct {
		claim *resourcev1.ResourceClaim
		pods  []client.Object
		end   func(*corev1.Pod) // of p, later
		want  outcome
	}{
		"in use":           {allocated("c", pod("p"), pod("gone")), []client.Object{pod("p", names("c"))}, nil, outcome{1, true, true, true}},
		"all gone":         {allocated("c", pod("gone")), nil, nil, outcome{0, false, true, false}},
		"replaced":         {allocated("c", pod("p")), []client.Object{pod("p", func(p *corev1.Pod) { p.UID = "other" })}, nil, outcome{0, false, true, false}},
		"ends":             {allocated("c", pod("p")), []client.Object{pod("p", names("c"))}, ended, outcome{0, false, true, false}},
		"made for it":      {ownedBy(allocated("c", pod("p")), pod("p")), []client.Object{pod("p", extended)}, ended, outcome{}},
		"never reserved":   {allocated("c"), nil, nil, outcome{0, true, true, true}},
		"somebody unknown": {unknown, nil, nil, outcome{1, true, true, true}},
	} {
		t.Run(name, func(t *testing.T) {
			c := start(t, append(test.pods, test.claim)...)
			if test.end != nil {
				p := &corev1.Pod{}
				c.Get(p, "ns", "p")
				test.end(p)
				c.Do(c.API.Status().Update(t.Context(), p))
			}
			// A claim that is freed anyway shows that the others have been looked at.
			c.Do(c.API.Create(t.Context(), allocated("last", pod("gone"))))
			got := outcome{}
			c.Eventually(func() (bool, string) {
				claim, last := &resourcev1.ResourceClaim{}, &resourcev1.ResourceClaim{}
				there := c.Get(claim, "ns", "c")
				got = outcome{len(claim.Status.ReservedFor), claim.Status.Allocation != nil, there, len(claim.Finalizers) > 0}
				return c.Get(last, "ns", "last") && len(last.Finalizers) == 0 && got == test.want, "the claim is not as wanted"
			})
		})
	}
}

// A claim that is deleted while it has devices that nobody uses goes.
func TestDeleted(t *testing.T) {
	c := start(t, allocated("c"))
	c.Do(c.API.Delete(t.Context(), allocated("c")))
	c.Eventually(func() (bool, string) { return !c.Get(&resourcev1.ResourceClaim{}, "ns", "c"), "the claim stays" })
}
