// Package recorder writes events through any client. client-go's correlator
// counts repeated events and bounds floods.
package recorder

import (
	"context"
	"errors"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Recorder hands out event recorders. Events are written while Run runs;
// those that come earlier are lost.
type Recorder struct {
	writer      client.Writer
	scheme      *runtime.Scheme
	host        string
	broadcaster record.EventBroadcaster
}

// New returns a recorder that writes through w. host, if not empty, is the
// node that events name as their source's.
func New(w client.Writer, scheme *runtime.Scheme, host string) *Recorder {
	return &Recorder{writer: w, scheme: scheme, host: host, broadcaster: record.NewBroadcaster()}
}

// For returns the event recorder of a component.
func (r *Recorder) For(component string) record.EventRecorder {
	return r.broadcaster.NewRecorder(r.scheme, corev1.EventSource{Component: component, Host: r.host})
}

// Run writes events until ctx ends.
func (r *Recorder) Run(ctx context.Context) {
	defer r.broadcaster.Shutdown()
	w := r.broadcaster.StartRecordingToSink(&sink{ctx: ctx, writer: r.writer})
	defer w.Stop()
	<-ctx.Done()
}

// sink implements record.EventSink, which has no contexts.
type sink struct {
	ctx    context.Context
	writer client.Writer
}

// Create implements record.EventSink.
func (s *sink) Create(event *corev1.Event) (*corev1.Event, error) {
	out := event.DeepCopy()
	return out, ended(s.writer.Create(s.ctx, out))
}

// ended gives the refusal of an event in a namespace that has just gone the
// form of one in a namespace that is about to go: client-go takes the latter
// alone for the normal course.
func ended(err error) error {
	var refused *apierrors.StatusError
	if !apierrors.IsNotFound(err) || !errors.As(err, &refused) || refused.ErrStatus.Details == nil || refused.ErrStatus.Details.Kind != "namespaces" {
		return err
	}
	out := *refused
	details := *refused.ErrStatus.Details
	details.Causes = append(slices.Clone(details.Causes), metav1.StatusCause{Type: corev1.NamespaceTerminatingCause, Message: "the namespace is gone"})
	out.ErrStatus.Details = &details
	return &out
}

// Update implements record.EventSink.
func (s *sink) Update(event *corev1.Event) (*corev1.Event, error) {
	out := event.DeepCopy()
	return out, s.writer.Update(s.ctx, out)
}

// Patch implements record.EventSink.
func (s *sink) Patch(event *corev1.Event, data []byte) (*corev1.Event, error) {
	out := event.DeepCopy()
	return out, s.writer.Patch(s.ctx, out, client.RawPatch(types.StrategicMergePatchType, data))
}
