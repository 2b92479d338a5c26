package core

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/validate"
)

// Event is the kind of events. They are stored in this version; package
// events serves the same ones as events.k8s.io.
func Event() *api.Kind {
	return &api.Kind{
		GVK:            gvk("Event"),
		Resource:       "events",
		ShortNames:     []string{"ev"},
		Namespaced:     true,
		New:            api.Maker[corev1.Event](),
		NewList:        api.ListMaker[corev1.EventList](),
		StoragePath:    "events",
		Columns:        EventColumns(func(e *corev1.Event) *corev1.Event { return e }),
		CreateOnUpdate: true,

		Validate:       api.Check(ValidateEvent),
		ValidateUpdate: api.CheckUpdate(func(e, _ *corev1.Event) field.ErrorList { return ValidateEvent(e) }),
		Fields:         api.FieldsOf(eventFields),
		FieldNames:     eventFieldNames,
	}
}

var eventFieldNames = []string{
	"involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid",
	"involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath",
	"reason", "reportingComponent", "source", "type",
}

func eventFields(e *corev1.Event) fields.Set {
	source := e.Source.Component
	if source == "" {
		source = e.ReportingController
	}
	return fields.Set{
		"involvedObject.kind":            e.InvolvedObject.Kind,
		"involvedObject.namespace":       e.InvolvedObject.Namespace,
		"involvedObject.name":            e.InvolvedObject.Name,
		"involvedObject.uid":             string(e.InvolvedObject.UID),
		"involvedObject.apiVersion":      e.InvolvedObject.APIVersion,
		"involvedObject.resourceVersion": e.InvolvedObject.ResourceVersion,
		"involvedObject.fieldPath":       e.InvolvedObject.FieldPath,
		"reason":                         e.Reason,
		"reportingComponent":             e.ReportingController,
		"source":                         source,
		"type":                           e.Type,
	}
}

const (
	maxEventWord = 128
	maxEventNote = 1024
)

// ValidateEvent checks an event in its stored version. Events that carry an
// eventTime were written by newer clients and must be whole.
func ValidateEvent(e *corev1.Event) field.ErrorList {
	var errs field.ErrorList
	about := field.NewPath("involvedObject", "namespace")
	const mismatch = "does not match event.namespace"
	if ns := e.InvolvedObject.Namespace; e.EventTime.IsZero() {
		if (ns == "" && e.Namespace != metav1.NamespaceNone && e.Namespace != metav1.NamespaceDefault) ||
			(ns != "" && ns != e.Namespace) {
			errs = append(errs, field.Invalid(about, ns, mismatch))
		}
	} else {
		if ns == "" && e.Namespace != metav1.NamespaceDefault && e.Namespace != metav1.NamespaceSystem {
			errs = append(errs, field.Invalid(about, ns, mismatch))
		}
		errs = append(errs, validateNewEvent(e)...)
	}
	return append(errs, validate.Subdomain(field.NewPath("namespace"), e.Namespace)...)
}

func validateNewEvent(e *corev1.Event) field.ErrorList {
	var errs field.ErrorList
	controller := field.NewPath("reportingController")
	errs = append(errs, validate.Required(controller, e.ReportingController)...)
	errs = append(errs, validate.QualifiedName(controller, e.ReportingController)...)
	for _, f := range []struct{ name, value string }{
		{"reportingInstance", e.ReportingInstance}, {"action", e.Action}, {"reason", e.Reason},
	} {
		errs = append(errs, validate.Required(field.NewPath(f.name), f.value)...)
		if len(f.value) > maxEventWord {
			errs = append(errs, field.Invalid(field.NewPath(f.name), "", fmt.Sprintf("can have at most %v characters", maxEventWord)))
		}
	}
	if len(e.Message) > maxEventNote {
		errs = append(errs, field.Invalid(field.NewPath("message"), "", fmt.Sprintf("can have at most %v characters", maxEventNote)))
	}
	return errs
}
