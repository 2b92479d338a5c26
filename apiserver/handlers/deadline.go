package handlers

import (
	"context"
	"net/http"
	"sync"
	"time"
)

// writeGrace is what remains to send an answer when its time is over.
const writeGrace = 2 * time.Second

// Bound makes writes of the answer fail soon after ctx has ended, and reads of
// the request's body, if it has one, at once: else a client that does not read,
// or whose body trickles in, would hold its request for ever, and who holds as
// many as may run at a time would shut out everybody. The function returned is
// to be called before the handler ends.
func Bound(ctx context.Context, w http.ResponseWriter, body bool) (done func()) {
	control := http.NewResponseController(w)
	var mu sync.Mutex // a ResponseWriter must not be touched once its handler has ended
	ended := false
	stop := context.AfterFunc(ctx, func() {
		mu.Lock()
		defer mu.Unlock()
		if ended {
			return
		}
		_ = control.SetWriteDeadline(time.Now().Add(writeGrace)) // a connection without deadlines is one of a test
		if body {
			_ = control.SetReadDeadline(time.Now())
		}
	})
	return func() {
		if stop() {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		ended = true
		_ = control.SetWriteDeadline(time.Time{}) // the connection goes on to other requests
	}
}
