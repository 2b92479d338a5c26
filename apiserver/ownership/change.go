package ownership

import (
	"reflect"
	"slices"

	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/value"

	"github.com/proa-dev/proa/api"
)

// shape appends a description of which fields was and is have, and which of
// those in both are equal: all that a comparison says, but for the values. Two
// changes of the same shape do the same to the owners of fields.
func (b *Builder) shape(out []byte, was, is api.Object) (_ []byte, ok bool) {
	x, y := reflect.ValueOf(was), reflect.ValueOf(is)
	if b == nil || x.Kind() != reflect.Pointer || x.Type() != y.Type() || x.IsNil() || y.IsNil() || x.Elem().Type() != b.empty.Type() {
		return out, false
	}
	defer func() {
		switch p := recover().(type) {
		case nil:
		case unusual:
			ok = false
		default:
			panic(p)
		}
	}()
	c := comparison{walker{schema: b.schema, out: out}}
	c.compare(b.root, x.Elem(), y.Elem())
	return c.out, true
}

// comparison walks two values of one Go type; the invalid value is an absent
// one.
type comparison struct{ walker }

// What is known of a value: the last three tell apart what the library does.
const (
	absent = 'a' + iota
	null
	vacant
	filled
)

func (c *comparison) compare(tr schema.TypeRef, was, is reflect.Value) {
	atom, ok := c.schema.Resolve(tr)
	if !ok {
		bail()
	}
	one := is
	if !one.IsValid() {
		one = was
	}
	if e := value.TypeReflectEntryOf(one.Type()); e.CanConvertToUnstructured() {
		if !isLeaf(atom) {
			bail()
		}
		c.leaf(was, is, func() bool { return sameConverted(e, was, is) })
		return
	}
	t := one.Type()
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t.Kind() == reflect.Struct && atom.Map != nil && atom.Map.ElementRelationship != schema.Atomic:
		c.structure(atom.Map, t, was, is)
	case t.Kind() == reflect.Map && atom.Map != nil && atom.Map.ElementRelationship != schema.Atomic:
		c.mapping(atom.Map, was, is)
	case t.Kind() == reflect.Slice && t.Elem().Kind() != reflect.Uint8 && atom.List != nil && atom.List.ElementRelationship != schema.Atomic:
		c.list(atom.List, was, is)
	case t.Kind() == reflect.Interface || t.Kind() == reflect.Pointer:
		bail()
	default:
		c.leaf(was, is, func() bool { return sameValue(was, is) })
	}
}

// sameValue is the library's equality, where an empty list that is left out is
// like none.
func sameValue(was, is reflect.Value) bool {
	if reflect.DeepEqual(was.Interface(), is.Interface()) {
		return true
	}
	switch dereference(is).Kind() {
	case reflect.Struct, reflect.Map, reflect.Slice:
	default:
		return false
	}
	if !was.CanAddr() || !is.CanAddr() {
		bail()
	}
	x, err := value.NewValueReflect(was.Addr().Interface())
	if err != nil {
		bail()
	}
	y, err := value.NewValueReflect(is.Addr().Interface())
	if err != nil {
		bail()
	}
	return value.Equals(x, y)
}

func (c *comparison) leaf(was, is reflect.Value, same func() bool) {
	switch {
	case !was.IsValid():
		c.out = append(c.out, '+')
	case !is.IsValid():
		c.out = append(c.out, '-')
	case same():
		c.out = append(c.out, '=')
	default:
		c.out = append(c.out, '~')
	}
}

func state(v reflect.Value) byte {
	if !v.IsValid() {
		return absent
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return null
		}
		return state(v.Elem())
	case reflect.Map, reflect.Slice:
		if v.IsNil() {
			return null
		}
		if v.Len() == 0 {
			return vacant
		}
	}
	return filled
}

// inside is what v holds, the invalid value where that is nothing.
func inside(v reflect.Value) reflect.Value {
	if s := state(v); s == absent || s == null {
		return reflect.Value{}
	}
	return dereference(v)
}

func (c *comparison) structure(m *schema.Map, t reflect.Type, was, is reflect.Value) {
	c.out = append(c.out, '(', state(was), state(is))
	was, is = inside(was), inside(is)
	for _, f := range value.TypeReflectEntryOf(t).OrderedFields() {
		if f.JsonName == "managedFields" && t == metaType {
			continue
		}
		var x, y reflect.Value
		if was.IsValid() {
			if x = f.GetFrom(was); f.CanOmit(x) {
				x = reflect.Value{}
			}
		}
		if is.IsValid() {
			if y = f.GetFrom(is); f.CanOmit(y) {
				y = reflect.Value{}
			}
		}
		if x.IsValid() || y.IsValid() {
			c.field(m, f.JsonName, x, y)
		}
	}
	c.out = append(c.out, ')')
}

func (c *comparison) field(m *schema.Map, name string, was, is reflect.Value) {
	tr := m.ElementType
	if f, ok := m.FindField(name); ok {
		tr = f.Type
	} else if tr == (schema.TypeRef{}) {
		bail()
	}
	c.name(name)
	c.compare(tr, was, is)
}

func (c *comparison) name(s string) {
	c.out = append(c.out, s...)
	c.out = append(c.out, 0)
}

func (c *comparison) mapping(m *schema.Map, was, is reflect.Value) {
	c.out = append(c.out, '{', state(was), state(is))
	was, is = inside(was), inside(is)
	var keys []string
	for _, v := range []reflect.Value{was, is} {
		if !v.IsValid() {
			continue
		}
		if v.Type().Key().Kind() != reflect.String {
			bail()
		}
		for it := v.MapRange(); it.Next(); {
			keys = append(keys, it.Key().String())
		}
	}
	slices.Sort(keys)
	for _, k := range slices.Compact(keys) {
		var x, y reflect.Value
		if was.IsValid() {
			x = was.MapIndex(reflect.ValueOf(k).Convert(was.Type().Key()))
		}
		if is.IsValid() {
			y = is.MapIndex(reflect.ValueOf(k).Convert(is.Type().Key()))
		}
		c.field(m, k, x, y)
	}
	c.out = append(c.out, '}')
}

func (c *comparison) list(l *schema.List, was, is reflect.Value) {
	c.out = append(c.out, '[', state(was), state(is))
	x, y := c.items(l, inside(was)), c.items(l, inside(is))
	for len(x) > 0 || len(y) > 0 {
		order := 0
		switch {
		case len(x) == 0:
			order = 1
		case len(y) == 0:
			order = -1
		default:
			order = x[0].at.Compare(y[0].at)
		}
		var a, b item
		if order <= 0 {
			a, x = x[0], x[1:]
		}
		if order >= 0 {
			b, y = y[0], y[1:]
		}
		at := a.at
		if order > 0 {
			at = b.at
		}
		key, err := fieldpath.SerializePathElement(at)
		if err != nil {
			bail()
		}
		c.name(key)
		c.compare(l.ElementType, a.value, b.value)
	}
	c.out = append(c.out, ']')
}

// items are the elements of a list, which have a key each, in its order.
func (w *walker) items(l *schema.List, v reflect.Value) []item {
	if !v.IsValid() {
		return nil
	}
	items := make([]item, v.Len())
	for i := range items {
		items[i] = item{w.key(l, v.Index(i)), v.Index(i)}
	}
	slices.SortFunc(items, func(a, b item) int { return a.at.Compare(b.at) })
	for i := 1; i < len(items); i++ {
		if items[i].at.Compare(items[i-1].at) == 0 {
			bail()
		}
	}
	return items
}
