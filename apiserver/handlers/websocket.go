package handlers

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"github.com/proa-dev/proa/apiserver/codec"
)

const (
	webSocketWrite = 30 * time.Second
)

func isWebSocket(r *http.Request) bool {
	return strings.EqualFold(r.Header.Get("Upgrade"), "websocket")
}

// watchWebSocket sends each event as one message: text for JSON, binary for
// protobuf.
func (c *call) watchWebSocket(ctx context.Context, cancel context.CancelFunc, enc *eventEncoder) error {
	up := websocket.Upgrader{
		// Credentials come in headers, never in cookies: the origin proves nothing.
		CheckOrigin: func(*http.Request) bool { return true },
		Error: func(w http.ResponseWriter, r *http.Request, status int, reason error) {
			http.Error(w, reason.Error(), status)
		},
	}
	conn, err := up.Upgrade(c.w, c.r, nil)
	if err != nil {
		return nil // the upgrader has answered
	}
	defer func() { _ = conn.Close() }()
	go func() { // ends when the connection is closed
		defer cancel()
		for {
			if _, _, err := conn.NextReader(); err != nil {
				return
			}
		}
	}()
	kind := websocket.TextMessage
	if c.accept.Format == codec.Protobuf {
		kind = websocket.BinaryMessage
	}
	for {
		events, err := enc.next(ctx)
		for _, ev := range events {
			frame := enc.append(nil, ev)
			if kind == websocket.BinaryMessage {
				frame = frame[4:] // a message has its length
			}
			_ = conn.SetWriteDeadline(time.Now().Add(webSocketWrite))
			if conn.WriteMessage(kind, frame) != nil {
				return nil
			}
		}
		if err != nil {
			_ = conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(webSocketWrite))
			return nil
		}
	}
}
