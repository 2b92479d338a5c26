package apiserver

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"net/http"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

// serveHTTP2 makes srv speak HTTP/2 over connections that keep the head of an
// answer for its body, and small credits for whatever follows. The library
// flushes each by itself, so that a plain answer would be two or three TLS
// records, and as many system calls here and at the client.
//
//nolint:staticcheck // net/http's own HTTP/2 serves no connections but crypto/tls's
func serveHTTP2(srv *http.Server) error {
	conf := &http2.Server{MaxUploadBufferPerConnection: uploadWindow}
	if err := http2.ConfigureServer(srv, conf); err != nil {
		return err
	}
	srv.TLSNextProto[http2.NextProtoTLS] = func(srv *http.Server, c *tls.Conn, h http.Handler) {
		// How net/http hands the context of a connection to its HTTP/2 server.
		var ctx context.Context
		if b, ok := h.(interface{ BaseContext() context.Context }); ok {
			ctx = b.BaseContext()
		}
		roomy := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			growStack(0)
			h.ServeHTTP(w, r)
		})
		conf.ServeConn(&wholeAnswers{Conn: c}, &http2.ServeConnOpts{Context: ctx, Handler: roomy, BaseConfig: srv})
	}
	return nil
}

// growStack makes room on the stack of a request's goroutine, which the library
// starts anew each time: while the stack is short, one copy of it costs nothing;
// grown step by step, in the depth of a request, it is a tenth of its work.
//
// The stack grows where the function begins. The room would be cleared where it
// is declared, which costs as much again: nobody gets there.
//
//go:noinline
func growStack(n int) byte {
	if n == 0 {
		return 0
	}
	var room [12 << 10]byte
	return room[n%len(room)]
}

const (
	// headWaits is how long the head of an answer waits for its body: a watch
	// may have none for long.
	headWaits = time.Millisecond
	// closeTimeout is how long a head may take to go out at the end.
	closeTimeout = time.Second
	// maxHead is the longest head that waits.
	maxHead = 1 << 10
	// maxTogether bounds what is copied to go out at once.
	maxTogether = 16 << 10
	// uploadWindow is how much a client may send over one connection before it
	// is told that more was read, and maxCredit how much of that waits to be
	// told: a client is never left with less than the rest.
	uploadWindow = 1 << 20
	maxCredit    = uploadWindow / 16
)

// wholeAnswers is a connection whose writes are HTTP/2 frames.
type wholeAnswers struct {
	*tls.Conn
	mu     sync.Mutex
	held   []byte // what waits: credits, and at most one head among them
	credit uint32 // how much the held credits are worth
	head   bool   // whether a head waits, and the timer runs
	timer  *time.Timer
	err    error // of a head that went out alone
}

// Write implements net.Conn.
func (c *wholeAnswers) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	if credit, ok := connectionCredit(p); ok && c.credit+credit <= maxCredit {
		c.credit += credit
		c.held = append(c.held, p...)
		return len(p), nil
	}
	if !c.head && endsInHead(p) {
		c.head = true
		c.held = append(c.held, p...)
		if c.timer == nil {
			c.timer = time.AfterFunc(headWaits, c.alone)
		} else {
			c.timer.Reset(headWaits)
		}
		return len(p), nil
	}
	if len(c.held) == 0 {
		return c.Conn.Write(p)
	}
	together := len(c.held)+len(p) <= maxTogether
	if together {
		c.held = append(c.held, p...)
	}
	if err := c.sendLocked(); err != nil {
		return 0, err
	}
	if together {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// sendLocked sends what waits.
func (c *wholeAnswers) sendLocked() error {
	if c.head {
		c.timer.Stop()
		c.head = false
	}
	_, err := c.Conn.Write(c.held)
	c.held, c.credit = c.held[:0], 0
	return err
}

// alone sends a head whose body did not come.
func (c *wholeAnswers) alone() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.head {
		c.err = c.sendLocked()
	}
}

// Close implements net.Conn. It waits for no write: one that is under way may
// be to a client that does not read, and ends with the connection.
func (c *wholeAnswers) Close() error {
	if c.mu.TryLock() {
		if c.head {
			_ = c.SetWriteDeadline(time.Now().Add(closeTimeout))
			_ = c.sendLocked() // the connection ends in any case
		}
		c.mu.Unlock()
	}
	return c.Conn.Close()
}

// How frames begin, and those that are told apart here (RFC 9113, 4.1 and 6).
const (
	frameHead        = 9
	typeHeaders      = 1
	typeWindowUpdate = 8
	endStream        = 1
)

// frameSize is the length of the frame that p begins with, or 0 if p is shorter.
func frameSize(p []byte) int {
	if len(p) < frameHead {
		return 0
	}
	if size := int(binary.BigEndian.Uint32(p[:4])>>8) + frameHead; size <= len(p) {
		return size
	}
	return 0
}

// endsInHead says that p is whole frames, the last of them a head that has a
// body.
func endsInHead(p []byte) bool {
	if len(p) > maxHead {
		return false
	}
	for size := frameSize(p); size > 0; size = frameSize(p) {
		if size == len(p) {
			return p[3] == typeHeaders && p[4]&endStream == 0
		}
		p = p[size:]
	}
	return false
}

// connectionCredit says that p is nothing but frames that let the client send
// more over the connection, and how much more.
func connectionCredit(p []byte) (sum uint32, ok bool) {
	for len(p) > 0 {
		size := frameSize(p)
		if size != frameHead+4 || p[3] != typeWindowUpdate || binary.BigEndian.Uint32(p[5:]) != 0 {
			return 0, false
		}
		sum += binary.BigEndian.Uint32(p[frameHead:])
		p = p[size:]
	}
	return sum, true
}
