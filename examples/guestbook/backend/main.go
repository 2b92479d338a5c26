// Command backend keeps the guestbook's entries in memory and serves them as
// JSON: GET /entries, and POST /entries for callers that know the token.
package main

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"
)

// limits of one guestbook: the newest maxEntries of at most maxText bytes.
const (
	maxEntries = 1000
	maxText    = 500
)

type entry struct {
	Text string    `json:"text"`
	Time time.Time `json:"time"`
}

type book struct {
	token string
	mu    sync.Mutex
	list  []entry
}

func (b *book) get(w http.ResponseWriter, _ *http.Request) {
	b.mu.Lock()
	list := append([]entry{}, b.list...)
	b.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(list); err != nil {
		slog.Error("answer", "error", err)
	}
}

func (b *book) add(w http.ResponseWriter, r *http.Request) {
	given := r.Header.Get("X-Guestbook-Token")
	if subtle.ConstantTimeCompare([]byte(given), []byte(b.token)) != 1 {
		http.Error(w, "wrong token", http.StatusForbidden)
		return
	}
	var e entry
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4096)).Decode(&e); err != nil || e.Text == "" || len(e.Text) > maxText {
		http.Error(w, fmt.Sprintf("an entry needs a text of 1 to %d bytes", maxText), http.StatusBadRequest)
		return
	}
	e.Time = time.Now().UTC()
	b.mu.Lock()
	b.list = append(b.list, e)
	if len(b.list) > maxEntries {
		b.list = b.list[len(b.list)-maxEntries:]
	}
	b.mu.Unlock()
	w.WriteHeader(http.StatusCreated)
}

func main() {
	b := &book{token: os.Getenv("GUESTBOOK_TOKEN")}
	if b.token == "" {
		slog.Error("set GUESTBOOK_TOKEN")
		os.Exit(2)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /entries", b.get)
	mux.HandleFunc("POST /entries", b.add)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })

	srv := &http.Server{Addr: ":8080", Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	go func() {
		<-ctx.Done()
		if err := srv.Shutdown(context.WithoutCancel(ctx)); err != nil {
			slog.Error("shut down", "error", err)
		}
	}()
	slog.Info("guestbook backend listens", "address", srv.Addr)
	err := srv.ListenAndServe()
	stop()
	if !errors.Is(err, http.ErrServerClosed) {
		slog.Error("serve", "error", err)
		os.Exit(1)
	}
}
