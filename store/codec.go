package store

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	kjson "sigs.k8s.io/json"

	"github.com/proa-dev/proa/api"
)

// magic begins a protobuf envelope.
var magic = []byte("k8s\x00")

// protoMessage is what the generated API types can do.
type protoMessage interface {
	Reset()
	Marshal() ([]byte, error)
	Unmarshal([]byte) error
}

// maxNested is how deep an object in JSON may be nested. Readers go to 10,000:
// the owners of fields are nested a little deeper than these, and lists and
// events around objects.
const maxNested = 9990

// nestedDeeper says whether JSON is nested deeper than limit.
func nestedDeeper(data []byte, limit int) bool {
	if len(data) <= 2*limit { // each step takes two bytes
		return false
	}
	depth, quoted := 0, false
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case c == '"':
			quoted = !quoted
		case quoted:
			if c == '\\' {
				i++
			}
		case c == '{' || c == '[':
			if depth++; depth > limit {
				return true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return false
}

// encode makes the bytes to be stored. It clears obj's resourceVersion and
// sets its type: obj is the store's from here on.
func encode(k *api.Kind, obj api.Object) ([]byte, error) {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		if u.Object == nil {
			return nil, errors.New("the object is empty")
		}
		// Custom resources keep the version they are in: a CRD's stored
		// version may have changed since.
		if u.GetAPIVersion() == "" || u.GetKind() == "" {
			u.SetGroupVersionKind(k.GVK)
		}
		unstructured.RemoveNestedField(u.Object, "metadata", "resourceVersion")
		data, err := json.Marshal(u.Object)
		if err == nil && nestedDeeper(data, maxNested) {
			return nil, apierrors.NewBadRequest("the object is nested too deep to be read again")
		}
		return data, err
	}
	obj.SetResourceVersion("")
	obj.GetObjectKind().SetGroupVersionKind(k.GVK)
	data, err := marshalProtobuf(obj)
	if err != nil {
		return nil, err
	}
	if data == nil {
		return json.Marshal(obj)
	}
	return data, nil
}

// sizedMessage is what they can do besides: write themselves into a buffer of
// the right size, from its end.
type sizedMessage interface {
	Size() int
	MarshalToSizedBuffer([]byte) (int, error)
}

// marshalProtobuf returns the envelope, nil for types without protobuf. It is
// what upstream's serializer writes, in one piece of memory.
func marshalProtobuf(obj api.Object) ([]byte, error) {
	if _, ok := obj.(protoMessage); !ok {
		return nil, nil
	}
	m, ok := obj.(sizedMessage)
	if !ok {
		var buf bytes.Buffer
		err := protobuf.NewSerializer(nil, nil).Encode(obj, &buf)
		return buf.Bytes(), err
	}
	apiVersion, kind := obj.GetObjectKind().GroupVersionKind().ToAPIVersionAndKind()
	typeMeta, err := (&runtime.TypeMeta{APIVersion: apiVersion, Kind: kind}).Marshal()
	if err != nil {
		return nil, err
	}
	size := m.Size()
	out := make([]byte, 0, len(magic)+2*(1+binary.MaxVarintLen32)+len(typeMeta)+size+len(envelopeEnd))
	out = append(out, magic...)
	out = append(out, 1<<3|2)
	out = binary.AppendUvarint(out, uint64(len(typeMeta)))
	out = append(out, typeMeta...)
	out = append(out, 2<<3|2)
	out = binary.AppendUvarint(out, uint64(size))
	raw := out[len(out) : len(out)+size]
	if n, err := m.MarshalToSizedBuffer(raw); err != nil || n != size {
		return nil, fmt.Errorf("%T is of %d bytes, not %d: %w", obj, n, size, err)
	}
	return append(out[:len(out)+size], envelopeEnd...), nil
}

// envelopeEnd are the content encoding and type, which are always there.
var envelopeEnd = []byte{3<<3 | 2, 0, 4<<3 | 2, 0}

// decode reads what is stored as an object of k, converting it where another
// version was stored.
func decode(k *api.Kind, lookup func(schema.GroupVersionKind) *api.Kind, data []byte) (api.Object, error) {
	var gvk schema.GroupVersionKind
	var fill func(api.Object) error
	switch {
	case bytes.HasPrefix(data, magic):
		var unk runtime.Unknown
		if err := unk.Unmarshal(data[len(magic):]); err != nil {
			return nil, fmt.Errorf("envelope: %w", err)
		}
		if unk.ContentEncoding != "" {
			return nil, fmt.Errorf("content encoding %q is unknown", unk.ContentEncoding)
		}
		gvk = unk.GroupVersionKind()
		fill = func(obj api.Object) error {
			m, ok := obj.(protoMessage)
			if !ok {
				return fmt.Errorf("%T has no protobuf form", obj)
			}
			return m.Unmarshal(unk.Raw)
		}
	case len(data) > 0 && data[0] == '{':
		var head struct {
			Kind       string `json:"kind"`
			APIVersion string `json:"apiVersion"`
		}
		if err := json.Unmarshal(data, &head); err != nil {
			return nil, err
		}
		gvk = schema.FromAPIVersionAndKind(head.APIVersion, head.Kind)
		fill = func(obj api.Object) error {
			if u, ok := obj.(*unstructured.Unstructured); ok {
				return kjson.UnmarshalCaseSensitivePreserveInts(data, &u.Object)
			}
			return kjson.UnmarshalCaseSensitivePreserveInts(data, obj)
		}
	default:
		return nil, errors.New("neither protobuf nor JSON (is it encrypted?)")
	}
	return decodeAs(k, lookup, gvk, fill)
}

func decodeAs(k *api.Kind, lookup func(schema.GroupVersionKind) *api.Kind, gvk schema.GroupVersionKind, fill func(api.Object) error) (api.Object, error) {
	from := k
	obj := k.New()
	_, custom := obj.(*unstructured.Unstructured)
	if !custom && gvk != k.GVK {
		from = nil
		if lookup != nil {
			from = lookup(gvk)
		}
		if from == nil || from.Storage == nil || from.Storage.Kind != k.GVK {
			return nil, fmt.Errorf("stored as %s, which cannot be read as %s", gvk, k.GVK)
		}
		obj = from.New()
	}
	if err := fill(obj); err != nil {
		return nil, err
	}
	if !custom {
		obj.GetObjectKind().SetGroupVersionKind(gvk)
	} else if k.Read != nil {
		k.Read(obj)
	}
	if from == k {
		return obj, nil
	}
	obj, err := from.Storage.To(obj)
	if err != nil {
		return nil, fmt.Errorf("convert %s to %s: %w", gvk, k.GVK, err)
	}
	obj.GetObjectKind().SetGroupVersionKind(k.GVK)
	return obj, nil
}
