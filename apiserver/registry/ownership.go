package registry

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"hash"
	"io"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/proa-dev/proa/api"
)

// ownership remembers how the owners of fields came out of writes.
//
// Who owns what after a write follows from three things alone: who owned what
// before, who writes, and which fields differ: not from their values, but where
// these are keys of a list. The pods of a ReplicaSet, heartbeats, counters that
// go up: nearly all writes are of a shape that was seen before, and then the
// answer is a lookup instead of a comparison by schema.
type ownership struct {
	mu    sync.Mutex
	known map[shape][]ownedBy
}

// maxShapes bounds what is remembered; then it begins anew.
const maxShapes = 4096

type shape [sha256.Size]byte

// ownedBy is an entry of the outcome. from is the index among the entries
// before the write whose time it keeps, -1 for the time of the write.
type ownedBy struct {
	entry metav1.ManagedFieldsEntry
	from  int
}

func (o *ownership) get(s shape) ([]ownedBy, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	out, ok := o.known[s]
	return out, ok
}

func (o *ownership) put(s shape, owners []ownedBy) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.known == nil || len(o.known) >= maxShapes {
		o.known = map[shape][]ownedBy{}
	}
	o.known[s] = owners
}

// remember derives from the outcome of one write that of others of its shape.
func remember(before, after []metav1.ManagedFieldsEntry, manager, subresource string) []ownedBy {
	out := make([]ownedBy, len(after))
	for i, e := range after {
		out[i] = ownedBy{entry: e, from: -1}
		out[i].entry.Time = nil
		if e.Manager == manager && e.Operation == metav1.ManagedFieldsOperationUpdate && e.Subresource == subresource {
			// Its time is that of the write, unless the write changed nothing.
			if j := slices.IndexFunc(before, func(b metav1.ManagedFieldsEntry) bool { return sameEntry(b, e) }); j < 0 || !e.Time.Equal(before[j].Time) {
				continue
			}
		}
		out[i].from = slices.IndexFunc(before, func(b metav1.ManagedFieldsEntry) bool {
			return b.Manager == e.Manager && b.Operation == e.Operation && b.APIVersion == e.APIVersion && b.Subresource == e.Subresource
		})
	}
	return out
}

// recall makes the entries of a write of a known shape. What they list is
// shared among the objects of that shape.
func recall(owners []ownedBy, before []metav1.ManagedFieldsEntry, now time.Time) []metav1.ManagedFieldsEntry {
	if len(owners) == 0 {
		return nil
	}
	out := make([]metav1.ManagedFieldsEntry, len(owners))
	for i, o := range owners {
		out[i] = o.entry
		if o.from >= 0 {
			out[i].Time = before[o.from].Time.DeepCopy()
		} else {
			out[i].Time = &metav1.Time{Time: now}
		}
	}
	slices.SortFunc(out, func(a, b metav1.ManagedFieldsEntry) int {
		return cmp.Or(cmp.Compare(a.Operation, b.Operation), cmp.Compare(seconds(a.Time), seconds(b.Time)),
			cmp.Compare(a.Manager, b.Manager), cmp.Compare(a.APIVersion, b.APIVersion), cmp.Compare(a.Subresource, b.Subresource))
	})
	return out
}

func seconds(t *metav1.Time) int64 {
	if t == nil {
		return 0
	}
	return t.Unix()
}

// shaper hashes what decides on ownership.
type shaper struct {
	hash.Hash
	failed bool
}

// shapeOf returns the shape of a write that leads from one object to another,
// which are thin. False means that it has none.
func shapeOf(k *api.Kind, subresource, manager string, before []metav1.ManagedFieldsEntry, was, is api.Object) (shape, bool) {
	s := &shaper{Hash: sha256.New()}
	s.text(k.GVK.String(), subresource, manager)
	for _, e := range before {
		s.text(e.Manager, string(e.Operation), e.APIVersion, e.Subresource)
		if e.FieldsV1 != nil {
			s.text(string(e.FieldsV1.Raw))
		}
	}
	a, b := reflect.ValueOf(was), reflect.ValueOf(is)
	if a.Type() != b.Type() || a.Kind() != reflect.Pointer || a.Elem().Kind() != reflect.Struct {
		return shape{}, false
	}
	s.structs(a.Elem(), b.Elem())
	var out shape
	s.Sum(out[:0])
	return out, !s.failed
}

// text adds strings so that no two sequences look alike.
func (s *shaper) text(parts ...string) {
	for _, p := range parts {
		_, _ = io.WriteString(s, strconv.Itoa(len(p)))
		_, _ = io.WriteString(s, ":")
		_, _ = io.WriteString(s, p)
	}
}

func (s *shaper) structs(a, b reflect.Value) {
	t := a.Type()
	for i := range t.NumField() {
		fa, fb := a.Field(i), b.Field(i)
		if fa.IsZero() && fb.IsZero() || t.Field(i).Name == "ManagedFields" {
			continue
		}
		s.text("f", strconv.Itoa(i))
		s.values(fa, fb)
	}
	s.text("}")
}

// scalars are written as one value whose presence alone counts.
var scalars = map[string]bool{"Time": true, "MicroTime": true, "Duration": true, "Quantity": true, "IntOrString": true}

func (s *shaper) values(a, b reflect.Value) {
	t := a.Type()
	switch t.Kind() {
	case reflect.String, reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Float32, reflect.Float64:
		s.presence(!a.IsZero(), !b.IsZero())
	case reflect.Pointer:
		s.presence(!a.IsNil(), !b.IsNil())
		if e := t.Elem(); e.Kind() == reflect.Struct && !scalars[e.Name()] && (!a.IsNil() || !b.IsNil()) {
			s.values(elemOrZero(a), elemOrZero(b))
		}
	case reflect.Struct:
		switch {
		case scalars[t.Name()]:
			s.presence(!a.IsZero(), !b.IsZero())
		case reflect.PointerTo(t).Implements(marshaler):
			s.whole(a, b)
		default:
			s.structs(a, b)
		}
	case reflect.Map:
		s.maps(a, b)
	default:
		s.whole(a, b)
	}
}

var marshaler = reflect.TypeFor[json.Marshaler]()

func elemOrZero(v reflect.Value) reflect.Value {
	if v.IsNil() {
		return reflect.Zero(v.Type().Elem())
	}
	return v.Elem()
}

func (s *shaper) presence(a, b bool) {
	s.text(strconv.FormatBool(a), strconv.FormatBool(b))
}

// maps of scalars count by their keys and which of the values differ.
func (s *shaper) maps(a, b reflect.Value) {
	e := a.Type().Elem()
	if a.Type().Key().Kind() != reflect.String || e.Kind() != reflect.String && e.Name() != "Quantity" {
		s.whole(a, b)
		return
	}
	s.presence(!a.IsNil(), !b.IsNil())
	var lines []string
	for it := a.MapRange(); it.Next(); {
		other := b.MapIndex(it.Key())
		switch {
		case !other.IsValid():
			lines = append(lines, it.Key().String()+"-")
		case equalValues(it.Value(), other):
			lines = append(lines, it.Key().String()+"=")
		default:
			lines = append(lines, it.Key().String()+"~")
		}
	}
	for it := b.MapRange(); it.Next(); {
		if !a.MapIndex(it.Key()).IsValid() {
			lines = append(lines, it.Key().String()+"+")
		}
	}
	slices.Sort(lines)
	s.text(lines...)
	s.text("]")
}

// whole counts the values themselves.
func (s *shaper) whole(a, b reflect.Value) {
	for _, v := range []reflect.Value{a, b} {
		data, err := json.Marshal(v.Interface())
		if err != nil {
			s.failed = true
			return
		}
		s.text(string(bytes.TrimSpace(data)))
	}
}
