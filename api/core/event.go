package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/proa-dev/proa/api"
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
		CreateOnUpdate: true,

		Fields:     api.FieldsOf(eventFields),
		FieldNames: eventFieldNames,
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
