package codec_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	kjson "sigs.k8s.io/json"

	"github.com/proa-dev/proa/api/builtin"
	"github.com/proa-dev/proa/apiserver/codec"
	"github.com/proa-dev/proa/internal/apijson"
)

// fill sets about half of v's fields, at random.
func fill(r *rand.Rand, v reflect.Value, depth int) {
	switch p := v.Addr().Interface().(type) {
	case *resource.Quantity:
		*p = resource.MustParse([]string{"1", "100m", "64Mi"}[r.IntN(3)])
		return
	case *metav1.Time:
		*p = metav1.Unix(r.Int64N(1<<31), 0)
		return
	case *metav1.MicroTime:
		*p = metav1.NewMicroTime(metav1.Unix(r.Int64N(1<<31), 5000).Time)
		return
	case *intstr.IntOrString:
		*p = []intstr.IntOrString{intstr.FromInt32(8), intstr.FromString("25%")}[r.IntN(2)]
		return
	case *runtime.RawExtension:
		p.Raw = []byte(`{"a":[1,2.5,null]}`)
		return
	case *metav1.FieldsV1:
		p.Raw = []byte(`{"f:metadata":{}}`)
		return
	case json.Unmarshaler:
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString([]string{"a", "", "ü<&>\u2028\x7f", "null"}[r.IntN(4)])
	case reflect.Bool:
		v.SetBool(r.IntN(2) == 0)
	case reflect.Int32, reflect.Int64, reflect.Int:
		v.SetInt(r.Int64N(1<<31) - 1<<30)
	case reflect.Pointer:
		if depth > 12 { // a schema holds schemas
			return
		}
		v.Set(reflect.New(v.Type().Elem()))
		fill(r, v.Elem(), depth+1)
	case reflect.Slice:
		if depth > 8 {
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), r.IntN(3), 3))
		for i := range v.Len() {
			fill(r, v.Index(i), depth+1)
		}
	case reflect.Map:
		if depth > 12 {
			return
		}
		v.Set(reflect.MakeMap(v.Type()))
		elem := reflect.New(v.Type().Elem()).Elem()
		fill(r, elem, depth+1)
		v.SetMapIndex(reflect.ValueOf("key").Convert(v.Type().Key()), elem)
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() && (depth < 2 || r.IntN(3) == 0) {
				fill(r, v.Field(i), depth+1)
			}
		}
	}
}

// spoil changes a document somewhere: to another type, a null, an unknown
// field, one that is there twice or in another case.
func spoil(r *rand.Rand, doc string) string {
	colons := []int{}
	for i := range doc {
		if doc[i] == ':' && i > 0 && doc[i-1] == '"' {
			colons = append(colons, i)
		}
	}
	if len(colons) == 0 {
		return doc
	}
	at := colons[r.IntN(len(colons))]
	key := doc[strings.LastIndexByte(doc[:at-1], '"'):at]
	before, after := doc[:at+1], doc[at+1:]
	switch r.IntN(9) {
	case 0:
		return before + `null,"unknownField":` + after
	case 1:
		return before + `null,` + key + `:` + after
	case 2:
		return before + `1,"Other":` + after
	case 3:
		return before + `"YQ==\n","other":` + after
	case 4:
		return before + `-0,"other":` + after
	case 5:
		return before + `1e2,"other":` + after
	case 6:
		return before + `[{}],"other":` + after
	case 7:
		return doc[:at-1] + "\xff" + doc[at-1:]
	}
	return strings.Replace(doc, key, strings.ToUpper(key), 1)
}

// What the fast reader takes means what upstream's reader says, and what it
// does not take ends in upstream's words, for every kind.
func TestDecodeJSONAsUpstream(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, k := range builtin.Kinds() {
		if _, custom := k.New().(*unstructured.Unstructured); custom {
			continue
		}
		for range 25 {
			obj := k.New()
			fill(r, reflect.ValueOf(obj).Elem(), 0)
			data, err := json.Marshal(obj)
			if err != nil {
				t.Fatal(k.GVK, err)
			}
			for n := range 4 {
				doc := string(data)
				if n > 0 {
					doc = spoil(r, doc)
				}
				compare(t, k.New(), k.New(), doc)
			}
		}
	}
}

// Objects are written as encoding/json writes them.
func TestMarshalAsEncodingJSON(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, k := range builtin.Kinds() {
		if _, custom := k.New().(*unstructured.Unstructured); custom {
			continue
		}
		for range 25 {
			obj := k.New()
			fill(r, reflect.ValueOf(obj).Elem(), 0)
			obj.SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: "m", FieldsV1: &metav1.FieldsV1{Raw: []byte(managed[r.IntN(len(managed))])}}})
			want, wantErr := json.Marshal(obj)
			got, err := apijson.Marshal(obj)
			if (err == nil) != (wantErr == nil) || string(got) != string(want) {
				t.Errorf("%s is\n%s %v, encoding/json says\n%s %v", k.GVK, got, err, want, wantErr)
			}
		}
	}
}

// managed is what managed fields may hold, well made or not.
var managed = []string{
	`{}`, `{"f:metadata":{"f:labels":{".":{},"f:a":{}}}}`, `{"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:env":{}}}}}`,
	`{ "f:a": {} }`, `{"f:<":{}}`, `{"f:ü":{}}`, `{"f:a":{}}x`, `{"f:a":{},}`, `{"f:a":1}`, `{"f:a":{"v:[1, 2]":{}}}`, `{`, ``, `null`, `"{}"`,
	`{"f:\u003c":{}}`, `{"f:a":{}}{}`, `{,}`, `{"f:a"}`,
}

func compare(t *testing.T, got, want runtime.Object, doc string) {
	t.Helper()
	faults, err := codec.DecodeJSON([]byte(doc), got)
	wantFaults, wantErr := kjson.UnmarshalStrict([]byte(doc), want)
	if fmt.Sprint(err) != fmt.Sprint(wantErr) || !slices.EqualFunc(faults, wantFaults, func(a, b error) bool { return a.Error() == b.Error() }) {
		t.Errorf("%T: %v %v, upstream says %v %v, of\n%s", got, faults, err, wantFaults, wantErr, doc)
	}
	if err == nil && !reflect.DeepEqual(got, want) {
		t.Errorf("%T is\n%+v\nupstream reads\n%+v\nof %s", got, got, want, doc)
	}
}
