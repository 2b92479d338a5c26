package handlers

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/proa-dev/proa/apiserver/codec"
	"github.com/proa-dev/proa/apiserver/registry"
	"github.com/proa-dev/proa/apiserver/table"
	"github.com/proa-dev/proa/store"
)

const (
	// A watch without a timeout lasts between one and two times this long, so
	// that clients do not come back all at once.
	minWatch = 30 * time.Minute
	// flushAt is how many bytes of events are joined before they are sent.
	flushAt = 256 << 10
)

// watchTimeout is how long a watch lasts; one whose time is negative ends as
// soon as it is open.
func watchTimeout(opts *metav1.ListOptions) time.Duration {
	if opts.TimeoutSeconds != nil && *opts.TimeoutSeconds < 0 {
		return 0
	}
	if opts.TimeoutSeconds != nil && *opts.TimeoutSeconds > 0 && *opts.TimeoutSeconds < 1<<31 {
		return time.Duration(*opts.TimeoutSeconds) * time.Second
	}
	return time.Duration(float64(minWatch) * (1 + rand.Float64()))
}

func (c *call) watch(ctx context.Context) error {
	opts, err := c.query.listOptions()
	if err != nil {
		return err
	}
	if c.accept.As == "PartialObjectMetadataList" {
		return notAcceptable()
	}
	if c.accept.Format == codec.YAML {
		return notStreamed()
	}
	include, err := c.include()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	timeout := watchTimeout(opts)
	if timeout > 0 {
		defer time.AfterFunc(timeout, cancel).Stop()
	}
	enc := &eventEncoder{call: c, include: include}
	w, err := c.cfg.Registry.Watch(ctx, c.target, opts)
	switch {
	case apierrors.IsResourceExpired(err):
		enc.failed = err // told in the stream, as clients of upstream expect
	case err != nil:
		return err
	default:
		enc.watch = w
		defer w.Stop()
		w.BePatient()
	}
	if timeout <= 0 {
		cancel()
	}
	go func() { // ends with the request, if not with the server
		select {
		case <-c.stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	if isWebSocket(c.r) {
		return c.watchWebSocket(ctx, cancel, enc)
	}
	defer Bound(ctx, c.w, false)()
	c.stream(ctx, enc)
	return nil
}

// stream sends events until the watch ends. There is no way to report an
// error once the header is out; clients begin again at the last version.
func (c *call) stream(ctx context.Context, enc *eventEncoder) {
	media := c.accept.Format.MediaType()
	if c.accept.Format == codec.Protobuf {
		media += ";stream=watch"
	}
	h := c.w.Header()
	h.Set("Content-Type", media)
	h["Cache-Control"] = noCache
	c.w.WriteHeader(http.StatusOK)
	control := http.NewResponseController(c.w)
	if control.Flush() != nil {
		return
	}
	var frames []byte
	for {
		events, err := enc.next(ctx)
		for _, ev := range events {
			frames = enc.append(frames, ev)
			if len(frames) < flushAt {
				continue
			}
			if _, err := c.w.Write(frames); err != nil {
				return
			}
			frames = frames[:0]
		}
		if len(frames) > 0 {
			if _, err := c.w.Write(frames); err != nil || control.Flush() != nil {
				return
			}
			frames = frames[:0]
			if cap(frames) > 2*flushAt {
				frames = nil
			}
		}
		if err != nil {
			return
		}
	}
}

// eventEncoder turns a watch's events into frames.
type eventEncoder struct {
	*call
	watch   *registry.Watch
	failed  error // instead of a watch
	include table.Include
	buf     []store.Event
}

func (e *eventEncoder) next(ctx context.Context) ([]store.Event, error) {
	if e.failed != nil {
		return []store.Event{{Type: watch.Error, Err: e.failed}}, io.EOF
	}
	events, err := e.watch.Next(ctx, e.buf)
	e.buf = events
	if err != nil && !errors.Is(err, io.EOF) && ctx.Err() == nil {
		events = append(events, store.Event{Type: watch.Error, Err: err})
	}
	return events, err
}

// append adds the frame of one event.
func (e *eventEncoder) append(out []byte, ev store.Event) []byte {
	kind := string(ev.Type)
	data, err := e.encode(ev)
	if err != nil {
		kind = string(watch.Error)
		if data, err = e.cfg.Codec.Marshal(e.accept.Format, StatusOf(err)); err != nil {
			return out
		}
	}
	if e.accept.Format == codec.Protobuf {
		return codec.AppendProtobufEvent(out, kind, data)
	}
	return codec.AppendJSONEvent(out, kind, data)
}

func (e *eventEncoder) encode(ev store.Event) ([]byte, error) {
	c := e.cfg.Codec
	switch ev.Type {
	case watch.Error:
		return c.Marshal(e.accept.Format, StatusOf(ev.Err))
	case watch.Bookmark:
		return e.bookmark(ev)
	}
	if e.watch.Convert == nil && e.accept.As == "" {
		return c.Entry(e.accept.Format, ev.Entry)
	}
	obj := ev.Entry.Object
	if e.watch.Convert != nil {
		var err error
		if obj, err = e.watch.Convert(obj); err != nil {
			return nil, apierrors.NewInternalError(err)
		}
	}
	switch e.accept.As {
	case "Table":
		return c.Marshal(e.accept.Format, e.versioned(table.Of(e.target.Kind, obj, metav1.ListMeta{ResourceVersion: obj.GetResourceVersion()}, e.include)))
	case "PartialObjectMetadata":
		return c.Marshal(e.accept.Format, e.versioned(table.Partial(obj)))
	}
	return c.Marshal(e.accept.Format, obj)
}

// bookmark is an object with nothing but a version.
func (e *eventEncoder) bookmark(ev store.Event) ([]byte, error) {
	obj := e.target.Kind.New()
	obj.GetObjectKind().SetGroupVersionKind(e.target.Kind.GVK)
	obj.SetResourceVersion(strconv.FormatInt(ev.Revision, 10))
	if ev.InitialEnd {
		obj.SetAnnotations(map[string]string{metav1.InitialEventsAnnotationKey: "true"})
	}
	switch e.accept.As {
	case "Table":
		return e.cfg.Codec.Marshal(e.accept.Format, e.versioned(table.Mark(obj)))
	case "PartialObjectMetadata":
		return e.cfg.Codec.Marshal(e.accept.Format, e.versioned(table.Partial(obj)))
	}
	return e.cfg.Codec.Marshal(e.accept.Format, obj)
}
