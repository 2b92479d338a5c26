// Package events holds the kinds of the group events.k8s.io, v1: the core
// group's events under newer field names, over the same storage.
package events

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/proa-dev/proa/api"
)

// Kinds lists the kinds of the group.
func Kinds() []*api.Kind { return []*api.Kind{Event()} }

// Event is the kind of events.
func Event() *api.Kind {
	return &api.Kind{
		GVK:            eventsv1.SchemeGroupVersion.WithKind("Event"),
		Resource:       "events",
		ShortNames:     []string{"ev"},
		Namespaced:     true,
		New:            api.Maker[eventsv1.Event](),
		NewList:        api.ListMaker[eventsv1.EventList](),
		StoragePath:    "events",
		CreateOnUpdate: true,
		Storage: &api.Conversion{
			Kind: corev1.SchemeGroupVersion.WithKind("Event"),
			To:   toCore,
			From: fromCore,
		},
		Fields:     api.FieldsOf(eventFields),
		FieldNames: eventFieldNames,
	}
}

var eventFieldNames = []string{
	"regarding.kind", "regarding.namespace", "regarding.name", "regarding.uid", "regarding.apiVersion",
	"regarding.resourceVersion", "regarding.fieldPath", "reason", "reportingController", "type",
}

func eventFields(e *eventsv1.Event) fields.Set {
	return fields.Set{
		"regarding.kind":            e.Regarding.Kind,
		"regarding.namespace":       e.Regarding.Namespace,
		"regarding.name":            e.Regarding.Name,
		"regarding.uid":             string(e.Regarding.UID),
		"regarding.apiVersion":      e.Regarding.APIVersion,
		"regarding.resourceVersion": e.Regarding.ResourceVersion,
		"regarding.fieldPath":       e.Regarding.FieldPath,
		"reason":                    e.Reason,
		"reportingController":       e.ReportingController,
		"type":                      e.Type,
	}
}

func toCore(o api.Object) (api.Object, error) {
	e, ok := o.(*eventsv1.Event)
	if !ok {
		return nil, fmt.Errorf("converting %T: not an events.k8s.io/v1 Event", o)
	}
	out := &corev1.Event{
		ObjectMeta:          e.ObjectMeta,
		InvolvedObject:      e.Regarding,
		Reason:              e.Reason,
		Message:             e.Note,
		Source:              e.DeprecatedSource,
		FirstTimestamp:      e.DeprecatedFirstTimestamp,
		LastTimestamp:       e.DeprecatedLastTimestamp,
		Count:               e.DeprecatedCount,
		Type:                e.Type,
		EventTime:           e.EventTime,
		Action:              e.Action,
		Related:             e.Related,
		ReportingController: e.ReportingController,
		ReportingInstance:   e.ReportingInstance,
	}
	out.APIVersion, out.Kind = "v1", "Event"
	if e.Series != nil {
		out.Series = &corev1.EventSeries{Count: e.Series.Count, LastObservedTime: e.Series.LastObservedTime}
	}
	return out, nil
}

func fromCore(o api.Object) (api.Object, error) {
	e, ok := o.(*corev1.Event)
	if !ok {
		return nil, fmt.Errorf("converting %T: not a v1 Event", o)
	}
	out := &eventsv1.Event{
		ObjectMeta:               e.ObjectMeta,
		Regarding:                e.InvolvedObject,
		Reason:                   e.Reason,
		Note:                     e.Message,
		DeprecatedSource:         e.Source,
		DeprecatedFirstTimestamp: e.FirstTimestamp,
		DeprecatedLastTimestamp:  e.LastTimestamp,
		DeprecatedCount:          e.Count,
		Type:                     e.Type,
		EventTime:                e.EventTime,
		Action:                   e.Action,
		Related:                  e.Related,
		ReportingController:      e.ReportingController,
		ReportingInstance:        e.ReportingInstance,
	}
	out.APIVersion, out.Kind = "events.k8s.io/v1", "Event"
	if e.Series != nil {
		out.Series = &eventsv1.EventSeries{Count: e.Series.Count, LastObservedTime: e.Series.LastObservedTime}
	}
	return out, nil
}
