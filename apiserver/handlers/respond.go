package handlers

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/klauspost/compress/gzip"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"

	"github.com/proa-dev/proa/apiserver/codec"
)

const (
	// Answers above this size are compressed for clients that like it; below,
	// the time costs more than the bytes.
	gzipAbove = 128 << 10
	gzipLevel = gzip.BestSpeed
	// smallBody fits the buffer that net/http has for an answer.
	smallBody = 4 << 10
	// chunkSize and the nine bytes of a frame's header fill a TLS record: a
	// frame of the usual size would need a second record, and so a second system
	// call, for its last nine bytes.
	chunkSize = 16<<10 - 9
	// maxWarnings bounds the Warning headers of one answer.
	maxWarnings = 4 << 10
)

// gzipWriters are kept because each has some 800 kB of tables.
var gzipWriters = sync.Pool{New: func() any {
	w, _ := gzip.NewWriterLevel(nil, gzipLevel)
	return w
}}

var chunks = sync.Pool{New: func() any { return new([chunkSize]byte) }}

var newline = []byte("\n")

// WriteError answers with err as a Status.
func WriteError(w http.ResponseWriter, r *http.Request, c *codec.Codec, err error) {
	accepted, _ := codec.Negotiate(r.Header.Get("Accept"), codec.IsKnown)
	status := StatusOf(err)
	drain(w, r, int(status.Code))
	if after := retryAfter(status); after > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(after))
	}
	data, merr := c.Marshal(accepted.Format, status)
	if merr != nil {
		http.Error(w, status.Message, int(status.Code))
		return
	}
	write(w, r, int(status.Code), accepted.Format, data)
}

func retryAfter(s *metav1.Status) int {
	if s.Details == nil {
		return 0
	}
	return int(s.Details.RetryAfterSeconds)
}

// StatusOf makes a whole Status of an error.
func StatusOf(err error) *metav1.Status {
	var known apierrors.APIStatus
	var s metav1.Status
	if errors.As(err, &known) {
		s = known.Status()
	} else {
		s = metav1.Status{Status: metav1.StatusFailure, Message: err.Error(), Reason: metav1.StatusReasonUnknown}
	}
	s.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
	if s.Code == 0 {
		s.Code = http.StatusInternalServerError
		if s.Status == metav1.StatusSuccess {
			s.Code = http.StatusOK
		}
	}
	return &s
}

func notAcceptable() error {
	return accepts(codec.MediaJSON, codec.MediaYAML, codec.MediaProtobuf)
}

// notStreamed is the 406 of a watch in a format whose documents have no bounds.
func notStreamed() error {
	return accepts(codec.MediaJSON+";stream=watch", codec.MediaProtobuf+";stream=watch")
}

func accepts(media ...string) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusNotAcceptable, Reason: metav1.StatusReasonNotAcceptable,
		Message: "only the following media types are accepted: " + strings.Join(media, ", "),
	}}
}

func (c *call) fail(err error) { WriteError(c.w, c.r, c.cfg.Codec, err) }

// object answers with one object whose kind is set.
func (c *call) object(code int, obj runtime.Object) error {
	data, err := c.cfg.Codec.Marshal(c.accept.Format, obj)
	if errors.Is(err, codec.ErrNoProtobuf) {
		return notAcceptable()
	}
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	c.write(code, data)
	return nil
}

func (c *call) write(code int, data []byte) { write(c.w, c.r, code, c.accept.Format, data) }

// write sends a body that is one JSON line, YAML or protobuf. data is shared.
func write(w http.ResponseWriter, r *http.Request, code int, f codec.Format, data []byte) {
	parts := codec.Parts{data}
	if f == codec.JSON && (len(data) == 0 || data[len(data)-1] != '\n') {
		parts = codec.Parts{data, newline}
	}
	writeParts(w, r, code, f, parts)
}

// writeParts sends a body in pieces. A JSON body ends with a newline.
func writeParts(w http.ResponseWriter, r *http.Request, code int, f codec.Format, parts codec.Parts) {
	h := w.Header()
	h["Content-Type"] = contentTypes[f]
	h["Cache-Control"] = noCache
	if f == codec.JSON && pretty(r) {
		parts = indented(parts)
	}
	size := parts.Size()
	if size > gzipAbove && strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Encoding", "gzip")
		h.Add("Vary", "Accept-Encoding")
		w.WriteHeader(code)
		z := gzipWriters.Get().(*gzip.Writer)
		defer gzipWriters.Put(z)
		z.Reset(w)
		if send(z, parts, size) == nil { // else the client has gone
			_ = z.Close()
		}
		return
	}
	h["Content-Length"] = []string{strconv.Itoa(size)}
	w.WriteHeader(code)
	if r.Method == http.MethodHead {
		return
	}
	_ = send(w, parts, size)
}

// send writes a body so that each write is a frame. Small pieces are joined.
func send(w io.Writer, parts codec.Parts, size int) error {
	if size <= smallBody {
		for _, p := range parts {
			if _, err := w.Write(p); err != nil {
				return err
			}
		}
		return nil
	}
	chunk := chunks.Get().(*[chunkSize]byte)
	defer chunks.Put(chunk)
	n := 0
	for _, p := range parts {
		for len(p) > 0 {
			if n == 0 && len(p) >= chunkSize {
				if _, err := w.Write(p[:chunkSize]); err != nil {
					return err
				}
				p = p[chunkSize:]
				continue
			}
			k := copy(chunk[n:], p)
			n, p = n+k, p[k:]
			if n < chunkSize {
				break
			}
			if _, err := w.Write(chunk[:]); err != nil {
				return err
			}
			n = 0
		}
	}
	_, err := w.Write(chunk[:n])
	return err
}

// indented is a body for human eyes.
func indented(parts codec.Parts) codec.Parts {
	var out bytes.Buffer
	if json.Indent(&out, bytes.TrimSuffix(parts.Join(), newline), "", "  ") != nil {
		return parts
	}
	return codec.Parts{out.Bytes(), newline}
}

// Header values that every answer shares; net/http does not change them.
var (
	contentTypes = map[codec.Format][]string{
		codec.JSON: {codec.MediaJSON}, codec.YAML: {codec.MediaYAML}, codec.Protobuf: {codec.MediaProtobuf},
	}
	noCache = []string{"no-cache, private"}
)

// pretty says whether the answer is for human eyes.
func pretty(r *http.Request) bool {
	if strings.Contains(r.URL.RawQuery, "pretty") {
		switch v := r.URL.Query(); {
		case !v.Has("pretty"):
		case v.Get("pretty") == "false" || v.Get("pretty") == "0":
			return false
		default:
			return true
		}
	}
	agent := r.Header.Get("User-Agent")
	return strings.HasPrefix(agent, "curl") || strings.HasPrefix(agent, "Wget") || strings.HasPrefix(agent, "Mozilla/5.0")
}

// warnings puts warnings into the header of the answer.
type warnings struct {
	header http.Header
	mu     sync.Mutex
	seen   map[string]bool
	size   int
}

// AddWarning implements warning.Recorder.
func (w *warnings) AddWarning(agent, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if text == "" || w.seen[text] || w.size+len(text) > maxWarnings {
		return
	}
	if agent == "" {
		agent = "-"
	}
	line, err := utilnet.NewWarningHeader(299, agent, text)
	if err != nil {
		return // control characters in the text: nothing that a header can carry
	}
	if w.seen == nil {
		w.seen = map[string]bool{}
	}
	w.seen[text] = true
	w.size += len(text)
	w.header.Add("Warning", line)
}
