// Package codec reads objects from JSON, YAML and protobuf and writes them,
// one by one or as lists and watch frames joined of bytes that exist already.
package codec

import (
	"errors"
	"fmt"
	"reflect"

	jsonv2 "github.com/go-json-experiment/json"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	kjson "sigs.k8s.io/json"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/internal/quantities"
)

// DecodeJSON reads data into obj, which is empty, and returns the duplicate and
// unknown fields that it met, which are dropped.
//
// A document that a strict reader takes means the same to all readers. So one
// that is fast tries first, and what it finds something wrong with is read by
// upstream's, for upstream's words.
func DecodeJSON(data []byte, obj runtime.Object) (strict []error, err error) {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		if err := quantities.CheckJSON(data, obj); err != nil {
			return nil, err
		}
		if jsonv2.Unmarshal(data, obj, jsonv2.RejectUnknownMembers(true)) == nil {
			return nil, nil
		}
		reflect.ValueOf(obj).Elem().SetZero()
		return kjson.UnmarshalStrict(data, obj)
	}
	content := map[string]any{}
	if strict, err = kjson.UnmarshalStrict(data, &content); err != nil {
		return nil, err
	}
	if content == nil {
		return nil, errors.New("expected an object, got null")
	}
	if meta, ok := content["metadata"]; ok {
		if _, ok := meta.(map[string]any); !ok {
			return nil, fmt.Errorf("json: cannot unmarshal %T into field metadata", meta)
		}
	}
	u.Object = content
	return strict, nil
}

// Coerce brings a custom resource into the form of its schema. unknown are the
// fields that were dropped.
func Coerce(k *api.Kind, obj api.Object) (unknown []error, err error) {
	paths, err := k.Coerce(obj)
	for _, p := range paths {
		unknown = append(unknown, fmt.Errorf(`unknown field "%s"`, p))
	}
	return unknown, err
}
