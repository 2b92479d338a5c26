// Package events holds the kinds of the group events.k8s.io, v1: the core
// group's events under newer field names, over the same storage.
package events

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/core"
	"github.com/proa-dev/proa/api/validate"
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
		Columns:        core.EventColumns(stored),
		CreateOnUpdate: true,
		Storage: &api.Conversion{
			Kind: corev1.SchemeGroupVersion.WithKind("Event"),
			To:   toCore,
			From: fromCore,
		},
		Validate:       api.Check(validateEvent),
		ValidateUpdate: api.CheckUpdate(validateEventUpdate),
		Fields:         api.FieldsOf(eventFields),
		FieldNames:     eventFieldNames,
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

// stored is e as core/v1. Causes name the fields of that version, as
// upstream's do.
func stored(e *eventsv1.Event) *corev1.Event {
	o, err := toCore(e)
	if err != nil {
		// toCore fails for other types alone.
		return &corev1.Event{}
	}
	return o.(*corev1.Event)
}

func validateEvent(e *eventsv1.Event) field.ErrorList {
	errs := core.ValidateEvent(stored(e))
	errs = append(errs, validateSeries(e.Series)...)
	if e.EventTime.IsZero() {
		errs = append(errs, field.Required(field.NewPath("eventTime"), ""))
	}
	if e.Type != corev1.EventTypeNormal && e.Type != corev1.EventTypeWarning {
		errs = append(errs, field.Invalid(field.NewPath("type"), "", fmt.Sprintf("has invalid value: %v", e.Type)))
	}
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"firstTimestamp", !e.DeprecatedFirstTimestamp.IsZero()},
		{"lastTimestamp", !e.DeprecatedLastTimestamp.IsZero()},
		{"count", e.DeprecatedCount != 0},
		{"source", e.DeprecatedSource != (corev1.EventSource{})},
	} {
		if f.set {
			errs = append(errs, field.Invalid(field.NewPath(f.name), "", "needs to be unset"))
		}
	}
	return errs
}

func validateSeries(s *eventsv1.EventSeries) field.ErrorList {
	if s == nil {
		return nil
	}
	var errs field.ErrorList
	if s.Count < 2 {
		errs = append(errs, field.Invalid(field.NewPath("series.count"), "", "should be at least 2"))
	}
	if s.LastObservedTime.IsZero() {
		errs = append(errs, field.Required(field.NewPath("series.lastObservedTime"), ""))
	}
	return errs
}

// validateEventUpdate allows the series alone to change.
func validateEventUpdate(e, old *eventsv1.Event) field.ErrorList {
	errs := core.ValidateEvent(stored(e))
	if !equality.Semantic.DeepEqual(e.Series, old.Series) {
		errs = append(errs, validateSeries(e.Series)...)
	}
	for _, f := range []struct {
		name    string
		is, was any
	}{
		{"involvedObject", e.Regarding, old.Regarding},
		{"reason", e.Reason, old.Reason},
		{"message", e.Note, old.Note},
		{"source", e.DeprecatedSource, old.DeprecatedSource},
		{"firstTimestamp", e.DeprecatedFirstTimestamp, old.DeprecatedFirstTimestamp},
		{"lastTimestamp", e.DeprecatedLastTimestamp, old.DeprecatedLastTimestamp},
		{"count", e.DeprecatedCount, old.DeprecatedCount},
		{"type", e.Type, old.Type},
		{"eventTime", e.EventTime, old.EventTime},
		{"action", e.Action, old.Action},
		{"related", e.Related, old.Related},
		{"reportingController", e.ReportingController, old.ReportingController},
		{"reportingInstance", e.ReportingInstance, old.ReportingInstance},
	} {
		errs = append(errs, validate.Unchanged(field.NewPath(f.name), f.is, f.was)...)
	}
	return errs
}
