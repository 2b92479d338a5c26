package ownership_test

import (
	"encoding/json"
	"fmt"
	"math/rand"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/applyconfigurations"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/builtin"
	"github.com/proa-dev/proa/apiserver/ownership"
)

// sameVersion stands for a scheme whose objects have one version.
type sameVersion struct{ runtime.ObjectConvertor }

func (sameVersion) ConvertToVersion(in runtime.Object, _ runtime.GroupVersioner) (runtime.Object, error) {
	return in, nil
}
func (sameVersion) Default(runtime.Object) {}
func (sameVersion) New(schema.GroupVersionKind) (runtime.Object, error) {
	return nil, fmt.Errorf("not used")
}

// mutations are what happens to a pod or deployment, with values that differ
// from time to time.
var mutations = []func(r *rand.Rand, obj api.Object){
	func(r *rand.Rand, o api.Object) {
		l := o.GetLabels()
		if l == nil {
			l = map[string]string{}
		}
		l[fmt.Sprint("k", r.Intn(2))] = fmt.Sprint(r.Intn(3))
		o.SetLabels(l)
	},
	func(r *rand.Rand, o api.Object) { o.SetLabels(nil) },
	func(r *rand.Rand, o api.Object) { o.SetLabels(map[string]string{}) },
	func(r *rand.Rand, o api.Object) { o.SetFinalizers([]string{fmt.Sprint(r.Intn(2)), "z"}) },
	func(r *rand.Rand, o api.Object) {
		switch o := o.(type) {
		case *corev1.Pod:
			o.Status.Phase = corev1.PodPhase(fmt.Sprint(r.Intn(3)))
			o.Status.Conditions = []corev1.PodCondition{{Type: "Ready", Status: corev1.ConditionStatus(fmt.Sprint(r.Intn(2))),
				LastTransitionTime: metav1.Unix(r.Int63n(2), 0)}}
			if r.Intn(2) == 0 {
				o.Status.Conditions = append(o.Status.Conditions, corev1.PodCondition{Type: corev1.PodConditionType(fmt.Sprint(r.Intn(2)))})
			}
		case *appsv1.Deployment:
			n := r.Int31n(3)
			o.Spec.Replicas = &n
			o.Status.Replicas = n
		}
	},
	func(r *rand.Rand, o api.Object) {
		var s *corev1.PodSpec
		switch o := o.(type) {
		case *corev1.Pod:
			s = &o.Spec
		case *appsv1.Deployment:
			s = &o.Spec.Template.Spec
		}
		s.Containers[0].Image = fmt.Sprint(r.Intn(3))
		s.Containers[0].Args = []string{fmt.Sprint(r.Intn(2))}
		s.Tolerations = []corev1.Toleration{{Key: fmt.Sprint(r.Intn(2))}}
		s.NodeSelector = map[string]string{"a": fmt.Sprint(r.Intn(2))}
		s.Containers[0].Env = s.Containers[0].Env[:0]
		for i := range r.Intn(3) {
			s.Containers[0].Env = append(s.Containers[0].Env, corev1.EnvVar{Name: fmt.Sprint(i), Value: fmt.Sprint(r.Intn(2))})
		}
		s.SecurityContext = nil
		if r.Intn(2) == 0 {
			s.SecurityContext = &corev1.PodSecurityContext{SupplementalGroups: []int64{r.Int63n(2)}}
		}
	},
}

// TestMemoEqualsLibrary makes random changes by several managers and compares
// whatever the memo recalls with what the library says.
func TestMemoEqualsLibrary(t *testing.T) {
	types := applyconfigurations.NewTypeConverter(builtin.Scheme())
	deployment := &appsv1.Deployment{TypeMeta: metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"}}
	deployment.Name, deployment.UID = "a", "1"
	deployment.Spec.Template.Spec = pod().Spec
	for _, first := range []api.Object{pod(), deployment} {
		gvk := first.GetObjectKind().GroupVersionKind()
		empty, err := builtin.Scheme().New(gvk)
		if err != nil {
			t.Fatal(err)
		}
		empty.GetObjectKind().SetGroupVersionKind(gvk)
		b := ownership.New(types, empty.(api.Object), []string{"status"})
		raw, ok := b.Fields(first)
		if !ok {
			t.Fatal("the first object was left to the library")
		}
		first.SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: "m0", Operation: "Update", APIVersion: gvk.GroupVersion().String(),
			Time: &metav1.Time{Time: time.Unix(100, 0)}, FieldsType: "FieldsV1", FieldsV1: &metav1.FieldsV1{Raw: raw}}})
		libraries := map[string]*managedfields.FieldManager{}
		for _, sub := range []string{"", "status"} {
			if libraries[sub], err = managedfields.NewDefaultFieldManager(types, sameVersion{}, sameVersion{}, sameVersion{}, gvk, gvk.GroupVersion(), sub, nil); err != nil {
				t.Fatal(err)
			}
		}
		memo := ownership.NewMemo(b)
		hits := 0
		for seed := range int64(800) {
			r := rand.New(rand.NewSource(seed))
			live := first.DeepCopyObject().(api.Object)
			for range 4 {
				next := live.DeepCopyObject().(api.Object)
				for range 1 + r.Intn(10)/9 {
					mutations[r.Intn(len(mutations))](r, next)
				}
				sub, manager := []string{"", "status"}[r.Intn(2)], fmt.Sprint("m", r.Intn(2))
				c := ownership.Change{Was: live, Is: next.DeepCopyObject().(api.Object), Subresource: sub, Manager: manager, Entries: live.GetManagedFields()}
				now := time.Now()
				got, found, known := memo.Recall(&c, now)
				out, err := libraries[sub].Update(live, next, manager)
				if err != nil {
					t.Fatal(err)
				}
				next = out.(api.Object)
				want := next.GetManagedFields()
				if found {
					hits++
					if g, w := text(t, got, now), text(t, want, now); g != w {
						t.Fatalf("manager %s, subresource %q:\n got %s\nwant %s", manager, sub, g, w)
					}
				} else if known {
					memo.Remember(&c, want)
				}
				live = next
			}
		}
		t.Logf("%s: %d of %d recalled", gvk.Kind, hits, 800*4)
		if hits < 200 {
			t.Errorf("%s: only %d changes were recalled", gvk.Kind, hits)
		}
	}
}

// text prints entries; a time of the last minute is now.
func text(t *testing.T, entries []metav1.ManagedFieldsEntry, now time.Time) string {
	t.Helper()
	var out []metav1.ManagedFieldsEntry
	for _, e := range entries {
		if now.Sub(e.Time.Time).Abs() < time.Minute {
			e.Time = nil
		}
		out = append(out, e)
	}
	b, err := json.Marshal(out)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
