package apijson

import (
	"reflect"
	"slices"
	"strings"
)

// fieldPlan is one field of a struct, or of one that is embedded in it.
type fieldPlan struct {
	index []int
	first int    // of index, where that is all of it
	name  []byte // with its quotes and the colon
	skip  func(reflect.Value) bool
	write plan
}

// structPlan leaves structs that are not made as the API's are to encoding/json.
func structPlan(t reflect.Type) plan {
	fields, ok := fieldsOf(t, nil, nil)
	if !ok {
		return standard
	}
	return func(out []byte, v reflect.Value) ([]byte, error) {
		out = append(out, '{')
		any := false
		var err error
		for i := range fields {
			f := &fields[i]
			var fv reflect.Value
			if f.first >= 0 {
				fv = v.Field(f.first)
			} else {
				fv = v.FieldByIndex(f.index)
			}
			if f.skip != nil && f.skip(fv) {
				continue
			}
			if any {
				out = append(out, ',')
			}
			any = true
			if out, err = f.write(append(out, f.name...), fv); err != nil {
				return out, err
			}
		}
		return append(out, '}'), nil
	}
}

// fieldsOf lists t's fields in the order in which they are written.
func fieldsOf(t reflect.Type, index []int, have []fieldPlan) ([]fieldPlan, bool) {
	for i := range t.NumField() {
		f := t.Field(i)
		tag := f.Tag.Get("json")
		if tag == "-" || !f.IsExported() && !f.Anonymous {
			continue
		}
		name, options, _ := strings.Cut(tag, ",")
		at := append(slices.Clone(index), i)
		if f.Anonymous && name == "" {
			if f.Type.Kind() != reflect.Struct || !f.IsExported() || marshals(f.Type) {
				return nil, false
			}
			var ok bool
			if have, ok = fieldsOf(f.Type, at, have); !ok {
				return nil, false
			}
			continue
		}
		if name == "" {
			name = f.Name
		}
		opts := strings.Split(options, ",")
		quoted := append(appendString(nil, name), ':')
		if strings.ContainsAny(name, `"\\<>&' `) || !f.IsExported() || slices.Contains(opts, "string") ||
			slices.ContainsFunc(have, func(o fieldPlan) bool { return string(o.name) == string(quoted) }) {
			return nil, false
		}
		p := fieldPlan{index: at, first: -1, name: quoted, write: planOf(f.Type), skip: skipOf(f.Type, opts)}
		if len(at) == 1 {
			p.first = i
		}
		have = append(have, p)
	}
	return have, true
}

// skipOf says which values are left out, nil for none.
func skipOf(t reflect.Type, opts []string) func(reflect.Value) bool {
	empty, zero := slices.Contains(opts, "omitempty"), slices.Contains(opts, "omitzero")
	isEmpty, isZero := emptyOf(t), zeroOf(t)
	switch {
	case empty && zero && isEmpty != nil:
		return func(v reflect.Value) bool { return isEmpty(v) || isZero(v) }
	case zero:
		return isZero
	case empty:
		return isEmpty
	}
	return nil
}

func emptyOf(t reflect.Type) func(reflect.Value) bool {
	switch t.Kind() {
	case reflect.Array, reflect.Map, reflect.Slice, reflect.String:
		return func(v reflect.Value) bool { return v.Len() == 0 }
	case reflect.Struct:
		return nil
	}
	return reflect.Value.IsZero
}

type zeroer interface{ IsZero() bool }

// zeroOf asks a type that knows what its zero is.
func zeroOf(t reflect.Type) func(reflect.Value) bool {
	if !reflect.PointerTo(t).Implements(reflect.TypeFor[zeroer]()) {
		return reflect.Value.IsZero
	}
	return func(v reflect.Value) bool {
		if !v.CanAddr() {
			held := reflect.New(t).Elem()
			held.Set(v)
			v = held
		}
		if k := t.Kind(); (k == reflect.Pointer || k == reflect.Interface) && v.IsNil() {
			return true
		}
		return v.Addr().Interface().(zeroer).IsZero()
	}
}
