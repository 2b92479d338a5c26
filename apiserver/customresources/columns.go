package customresources

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/util/jsonpath"

	"github.com/proa-dev/proa/api"
)

// find returns the first value at a JSON path, and a way to print it. A path is
// parsed for each use: a parsed one keeps state while it walks.
func find(path string, u *unstructured.Unstructured) (value any, show func() (string, error), ok bool) {
	p := jsonpath.New("path").AllowMissingKeys(true)
	if err := p.Parse("{" + path + "}"); err != nil {
		return nil, nil, false
	}
	results, err := p.FindResults(u.Object)
	if err != nil || len(results) == 0 || len(results[0]) == 0 {
		return nil, nil, false
	}
	value = results[0][0].Interface()
	return value, func() (string, error) {
		var out bytes.Buffer
		err := p.PrintResults(&out, []reflect.Value{reflect.ValueOf(value)})
		return out.String(), err
	}, true
}

// columns are those that the definition asks for; without any: the age.
func columns(v *apiextensionsv1.CustomResourceDefinitionVersion) []api.Column {
	var out []api.Column
	for _, c := range v.AdditionalPrinterColumns {
		text := c.Description
		if text == "" {
			text = "Custom resource definition column (in JSONPath format): " + c.JSONPath
		}
		out = append(out, api.Column{
			TableColumnDefinition: metav1.TableColumnDefinition{Name: c.Name, Type: c.Type, Format: c.Format, Description: text, Priority: c.Priority},
			Value: func(o api.Object) any {
				value, show, ok := find(c.JSONPath, o.(*unstructured.Unstructured))
				if !ok || value == nil && c.Type != "string" {
					return nil
				}
				if c.Type != "string" {
					return cell(c.Type, value)
				}
				if text, err := show(); err == nil {
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
	for _, f := range v.SelectableFields {
		names = append(names, strings.TrimPrefix(f.JSONPath, "."))
	}
	return names, func(o api.Object) fields.Set {
		out := fields.Set{}
		for i, f := range v.SelectableFields {
			out[names[i]] = ""
			if value, _, ok := find(f.JSONPath, o.(*unstructured.Unstructured)); ok && value != nil {
				out[names[i]] = fmt.Sprint(value)
			}
		}
		return out
	}
}
