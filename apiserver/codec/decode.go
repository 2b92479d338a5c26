package codec

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"reflect"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"sigs.k8s.io/yaml"

	"github.com/proa-dev/proa/internal/quantities"
)

// Codec knows the Go types of protobuf bodies.
type Codec struct {
	scheme *runtime.Scheme
	proto  *protobuf.Serializer
}

// New returns a codec for the scheme's types.
func New(scheme *runtime.Scheme) *Codec {
	return &Codec{scheme: scheme, proto: protobuf.NewSerializer(scheme, scheme)}
}

// BodyFormat reads a Content-Type; "" is JSON.
func BodyFormat(contentType string) (Format, error) {
	if contentType == "" || contentType == MediaJSON {
		return JSON, nil
	}
	media, _, err := mime.ParseMediaType(contentType)
	if err == nil {
		switch media {
		case MediaJSON:
			return JSON, nil
		case MediaYAML, "text/yaml", "application/x-yaml":
			return YAML, nil
		case MediaProtobuf:
			return Protobuf, nil
		}
	}
	return 0, UnsupportedMediaType(MediaJSON, MediaYAML, MediaProtobuf)
}

// UnsupportedMediaType is the 415 for a body that is of none of the accepted types.
func UnsupportedMediaType(accepted ...string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusUnsupportedMediaType, Reason: metav1.StatusReasonUnsupportedMediaType,
		Message: "the body of the request was in an unknown format - accepted media types include: " + strings.Join(accepted, ", "),
	}}
}

// Decode reads a body into obj, whose kind want is used where the body names
// none. strict are duplicate and unknown fields, which are dropped.
func (c *Codec) Decode(f Format, data []byte, obj runtime.Object, want schema.GroupVersionKind) (strict []error, err error) {
	switch f {
	case Protobuf:
		if _, custom := obj.(runtime.Unstructured); custom {
			return nil, unreadable(f, want, data, fmt.Errorf("custom resources have no protobuf form"))
		}
		if err := c.decodeProto(data, obj, want); err != nil {
			return nil, unreadable(f, want, data, err)
		}
	case YAML:
		var faults []error
		if err := yaml.UnmarshalStrict(data, &map[string]any{}); err != nil {
			faults = append(faults, fmt.Errorf("yaml: %w", err))
		}
		asJSON, err := yaml.YAMLToJSON(data)
		if err != nil {
			return nil, unreadable(f, want, data, err)
		}
		if strict, err = DecodeJSON(asJSON, obj); err != nil {
			return nil, unreadable(f, want, data, err)
		}
		strict = append(faults, strict...)
	default:
		if strict, err = DecodeJSON(data, obj); err != nil {
			return nil, unreadable(f, want, data, err)
		}
	}
	kind := obj.GetObjectKind()
	switch have := kind.GroupVersionKind(); {
	case have == want:
	case have.Empty():
		kind.SetGroupVersionKind(want)
	case have.Kind == "":
		kind.SetGroupVersionKind(have.GroupVersion().WithKind(want.Kind))
	case have.Version == "" && have.Group == "":
		kind.SetGroupVersionKind(want.GroupVersion().WithKind(have.Kind))
	}
	return strict, nil
}

// decodeProto reads a message, which is of the type that the envelope names.
// Only that of obj is read: the messages of some types hold one another, and one
// that is nested a hundred thousand times is more than the stack of a goroutine,
// which would be the end of the process.
func (c *Codec) decodeProto(data []byte, obj runtime.Object, want schema.GroupVersionKind) error {
	var body runtime.Unknown
	if _, _, err := c.proto.Decode(data, nil, &body); err != nil {
		return err
	}
	named := body.GroupVersionKind()
	if named.Version == "" && named.Group == "" {
		named.Group, named.Version = want.Group, want.Version
	}
	named.Kind = cmp.Or(named.Kind, want.Kind)
	if named != want {
		other, err := c.scheme.New(named)
		if err != nil {
			return err
		}
		if reflect.TypeOf(other) != reflect.TypeOf(obj) {
			return errors.New("the message is of another type")
		}
	}
	if quantities.SuspectProto(body.Raw) {
		if err := quantities.CheckProto(body.Raw, obj); err != nil {
			return err
		}
	}
	message, ok := obj.(interface {
		Reset()
		Unmarshal([]byte) error
	})
	if !ok {
		return ErrNoProtobuf
	}
	message.Reset()
	if err := message.Unmarshal(body.Raw); err != nil {
		return err
	}
	obj.GetObjectKind().SetGroupVersionKind(named)
	return nil
}

// unreadable is the 400 for a body that is no such object. One that names no
// kind is taken for the wanted one.
func unreadable(f Format, want schema.GroupVersionKind, data []byte, err error) error {
	body := data
	if f == YAML {
		if asJSON, broken := yaml.YAMLToJSON(data); broken == nil {
			f, body = JSON, asJSON
		}
	}
	if f == JSON {
		have, unclear := json.DefaultMetaFactory.Interpret(body)
		if unclear == nil {
			return apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v",
				cmp.Or(have.Kind, want.Kind), cmp.Or(have.Version, want.Version), want.Kind, err))
		}
		err = unclear
	}
	return apierrors.NewBadRequest(fmt.Sprintf("the object provided is unrecognized (must be of type %s): %v (%s)", want.Kind, err, summary(data)))
}

// summary is the beginning of a body, in hexadecimal where it is no JSON object.
func summary(data []byte) string {
	if len(data) == 0 {
		return "<empty>"
	}
	head, more := data, ""
	if len(data) > 30 {
		head, more = data[:30], " ..."
	}
	if data[0] == '{' {
		return string(bytes.ToValidUTF8(head, nil)) + more
	}
	return hex.EncodeToString(head) + more
}
