// Package typeschema knows how the fields of built-in types merge: which lists
// are sets or maps, which values are taken as a whole. Server-side apply and
// the record of who owns which field are built on it.
//
// client-go carries the same schema as YAML that takes some 150 ms to parse,
// half of a server's start. schema.json.gz is that schema, written by this
// package's test (go test -run TestSchema -update), which also compares the two.
package typeschema

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"encoding/json"
	"fmt"
	"sync"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
)

//go:embed schema.json.gz
var packed []byte

// extra is what client-go leaves out, for it has no clients of those groups.
//
//go:embed extra.yaml
var extra string

// Converter is a type converter for the types of scheme. The schema is
// unpacked in the background; the first use waits for it.
func Converter(scheme *runtime.Scheme) managedfields.TypeConverter {
	c := &converter{load: sync.OnceValues(func() (managedfields.TypeConverter, error) {
		p, err := parser()
		if err != nil {
			return nil, err
		}
		more, err := typed.NewParser(typed.YAMLObject(extra))
		if err != nil {
			return nil, fmt.Errorf("read the schema of extra types: %w", err)
		}
		p.Schema.Types = append(p.Schema.Types, more.Schema.Types...)
		return managedfields.NewSchemeTypeConverter(scheme, p), nil
	})}
	go func() { _, _ = c.load() }() // ends by itself; an error shows at every use
	return c
}

type converter struct {
	load func() (managedfields.TypeConverter, error)
}

func parser() (*typed.Parser, error) {
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("unpack the type schema: %w", err)
	}
	p := &typed.Parser{}
	var nodes []typeNode
	if err := json.NewDecoder(z).Decode(&nodes); err != nil {
		return nil, fmt.Errorf("read the type schema: %w", err)
	}
	p.Schema.Types = unpackTypes(nodes)
	return p, nil
}

// ObjectToTyped implements managedfields.TypeConverter.
func (c *converter) ObjectToTyped(obj runtime.Object, opts ...typed.ValidationOptions) (*typed.TypedValue, error) {
	tc, err := c.load()
	if err != nil {
		return nil, err
	}
	return tc.ObjectToTyped(obj, opts...)
}

// TypedToObject implements managedfields.TypeConverter.
func (c *converter) TypedToObject(value *typed.TypedValue) (runtime.Object, error) {
	tc, err := c.load()
	if err != nil {
		return nil, err
	}
	return tc.TypedToObject(value)
}
