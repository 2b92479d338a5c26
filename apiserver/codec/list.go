package codec

import (
	"bytes"
	"encoding/json"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Parts is a body in pieces. Most are shared with other readers: a list costs
// no copy of its items. They must not be changed.
type Parts [][]byte

// Size is the length of the whole.
func (p Parts) Size() int {
	n := 0
	for _, part := range p {
		n += len(part)
	}
	return n
}

// Join makes one piece.
func (p Parts) Join() []byte { return bytes.Join(p, nil) }

// What stands between the items of a list. An item without its kind begins
// behind the brace that comes before that.
var (
	comma      = []byte(",")
	brace      = []byte("{")
	commaBrace = []byte(",{")
	listEnd    = []byte("]}\n")
)

// JSONListHead is what comes before the items of a list; gvk is that of the list.
func JSONListHead(gvk schema.GroupVersionKind, meta metav1.ListMeta) ([]byte, error) {
	head, err := json.Marshal(struct {
		Kind       string          `json:"kind"`
		APIVersion string          `json:"apiVersion"`
		Metadata   metav1.ListMeta `json:"metadata"`
	}{gvk.Kind, gvk.GroupVersion().String(), meta})
	if err != nil {
		return nil, err
	}
	return append(head[:len(head)-1], `,"items":[`...), nil
}

// JSONListItems joins items into the rest of a list. custom says that items
// name their kind each, as those of custom resources do.
func (c *Codec) JSONListItems(gvk schema.GroupVersionKind, items []Item, custom bool) (Parts, error) {
	var typeMeta []byte
	if !custom {
		typeMeta = fmt.Appendf(nil, `{"kind":%q,"apiVersion":%q,`, gvk.Kind, gvk.GroupVersion().String())
	}
	out := make(Parts, 0, 2*len(items)+1)
	for i, it := range items {
		data, err := c.item(JSON, it)
		if err != nil {
			return nil, err
		}
		rest, cut := bytes.CutPrefix(data, typeMeta)
		switch {
		case custom || !cut:
			if i > 0 {
				out = append(out, comma)
			}
			out = append(out, data)
		case i > 0:
			out = append(out, commaBrace, rest)
		default:
			out = append(out, brace, rest)
		}
	}
	return append(out, listEnd), nil
}

// protobufMagic begins every protobuf envelope.
var protobufMagic = []byte{'k', '8', 's', 0}

// ProtobufList joins items into a list. Every list type has its metadata as
// field 1 and its items as field 2.
func (c *Codec) ProtobufList(gvk schema.GroupVersionKind, meta metav1.ListMeta, items []Item) (Parts, error) {
	head, err := meta.Marshal()
	if err != nil {
		return nil, err
	}
	const tags = 8 // the most that a tag and a length take
	out := make(Parts, 1, 2*len(items)+2)
	frames := make([]byte, 0, tags*len(items))
	size := 1 + uvarintLen(len(head)) + len(head)
	for _, it := range items {
		envelope, err := c.item(Protobuf, it)
		if err != nil {
			return nil, err
		}
		raw, err := rawOf(envelope)
		if err != nil {
			return nil, err
		}
		start := len(frames)
		frames = appendTag(frames, 2, len(raw))
		out = append(out, frames[start:len(frames):len(frames)], raw)
		size += len(frames) - start + len(raw)
	}
	typeMeta, err := (&runtime.TypeMeta{APIVersion: gvk.GroupVersion().String(), Kind: gvk.Kind + "List"}).Marshal()
	if err != nil {
		return nil, err
	}
	first := append([]byte{}, protobufMagic...)
	first = appendField(first, 1, typeMeta)
	first = appendTag(first, 2, size)
	out[0] = appendField(first, 1, head)
	// Upstream always writes the envelope's contentEncoding and contentType.
	return append(out, []byte{0x1a, 0, 0x22, 0}), nil
}
