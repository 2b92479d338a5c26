package garbage_test

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/builtin"
	"github.com/proa-dev/proa/controllers/garbage"
	"github.com/proa-dev/proa/controllers/internal/clustertest"
)

// object makes "namespace/name" with a UID of the same text.
func object[T client.Object](o T, at string, refs ...metav1.OwnerReference) T {
	ns, name, ok := strings.Cut(at, "/")
	if !ok {
		ns, name = "", at
	}
	o.SetNamespace(ns)
	o.SetName(name)
	o.SetUID(types.UID(at))
	o.SetOwnerReferences(refs)
	return o
}

func pod(at string, refs ...metav1.OwnerReference) *corev1.Pod {
	return object(&corev1.Pod{}, at, refs...)
}

func config(at string, refs ...metav1.OwnerReference) *corev1.ConfigMap {
	return object(&corev1.ConfigMap{}, at, refs...)
}

// by refers to an owner; blocking or not.
func by(kind, at string, blocking bool) metav1.OwnerReference {
	version := "v1"
	if kind == "ReplicaSet" {
		version = "apps/v1"
	}
	name := at[strings.Index(at, "/")+1:]
	return metav1.OwnerReference{APIVersion: version, Kind: kind, Name: name, UID: types.UID(at), BlockOwnerDeletion: ptr.To(blocking)}
}

func kinds(resources ...string) []*api.Kind {
	return slices.DeleteFunc(builtin.Kinds(), func(k *api.Kind) bool { return !slices.Contains(resources, k.Resource) })
}

func start(t *testing.T, objs ...client.Object) *clustertest.Cluster {
	t.Helper()
	all := kinds("pods", "configmaps", "replicasets", "nodes", "namespaces")
	return startWith(t, func() []*api.Kind { return all }, objs...)
}

func startWith(t *testing.T, kinds func() []*api.Kind, objs ...client.Object) *clustertest.Cluster {
	t.Helper()
	c := clustertest.New(t, objs...)
	l, err := garbage.New(c.Env(nil), kinds)
	c.Do(err)
	c.Run(l)
	return c
}

// left waits until of the objects of the test just these exist.
func left(t *testing.T, c *clustertest.Cluster, want ...string) {
	t.Helper()
	c.Eventually(func() (bool, string) {
		var got []string
		for _, list := range []client.ObjectList{&corev1.PodList{}, &corev1.ConfigMapList{}, &appsv1.ReplicaSetList{}, &corev1.NodeList{}} {
			c.Do(c.API.List(t.Context(), list))
			switch l := list.(type) {
			case *corev1.PodList:
				for _, o := range l.Items {
					got = append(got, string(o.UID))
				}
			case *corev1.ConfigMapList:
				for _, o := range l.Items {
					got = append(got, string(o.UID))
				}
			case *appsv1.ReplicaSetList:
				for _, o := range l.Items {
					got = append(got, string(o.UID))
				}
			case *corev1.NodeList:
				for _, o := range l.Items {
					got = append(got, string(o.UID))
				}
			}
		}
		slices.Sort(got)
		slices.Sort(want)
		return slices.Equal(got, want), fmt.Sprintf("left %v, want %v", got, want)
	})
}

func TestBackground(t *testing.T) {
	owner := config("a/owner")
	c := start(t, owner,
		pod("a/dependent", by("ConfigMap", "a/owner", true)),
		config("a/grandchild", by("Pod", "a/dependent", false)),
		pod("a/shared", by("ConfigMap", "a/owner", true), by("ConfigMap", "a/other", false)),
		config("a/other"),
		pod("a/free"))
	c.Do(c.API.Delete(t.Context(), owner))
	left(t, c, "a/shared", "a/other", "a/free")
	c.Eventually(func() (bool, string) {
		var p corev1.Pod
		c.Get(&p, "a", "shared")
		return len(p.OwnerReferences) == 1 && p.OwnerReferences[0].Name == "other", fmt.Sprint(p.OwnerReferences)
	})
}

// What was owned by something that is gone before the collector starts.
func TestOwnersThatNeverWere(t *testing.T) {
	owner := config("a/owner")
	c := start(t, owner, object(&corev1.Node{}, "node"),
		pod("a/absent", by("ConfigMap", "a/nobody", true)),
		pod("a/reused", metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "owner", UID: "an older one"}),
		pod("b/misplaced", by("ConfigMap", "a/owner", true)),
		pod("a/of-node", by("Node", "node", false)),
		pod("a/misnamed", metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "other", UID: "a/owner"}),
		pod("a/miskinded", metav1.OwnerReference{APIVersion: "v1", Kind: "Pod", Name: "owner", UID: "a/owner"}),
		pod("a/unserved", metav1.OwnerReference{APIVersion: "example.com/v1", Kind: "Thing", Name: "x", UID: "x"}),
		object(&corev1.Node{}, "cluster-scoped", by("ConfigMap", "a/owner", true)))
	left(t, c, "a/owner", "node", "a/of-node", "a/unserved", "cluster-scoped")
	want := `Warning OwnerRefInvalidNamespace ownerRef [v1/ConfigMap, namespace: b, name: owner, uid: a/owner] does not exist in namespace "b"`
	if !slices.Contains(c.Events(), want) {
		t.Errorf("no event %q in %q", want, c.Events())
	}
}

func TestForegroundWaitsForBlockingDependents(t *testing.T) {
	owner := object(&appsv1.ReplicaSet{}, "a/owner")
	owner.Finalizers = []string{metav1.FinalizerDeleteDependents}
	held := pod("a/held", by("ReplicaSet", "a/owner", true))
	held.Finalizers = []string{"test/hold"}
	c := start(t, owner, held, pod("a/quick", by("ReplicaSet", "a/owner", true)))
	c.Do(c.API.Delete(t.Context(), owner))
	left(t, c, "a/owner", "a/held")
	var p corev1.Pod
	c.Eventually(func() (bool, string) {
		c.Get(&p, "a", "held")
		return p.DeletionTimestamp != nil, "not deleted"
	})
	p.Finalizers = nil
	c.Do(c.API.Update(t.Context(), &p))
	left(t, c)
}

func TestOrphan(t *testing.T) {
	owner := object(&appsv1.ReplicaSet{}, "a/owner")
	owner.Finalizers = []string{metav1.FinalizerOrphanDependents}
	c := start(t, owner, pod("a/dependent", by("ReplicaSet", "a/owner", true)))
	c.Do(c.API.Delete(t.Context(), owner))
	left(t, c, "a/dependent")
	var p corev1.Pod
	c.Get(&p, "a", "dependent")
	if len(p.OwnerReferences) != 0 {
		t.Errorf("owners %v", p.OwnerReferences)
	}
}

// A kind may come while the collector runs, as custom ones do.
func TestKindsThatComeLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all atomic.Pointer[[]*api.Kind]
		first, more := kinds("pods"), kinds("pods", "configmaps")
		all.Store(&first)
		c := startWith(t, func() []*api.Kind { return *all.Load() },
			pod("a/of-config", by("ConfigMap", "a/gone", true)), config("a/owner"), pod("a/kept", by("ConfigMap", "a/owner", true)))
		time.Sleep(time.Minute)
		left(t, c, "a/of-config", "a/owner", "a/kept")
		all.Store(&more)
		time.Sleep(time.Minute)
		left(t, c, "a/owner", "a/kept")
		var owner corev1.ConfigMap
		c.Get(&owner, "a", "owner")
		c.Do(c.API.Delete(t.Context(), &owner))
		left(t, c)
	})
}

// A reference must say what the owner is, whichever of both was seen first.
func TestReferencesThatLeadElsewhere(t *testing.T) {
	c := start(t, config("a/owner"))
	left(t, c, "a/owner")
	c.Do(c.API.Create(t.Context(), pod("a/first", by("ConfigMap", "a/gone", true)))) // the owner has been seen when this one goes
	left(t, c, "a/owner")
	c.Do(c.API.Create(t.Context(), pod("a/misnamed", metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: "other", UID: "a/owner"})))
	c.Do(c.API.Create(t.Context(), pod("a/right", by("ConfigMap", "a/owner", true))))
	left(t, c, "a/owner", "a/right")
}

// A version of a kind may go while another one stays: its objects are collected
// as before.
func TestVersionsThatGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var unserved atomic.Bool
		old, now := *kinds("replicasets")[0], kinds("replicasets")[0]
		old.GVK.Version = "v1beta2"
		typed := old.New
		old.New = func() api.Object {
			if unserved.Load() {
				return &unstructured.Unstructured{} // there is none of this version
			}
			return typed()
		}
		c := startWith(t, func() []*api.Kind {
			if unserved.Load() {
				return append(kinds("configmaps"), now)
			}
			return append(kinds("configmaps"), &old)
		}, config("a/owner"), object(&appsv1.ReplicaSet{}, "a/dependent", by("ConfigMap", "a/owner", true)))
		time.Sleep(time.Minute)
		unserved.Store(true)
		time.Sleep(time.Minute)
		c.Do(c.API.Delete(t.Context(), config("a/owner")))
		left(t, c)
	})
}

// What is left of a kind that is gone keeps no owner.
func TestKindsThatGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var all atomic.Pointer[[]*api.Kind]
		first, fewer := kinds("pods", "replicasets"), kinds("replicasets")
		all.Store(&first)
		owner, held := object(&appsv1.ReplicaSet{}, "a/owner"), pod("a/held", by("ReplicaSet", "a/owner", true))
		owner.Finalizers, held.Finalizers = []string{metav1.FinalizerDeleteDependents}, []string{"test/hold"}
		c := startWith(t, func() []*api.Kind { return *all.Load() }, owner, held)
		c.Do(c.API.Delete(t.Context(), owner))
		left(t, c, "a/held", "a/owner")
		all.Store(&fewer)
		time.Sleep(time.Minute)
		left(t, c, "a/held")
	})
}

// A kind that cannot be watched, such as one that has just gone, keeps no other
// one from being collected.
func TestKindsThatCannotBeWatched(t *testing.T) {
	bad := *kinds("configmaps")[0]
	bad.GVK.Group, bad.Resource = "example.com", "things"
	bad.New = func() api.Object { return &unstructured.Unstructured{} }
	all := append(kinds("pods", "configmaps"), &bad)
	c := startWith(t, func() []*api.Kind { return all }, pod("a/dependent", by("ConfigMap", "a/nobody", true)))
	left(t, c)
}
