package builtin_test

import (
	"math"
	"math/rand/v2"
	"reflect"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/builtin"
)

// words are what strings are filled with: some mean something somewhere, so
// that the filled objects get past the first checks; others mean trouble.
var words = []string{
	"", "a", "default", "kube-system", "a/b", "example.com/x", "example.com", "..", "/", "/a/../b", "-", "%", "\x00", "\xff", "ä", "*",
	"0", "1", "-1", "50%", "101%", "1Gi", "cpu", "memory", "pods", "0.5", "9223372036854775808", "limits.cpu", "requests.memory", "hugepages-2Mi",
	"10.0.0.1", "fd00::1", "10.0.0.0/8", "None", "::ffff:1.2.3.4", "300.1.1.1", "*/5 * * * *", "Europe/Berlin",
	"TCP", "UDP", "HTTP", "IPv4", "IPv6", "SingleStack", "PreferDualStack", "ClusterIP", "NodePort", "LoadBalancer", "ExternalName", "Local", "Cluster",
	"Always", "Never", "OnFailure", "IfNotPresent", "Running", "Succeeded", "Pending", "RollingUpdate", "Recreate", "OnDelete", "Indexed", "Delete", "Retain",
	"In", "NotIn", "Exists", "DoesNotExist", "Gt", "Equal", "NoSchedule", "NoExecute", "DoNotSchedule", "ScheduleAnyway", "Honor", "True", "False", "Ready",
	"Container", "Pod", "Resource", "Utilization", "Value", "AverageValue", "Ingress", "Egress", "Exact", "Prefix", "ReadWriteOnce", "Filesystem", "Block",
	"metadata.name", "metadata.labels['a']", "status.podIP", "spec.nodeName", "kubernetes.io/hostname", "kubernetes.io/tls", "Role", "ClusterRole", "User", "Group",
	"ServiceAccount", "rbac.authorization.k8s.io", "BestEffort", "Terminating", "PriorityClass", "linux", "windows", "Unconfined", "Localhost", "RuntimeDefault",
	"foregroundDeletion", "kubernetes", "Guaranteed", "Complete", "Failed", "FailJob", "Ignore", "Count", "Immediate", "WaitForFirstConsumer",
}

var (
	numbers = []int64{0, 0, 1, 1, 2, 3, 80, 443, 30000, 65535, 65536, -1, math.MaxInt32, math.MinInt32, math.MaxInt64, math.MinInt64}
	amounts = []string{"0", "1", "-1", "100m", "1Gi", "1500", "0.0001", "9223372036854775807", "1E30", "-9223372036854775807",
		"1e999", "-1e999", "1e-999", "1" + strings.Repeat("0", 999)} // the most that the codec lets in
	raws = []string{"", "null", "{}", "[]", `{"a":1}`, `"x"`, "{", `{"kind":"Pod","apiVersion":"v1"}`}
)

// filler fills values with what JSON from a stranger could put there.
type filler struct{ *rand.Rand }

func pick[T any](f filler, from []T) T { return from[f.IntN(len(from))] }

// special fills types that mean more than their fields.
func (f filler) special(v reflect.Value) bool {
	switch p := v.Addr().Interface().(type) {
	case *resource.Quantity:
		*p = resource.MustParse(pick(f, amounts))
	case *metav1.Time:
		*p = metav1.Time{}
		if f.IntN(3) > 0 {
			*p = metav1.NewTime(time.Unix(f.Int64N(4e9), 0))
		}
	case *metav1.MicroTime:
		*p = metav1.NewMicroTime(time.Unix(f.Int64N(4e9), 1000))
	case *intstr.IntOrString:
		*p = pick(f, []intstr.IntOrString{intstr.FromInt32(0), intstr.FromInt32(-1), intstr.FromInt32(80), intstr.FromString("50%"), intstr.FromString("http"), {}, {Type: 7}})
	case *runtime.RawExtension:
		p.Raw = []byte(pick(f, raws))
	case *metav1.FieldsV1:
		p.SetRawBytes([]byte(pick(f, raws)))
	case *metav1.TypeMeta:
	default:
		return false
	}
	return true
}

func (f filler) fill(v reflect.Value, depth int) {
	if !v.CanSet() || f.special(v) {
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.SetZero()
		if depth < 12 && f.IntN(3) > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			f.fill(v.Elem(), depth+1)
		}
	case reflect.Slice:
		v.SetZero()
		if n := f.IntN(4) - 1; depth < 12 && n >= 0 {
			v.Set(reflect.MakeSlice(v.Type(), n, n))
			for i := range n {
				f.fill(v.Index(i), depth+1)
			}
		}
	case reflect.Map:
		v.SetZero()
		if n := f.IntN(4) - 1; depth < 12 && n >= 0 {
			v.Set(reflect.MakeMap(v.Type()))
			for range n {
				key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
				f.fill(key, depth+1)
				f.fill(value, depth+1)
				v.SetMapIndex(key, value)
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if f.IntN(4) > 0 { // else it stays as it was
				f.fill(v.Field(i), depth+1)
			}
		}
	case reflect.String:
		v.SetString(pick(f, words))
	case reflect.Bool:
		v.SetBool(f.IntN(2) == 0)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(pick(f, numbers))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(pick(f, numbers)))
	}
}

func (f filler) object(k *api.Kind) api.Object {
	obj := k.New()
	if f.IntN(20) > 0 {
		f.fill(reflect.ValueOf(obj).Elem(), 0)
	}
	return obj
}

// Nothing that a stranger sends may make the functions of a kind panic: they
// run before and after validation, and tables are made of what is stored,
// which another version may have validated.
func TestHostileObjects(t *testing.T) {
	rounds := 120
	if testing.Short() {
		rounds = 20
	}
	for _, k := range builtin.Kinds() {
		t.Run(k.GVR().String(), func(t *testing.T) {
			t.Parallel()
			for i := range rounds {
				if seed := uint64(i); !survives(t, k, seed) {
					t.Fatalf("seed %d", seed)
				}
			}
		})
	}
}

func survives(t *testing.T, k *api.Kind, seed uint64) (ok bool) {
	defer func() {
		if p := recover(); p != nil {
			t.Errorf("%v\n%s", p, debug.Stack())
		}
	}()
	f := filler{rand.New(rand.NewPCG(seed, 1))}
	obj := f.object(k)
	look(k, obj)
	exercise(k, obj, f.object(k))

	// As a client's create, then an update that changes a part.
	created := f.object(k)
	call(k.Default, created)
	call(k.PrepareCreate, created)
	call(k.Default, created)
	exercise(k, created.DeepCopyObject().(api.Object), created)
	changed := created.DeepCopyObject().(api.Object)
	part := reflect.ValueOf(changed).Elem()
	f.fill(part.Field(f.IntN(part.NumField())), 1)
	call(k.Default, changed)
	exercise(k, changed, created)
	look(k, changed)
	for i := range k.Subresources {
		if body := k.Subresources[i].Body; body != nil {
			o := f.object(body)
			call(body.Default, o)
			if body.Validate != nil {
				body.Validate(o)
			}
		}
	}
	return true
}

func call(fn func(api.Object), obj api.Object) {
	if fn != nil {
		fn(obj)
	}
}

// look reads an object as lists and watches do.
func look(k *api.Kind, obj api.Object) {
	for _, c := range k.TableColumns() {
		c.Value(obj)
	}
	if k.Fields != nil {
		k.Fields(obj)
	}
	if k.GracePeriod != nil {
		k.GracePeriod(obj, nil)
	}
	if k.Scale != nil {
		k.Scale.Get(obj)
	}
	if k.ValidateName != nil {
		k.ValidateName(obj.GetName(), false)
	}
}

// exercise writes an object in every way; old is never changed.
func exercise(k *api.Kind, obj, old api.Object) {
	var errs field.ErrorList
	if k.Validate != nil {
		errs = k.Validate(obj)
	}
	if k.Warnings != nil && len(errs) == 0 {
		k.Warnings(obj, nil)
	}
	ways := []*api.Status{{PrepareUpdate: k.PrepareUpdate, ValidateUpdate: k.ValidateUpdate}}
	if k.Status != nil {
		ways = append(ways, k.Status)
	}
	for i := range k.Subresources {
		if u := k.Subresources[i].Update; u != nil {
			ways = append(ways, u)
		}
	}
	for _, w := range ways {
		o := obj.DeepCopyObject().(api.Object)
		if w.PrepareUpdate != nil {
			w.PrepareUpdate(o, old)
		}
		var errs field.ErrorList
		if w.ValidateUpdate != nil {
			errs = w.ValidateUpdate(o, old)
		}
		if k.Warnings != nil && len(errs) == 0 {
			k.Warnings(o, old)
		}
	}
	if s := k.Storage; s != nil {
		if stored, err := s.To(obj); err == nil {
			_, _ = s.From(stored) // an error is as good as an answer
		}
	}
}
