package handlers

import (
	"io"
	"net/http"
	"time"
)

const (
	// drainAtMost and drainTime bound what is read of a request that is refused.
	drainAtMost = 8 << 20
	drainTime   = time.Second
)

// drain takes what a client still sends of a request that is answered with an
// error. An answer that ends before its request makes HTTP/2 reset the stream,
// and some clients, curl 7 among them, lose the answer with it. Nothing is
// taken from who may not be here, and while there is no room.
func drain(w http.ResponseWriter, r *http.Request, code int) {
	switch {
	case r.ProtoMajor != 2 || r.ContentLength == 0 || r.Body == nil || r.Method == http.MethodConnect,
		code == http.StatusUnauthorized, code == http.StatusTooManyRequests, code == http.StatusServiceUnavailable:
		return
	}
	if http.NewResponseController(w).SetReadDeadline(time.Now().Add(drainTime)) == nil {
		_, _ = io.CopyN(io.Discard, r.Body, drainAtMost) // what fails here harms nobody
	}
}
