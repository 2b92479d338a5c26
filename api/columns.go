package api

import (
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
)

// Col is a column that kubectl always shows. typ is "string", "integer",
// "number", "boolean" or "date".
func Col[P Object](name, typ, description string, value func(P) any) Column {
	return Column{
		TableColumnDefinition: metav1.TableColumnDefinition{Name: name, Type: typ, Description: description},
		Value:                 func(o Object) any { return value(o.(P)) },
	}
}

// WideCol is a column that kubectl shows with -o wide alone.
func WideCol[P Object](name, typ, description string, value func(P) any) Column {
	c := Col(name, typ, description, value)
	c.Priority = 1
	return c
}

// NameColumn is the column of names that every kind has.
func NameColumn() Column {
	return Column{
		TableColumnDefinition: metav1.TableColumnDefinition{
			Name: "Name", Type: "string", Format: "name",
			Description: "Name is unique within a namespace and is required when creating resources.",
		},
		Value: func(o Object) any { return o.GetName() },
	}
}

// AgeColumn is the time since an object was created.
func AgeColumn() Column {
	return Column{
		TableColumnDefinition: metav1.TableColumnDefinition{
			Name: "Age", Type: "string", Description: "Time since the object was created.",
		},
		Value: func(o Object) any { return HumanAge(o.GetCreationTimestamp()) },
	}
}

// CreatedColumn is the creation time as RFC 3339, for kinds whose table shows
// the time itself.
func CreatedColumn() Column {
	return Column{
		TableColumnDefinition: metav1.TableColumnDefinition{
			Name: "Created At", Type: "date", Description: "Time at which the object was created.",
		},
		Value: func(o Object) any { return o.GetCreationTimestamp().UTC().Format(time.RFC3339) },
	}
}

// TableColumns returns the kind's whole table: Columns with the name before
// them (unless one of them has the format "name" itself, as Events have it
// last), or name and age where the kind names no columns.
func (k *Kind) TableColumns() []Column {
	if k.Columns == nil {
		return []Column{NameColumn(), AgeColumn()}
	}
	for _, c := range k.Columns {
		if c.Format == "name" {
			return k.Columns
		}
	}
	return append([]Column{NameColumn()}, k.Columns...)
}

// Now is the time that preparations stamp objects with. Together with HumanAge
// it is all that looks at the clock here.
func Now() metav1.Time { return metav1.Now() }

// HumanAge says how long ago a time was, as kubectl shows it: "5m", "3d4h".
func HumanAge(t metav1.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(time.Since(t.Time))
}

// Shortened joins the first n of a list and says how many more there are.
func Shortened(list []string, n int) string {
	if len(list) <= n {
		return strings.Join(list, ",")
	}
	return fmt.Sprintf("%s + %d more...", strings.Join(list[:n], ","), len(list)-n)
}
