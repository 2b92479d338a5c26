package ownership_test

import (
	"math/rand"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/applyconfigurations"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/typed"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/builtin"
	"github.com/proa-dev/proa/apiserver/ownership"
)

// byLibrary is what structured-merge-diff makes of a new object.
func byLibrary(t *testing.T, types managedfields.TypeConverter, empty, obj runtime.Object, reset []string) string {
	t.Helper()
	was, err := types.ObjectToTyped(empty, typed.AllowDuplicates)
	if err != nil {
		t.Fatal(err)
	}
	have, err := types.ObjectToTyped(obj, typed.AllowDuplicates)
	if err != nil {
		return "error: " + err.Error()
	}
	diff, err := was.Compare(have)
	if err != nil {
		return "error: " + err.Error()
	}
	if len(reset) > 0 {
		drop := fieldpath.NewSet()
		for _, p := range reset {
			drop.Insert(fieldpath.MakePathOrDie(anys(strings.Split(p, "."))...))
		}
		diff = diff.FilterFields(fieldpath.NewExcludeSetFilter(drop))
	}
	meta := fieldpath.NewSet(fieldpath.MakePathOrDie("apiVersion"), fieldpath.MakePathOrDie("kind"), fieldpath.MakePathOrDie("metadata"))
	for _, n := range []string{"name", "namespace", "creationTimestamp", "selfLink", "uid", "clusterName", "generation", "managedFields", "resourceVersion"} {
		meta.Insert(fieldpath.MakePathOrDie("metadata", n))
	}
	set := diff.Modified.Union(diff.Added).Difference(meta)
	if set.Empty() {
		return ""
	}
	raw, err := set.ToJSON()
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func anys(in []string) (out []any) {
	for _, s := range in {
		out = append(out, s)
	}
	return out
}

// fill gives v random content. sparse leaves much of it empty, as real objects do.
func fill(r *rand.Rand, v reflect.Value, depth int) {
	if r.Intn(3) == 0 || depth > 12 {
		return
	}
	switch p := v.Addr().Interface().(type) {
	case *metav1.Time:
		*p = metav1.Unix(r.Int63n(1e9), 0)
		return
	case *metav1.MicroTime:
		*p = metav1.NewMicroTime(metav1.Unix(r.Int63n(1e9), 0).Time)
		return
	case *resource.Quantity:
		*p = *resource.NewQuantity(r.Int63n(1000), resource.DecimalSI)
		return
	case *intstr.IntOrString:
		*p = intstr.FromInt32(r.Int31n(9))
		return
	case *runtime.RawExtension:
		p.Raw = []byte(`{"a":1}`)
		return
	case *metav1.FieldsV1:
		return
	}
	switch v.Kind() {
	case reflect.String:
		words := []string{"", "a", "TCP", "with \"quotes\" and \\", "ümlaut/é.example.com", "z-9"}
		v.SetString(words[r.Intn(len(words))])
	case reflect.Bool:
		v.SetBool(r.Intn(2) == 0)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(r.Int63n(5))
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(r, v.Elem(), depth+1)
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			v.SetBytes([]byte("bytes"))
			return
		}
		n := r.Intn(4)
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			fill(r, v.Index(i), depth+1)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range r.Intn(4) {
			k, e := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			fill(r, k, depth+1)
			fill(r, e, depth+1)
			v.SetMapIndex(k, e)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Field(i).CanSet() {
				fill(r, v.Field(i), depth+1)
			}
		}
	}
}

// TestEqualsLibrary compares both for random objects of every kind.
func TestEqualsLibrary(t *testing.T) {
	types := applyconfigurations.NewTypeConverter(builtin.Scheme())
	done, all := 0, 0
	for _, k := range builtin.Kinds() {
		if k.Virtual {
			continue
		}
		empty := k.New()
		empty.GetObjectKind().SetGroupVersionKind(k.GVK)
		reset := k.ResetFields[""]
		b := ownership.New(types, empty, reset)
		if b == nil {
			t.Logf("%s is left to the library", k.GVK)
			continue
		}
		r := rand.New(rand.NewSource(1))
		for range 300 {
			obj := k.New()
			fill(r, reflect.ValueOf(obj).Elem(), 0)
			obj.GetObjectKind().SetGroupVersionKind(k.GVK)
			obj.SetManagedFields(nil)
			raw, ok := b.Fields(obj)
			all++
			if !ok {
				continue
			}
			want := byLibrary(t, types, empty, obj, reset)
			if string(raw) != want {
				t.Fatalf("%s:\n got %s\nwant %s", k.GVK, raw, want)
			}
			if strings.HasPrefix(want, "error") {
				continue
			}
			done++
		}
	}
	t.Logf("%d of %d objects without the library", done, all)
	if done < all/4 {
		t.Errorf("only %d of %d random objects were done without the library", done, all)
	}
}

func pod() *corev1.Pod {
	p := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}}
	p.Name, p.Namespace, p.UID = "a", "default", "1"
	p.Labels = map[string]string{"app": "bench", "tier": "load", "version": "v1.2.3"}
	p.Spec.Containers = []corev1.Container{{Name: "c", Image: "i", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080, Protocol: "TCP"}}}}
	for _, n := range []string{"LOG_LEVEL", "LISTEN_ADDRESS", "DATABASE_URL", "CACHE_URL", "REGION"} {
		p.Spec.Containers[0].Env = append(p.Spec.Containers[0].Env, corev1.EnvVar{Name: n, Value: "v"})
	}
	p.Status.Phase = corev1.PodPending
	return p
}

// TestPod is what a usual object gets.
func TestPod(t *testing.T) {
	types := applyconfigurations.NewTypeConverter(builtin.Scheme())
	empty := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}}
	raw, ok := ownership.New(types, empty, []string{"status"}).Fields(pod())
	if want := byLibrary(t, types, empty, pod(), []string{"status"}); !ok || string(raw) != want {
		t.Errorf("got %s, %v\nwant %s", raw, ok, want)
	}
}

func BenchmarkPod(b *testing.B) {
	types := applyconfigurations.NewTypeConverter(builtin.Scheme())
	builder := ownership.New(types, &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}}, []string{"status"})
	var obj api.Object = pod()
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := builder.Fields(obj); !ok {
			b.Fatal("left to the library")
		}
	}
}
