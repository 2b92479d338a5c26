package customresources

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"sync"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/util/jsonpath"

	"github.com/proa-dev/proa/api"
)

// path is a JSON path. A parsed one keeps state while it walks, so everybody who
// reads takes one of their own.
type path struct{ parsed sync.Pool }

func newPath(text string) *path {
	return &path{parsed: sync.Pool{New: func() any {
		p := jsonpath.New("path").AllowMissingKeys(true)
		if err := p.Parse("{" + text + "}"); err != nil {
			return (*jsonpath.JSONPath)(nil) // validated, but by a laxer server
		}
		return p
	}}}
}

// find returns the first value at the path.
func (p *path) find(u *unstructured.Unstructured) (value any, ok bool) {
	parsed := p.parsed.Get().(*jsonpath.JSONPath)
	if parsed == nil {
		return nil, false
	}
	defer p.parsed.Put(parsed)
	results, err := parsed.FindResults(u.Object)
	if err != nil || len(results) == 0 || len(results[0]) == 0 {
		return nil, false
	}
	return results[0][0].Interface(), true
}

// print writes a value that find found.
func (p *path) print(value any) (string, bool) {
	parsed := p.parsed.Get().(*jsonpath.JSONPath)
	defer p.parsed.Put(parsed)
	var out bytes.Buffer
	err := parsed.PrintResults(&out, []reflect.Value{reflect.ValueOf(value)})
	return out.String(), err == nil
}

// columns are those that the definition asks for; without any: the age.
func columns(v *apiextensionsv1.CustomResourceDefinitionVersion) []api.Column {
	var out []api.Column
	for _, c := range v.AdditionalPrinterColumns {
		text := c.Description
		if text == "" {
			text = "Custom resource definition column (in JSONPath format): " + c.JSONPath
		}
		at := newPath(c.JSONPath)
		out = append(out, api.Column{
			TableColumnDefinition: metav1.TableColumnDefinition{Name: c.Name, Type: c.Type, Format: c.Format, Description: text, Priority: c.Priority},
			Value: func(o api.Object) any {
				value, ok := at.find(o.(*unstructured.Unstructured))
				switch {
				case !ok, value == nil && c.Type != "string":
					return nil
				case c.Type != "string":
					return cell(c.Type, value)
				}
				if text, ok := at.print(value); ok {
					return text
				}
				return nil
			},
		})
	}
	return out
}

// cell is a value as a column of a type has it, nil where it does not fit.
func cell(typ string, value any) any {
	switch typ {
	case "integer":
		switch n := value.(type) {
		case int64:
			return n
		case float64:
			return int64(n)
		case json.Number:
			if i, err := n.Int64(); err == nil {
				return i
			}
		}
	case "number":
		switch n := value.(type) {
		case int64:
			return float64(n)
		case float64:
			return n
		case json.Number:
			if f, err := n.Float64(); err == nil {
				return f
			}
		}
	case "boolean":
		if b, ok := value.(bool); ok {
			return b
		}
	case "date":
		if s, ok := value.(string); ok {
			var t metav1.Time
			if err := t.UnmarshalQueryParameter(s); err != nil {
				return "<invalid>"
			}
			return api.HumanAge(t)
		}
	}
	return nil
}

// selectable are the fields that lists may select by.
func selectable(v *apiextensionsv1.CustomResourceDefinitionVersion) (names []string, of func(api.Object) fields.Set) {
	if len(v.SelectableFields) == 0 {
		return nil, nil
	}
	var paths []*path
	for _, f := range v.SelectableFields {
		names, paths = append(names, strings.TrimPrefix(f.JSONPath, ".")), append(paths, newPath(f.JSONPath))
	}
	return names, func(o api.Object) fields.Set {
		out := fields.Set{}
		for i, at := range paths {
			out[names[i]] = ""
			if value, ok := at.find(o.(*unstructured.Unstructured)); ok && value != nil {
				out[names[i]] = fmt.Sprint(value)
			}
		}
		return out
	}
}
