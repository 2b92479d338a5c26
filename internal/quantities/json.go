package quantities

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
)

// CheckJSON refuses data, about to be read into a value of the type of into,
// when one of its quantities is out of all bounds. What is no JSON at all is
// left to the decoder.
func CheckJSON(data []byte, into any) error {
	if !suspicious(data, textExponent) {
		return nil
	}
	w := jsonWalk{dec: json.NewDecoder(bytes.NewReader(data)), types: types{}}
	w.dec.UseNumber()
	w.value(plain(reflect.TypeOf(into)), 0)
	return w.refused
}

// jsonWalk follows JSON along a Go type, token by token: of a field that
// comes twice, the decoder reads both.
type jsonWalk struct {
	dec     *json.Decoder
	types   types
	refused error
}

// value reads one value; false ends the walk.
func (w *jsonWalk) value(t reflect.Type, depth int) bool {
	tok, err := w.dec.Token()
	if err != nil || depth > maxDepth {
		return false
	}
	switch tok := tok.(type) {
	case json.Delim:
		switch {
		case t == nil:
			return w.skip()
		case tok == '{':
			return w.object(t, depth)
		default:
			return w.array(t, depth)
		}
	case string:
		return w.leaf(t, tok)
	case json.Number:
		return w.leaf(t, tok.String())
	}
	return true
}

func (w *jsonWalk) leaf(t reflect.Type, s string) bool {
	if t == quantityType {
		w.refused = Check(s)
	}
	return w.refused == nil
}

func (w *jsonWalk) object(t reflect.Type, depth int) bool {
	for w.dec.More() {
		key, err := w.dec.Token()
		if err != nil {
			return false
		}
		name, _ := key.(string)
		if !w.value(w.member(t, name), depth+1) {
			return false
		}
	}
	_, err := w.dec.Token()
	return err == nil
}

func (w *jsonWalk) array(t reflect.Type, depth int) bool {
	for w.dec.More() {
		if !w.value(element(t), depth+1) {
			return false
		}
	}
	_, err := w.dec.Token()
	return err == nil
}

// skip reads up to the end of what has just begun.
func (w *jsonWalk) skip() bool {
	for open := 1; open > 0; {
		tok, err := w.dec.Token()
		if err != nil {
			return false
		}
		switch tok {
		case json.Delim('{'), json.Delim('['):
			open++
		case json.Delim('}'), json.Delim(']'):
			open--
		}
	}
	return true
}

// member is the type of a field or of a map's values.
func (w *jsonWalk) member(t reflect.Type, name string) reflect.Type {
	if t.Kind() != reflect.Struct {
		return element(t)
	}
	fields, ok := w.types[t]
	if !ok {
		fields = map[string]reflect.Type{}
		jsonFields(t, fields)
		w.types[t] = fields
	}
	return fields[name]
}

// jsonFields adds the fields of t, and of the structs that it inlines.
func jsonFields(t reflect.Type, out map[string]reflect.Type) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch ft := plain(f.Type); {
		case name == "-" || !f.IsExported():
		case name != "":
			out[name] = ft
		case f.Anonymous && ft.Kind() == reflect.Struct:
			jsonFields(ft, out)
		default:
			out[f.Name] = ft
		}
	}
}
