package store

import (
	"encoding/json"
	"fmt"
	"hash/maphash"
	"reflect"
	"strconv"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/internal/apijson"
	"github.com/proa-dev/proa/internal/invariants"
)

// Entry is one object at one revision. Immutable, but for encodings that are
// made when first asked for.
type Entry struct {
	// Key is "namespace/name", or "name" for cluster-scoped resources.
	Key      string
	Object   api.Object // resourceVersion set, TypeMeta set; never mutate
	Revision int64

	// sum and size are of the stored bytes: they tell whether an update
	// changes anything, without keeping the bytes.
	sum    uint64
	size   int32
	leased bool

	json  atomic.Pointer[[]byte]
	proto atomic.Pointer[[]byte]
	seal  uint64 // of the object's content, with invariants
}

// newEntry makes obj, which is no longer the caller's, part of the cache.
func newEntry(key string, obj api.Object, rev int64, stored []byte, leased bool) *Entry {
	obj.SetResourceVersion(strconv.FormatInt(rev, 10))
	e := &Entry{Key: key, Object: obj, Revision: rev, sum: checksum(stored), size: int32(len(stored)), leased: leased}
	if invariants.Enabled {
		e.seal = sealOf(obj)
	}
	return e
}

// at returns the entry with another revision, sharing the object's insides:
// the last state of something deleted carries the deletion's revision.
func (e *Entry) at(rev int64) *Entry {
	obj := shallowCopy(e.Object)
	obj.SetResourceVersion(strconv.FormatInt(rev, 10))
	out := &Entry{Key: e.Key, Object: obj, Revision: rev, sum: e.sum, size: e.size, leased: e.leased}
	if invariants.Enabled {
		out.seal = sealOf(obj)
	}
	return out
}

// shallowCopy copies as much of obj as setting its resourceVersion changes.
func shallowCopy(obj api.Object) api.Object {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		content := make(map[string]any, len(u.Object))
		for k, v := range u.Object {
			content[k] = v
		}
		if meta, ok := content["metadata"].(map[string]any); ok {
			m := make(map[string]any, len(meta))
			for k, v := range meta {
				m[k] = v
			}
			content["metadata"] = m
		}
		return &unstructured.Unstructured{Object: content}
	}
	v := reflect.ValueOf(obj)
	c := reflect.New(v.Elem().Type())
	c.Elem().Set(v.Elem())
	return c.Interface().(api.Object)
}

// JSON returns the object in the stored version, as one line without a
// trailing newline, made at most once.
func (e *Entry) JSON() []byte {
	if b := e.json.Load(); b != nil {
		return *b
	}
	e.verify()
	var data []byte
	var err error
	if u, ok := e.Object.(*unstructured.Unstructured); ok {
		data, err = json.Marshal(u.Object)
	} else {
		data, err = apijson.Marshal(e.Object)
	}
	if err != nil {
		// An API type always marshals; what came from etcd or a request was
		// decoded into it.
		panic(fmt.Sprintf("store: marshal %s: %v", e.Key, err))
	}
	if !e.json.CompareAndSwap(nil, &data) {
		return *e.json.Load()
	}
	return data
}

// Protobuf returns the object in the stored version as the k8s\0 envelope
// with resourceVersion set, made at most once; nil for kinds without a
// protobuf form.
func (e *Entry) Protobuf() []byte {
	if b := e.proto.Load(); b != nil {
		return *b
	}
	e.verify()
	data, err := marshalProtobuf(e.Object)
	if err != nil {
		panic(fmt.Sprintf("store: marshal %s: %v", e.Key, err))
	}
	if data == nil {
		return nil
	}
	if !e.proto.CompareAndSwap(nil, &data) {
		return *e.proto.Load()
	}
	return data
}

var seed = maphash.MakeSeed()

func checksum(data []byte) uint64 { return maphash.Bytes(seed, data) }

func (e *Entry) sameStored(data []byte) bool {
	return int(e.size) == len(data) && e.sum == checksum(data)
}

// verify panics when somebody changed the shared object.
func (e *Entry) verify() {
	if invariants.Enabled && sealOf(e.Object) != e.seal {
		panic(fmt.Sprintf("store: %T %s at revision %d was mutated while it is shared by all readers of the cache",
			e.Object, e.Key, e.Revision))
	}
}

func sealOf(obj api.Object) uint64 {
	data, err := json.Marshal(obj)
	if err != nil {
		panic(fmt.Sprintf("store: marshal %T: %v", obj, err))
	}
	return checksum(data)
}
