package codec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/proa-dev/proa/internal/apijson"
	"github.com/proa-dev/proa/store"
)

// ErrNoProtobuf says that an object has no protobuf form.
var ErrNoProtobuf = errors.New("the object has no protobuf form")

// Marshal writes an object whose kind is set.
func (c *Codec) Marshal(f Format, obj runtime.Object) ([]byte, error) {
	switch f {
	case Protobuf:
		if _, custom := obj.(runtime.Unstructured); custom {
			return nil, ErrNoProtobuf
		}
		var out bytes.Buffer
		if err := c.proto.Encode(obj, &out); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNoProtobuf, err)
		}
		return out.Bytes(), nil
	case YAML:
		data, err := marshalJSON(obj)
		if err != nil {
			return nil, err
		}
		return yaml.JSONToYAML(data)
	}
	return marshalJSON(obj)
}

func marshalJSON(obj runtime.Object) ([]byte, error) {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		return json.Marshal(u.Object)
	}
	return apijson.Marshal(obj)
}

// Entry returns an entry's bytes, which must not be changed.
func (c *Codec) Entry(f Format, e *store.Entry) ([]byte, error) {
	switch f {
	case Protobuf:
		if data := e.Protobuf(); data != nil {
			return data, nil
		}
		return nil, ErrNoProtobuf
	case YAML:
		return yaml.JSONToYAML(e.JSON())
	}
	return e.JSON(), nil
}

// Item is one object of a list, or of a watch: an entry, or an object made
// for this answer.
type Item struct {
	Entry  *store.Entry
	Object runtime.Object
}

func (c *Codec) item(f Format, i Item) ([]byte, error) {
	if i.Entry != nil {
		return c.Entry(f, i.Entry)
	}
	return c.Marshal(f, i.Object)
}

func uvarintLen(n int) int {
	l := 1
	for n >= 0x80 {
		n >>= 7
		l++
	}
	return l
}

// appendTag begins a length-delimited field.
func appendTag(out []byte, field byte, size int) []byte {
	out = append(out, field<<3|2)
	for size >= 0x80 {
		out = append(out, byte(size)|0x80)
		size >>= 7
	}
	return append(out, byte(size))
}

func appendField(out []byte, field byte, data []byte) []byte {
	return append(appendTag(out, field, len(data)), data...)
}

// rawOf returns the object inside of an envelope.
func rawOf(envelope []byte) ([]byte, error) {
	data, ok := bytes.CutPrefix(envelope, protobufMagic)
	if !ok {
		return nil, errors.New("not a protobuf envelope")
	}
	for len(data) > 0 { // the fields of Unknown are all length-delimited
		tag := data[0]
		size, n := readUvarint(data[1:])
		if n == 0 || size > len(data)-1-n {
			return nil, errors.New("broken protobuf envelope")
		}
		body := data[1+n : 1+n+size]
		if tag == 2<<3|2 {
			return body, nil
		}
		data = data[1+n+size:]
	}
	return nil, nil // an object without any field set
}

func readUvarint(data []byte) (value, n int) {
	for i := 0; i < len(data) && i < 5; i++ {
		value |= int(data[i]&0x7f) << (7 * i)
		if data[i] < 0x80 {
			return value, i + 1
		}
	}
	return 0, 0
}

// AppendJSONEvent appends one frame of a watch.
func AppendJSONEvent(out []byte, kind string, object []byte) []byte {
	out = append(out, `{"type":"`...)
	out = append(out, kind...)
	out = append(out, `","object":`...)
	out = append(out, bytes.TrimSuffix(object, []byte("\n"))...)
	return append(out, "}\n"...)
}

// AppendProtobufEvent appends one frame of a watch: four bytes of length, then
// a WatchEvent.
func AppendProtobufEvent(out []byte, kind string, object []byte) []byte {
	raw := 1 + uvarintLen(len(object)) + len(object)
	size := 1 + uvarintLen(len(kind)) + len(kind) + 1 + uvarintLen(raw) + raw
	out = append(out, byte(size>>24), byte(size>>16), byte(size>>8), byte(size))
	out = appendField(out, 1, []byte(kind))
	out = appendTag(out, 2, raw)
	return appendField(out, 1, object)
}

// YAMLOf rewrites JSON as YAML.
func YAMLOf(data []byte) ([]byte, error) { return yaml.JSONToYAML(data) }
