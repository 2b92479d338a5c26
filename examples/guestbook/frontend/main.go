// Command frontend shows the guestbook and takes new entries. It finds the
// back end by its Service name, its title in a file that a ConfigMap mounts,
// and tells which pod answered.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

var page = template.Must(template.New("page").Parse(`<!doctype html>
<meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{.Title}}</title>
<style>body{font:16px/1.5 system-ui;max-width:40em;margin:3em auto;padding:0 1em}li{margin:.3em 0}small{color:#666}</style>
<h1>{{.Title}}</h1>
<form method="post" action="/"><input name="text" maxlength="500" placeholder="Leave a word" required autofocus> <button>Sign</button></form>
<ul>{{range .Entries}}<li>{{.Text}} <small>{{.Time.Format "15:04:05"}}</small></li>{{else}}<li>Nobody was here yet.</li>{{end}}</ul>
<p><small>Answered by {{.Pod}}</small></p>
`))

type entry struct {
	Text string    `json:"text"`
	Time time.Time `json:"time"`
}

type frontend struct {
	backend, token, titleFile, pod string
	client                         *http.Client
}

// title is read for each page: the kubelet renews the file when the ConfigMap changes.
func (f *frontend) title() string {
	b, err := os.ReadFile(f.titleFile)
	if err != nil {
		return "Guestbook"
	}
	return strings.TrimSpace(string(b))
}

func (f *frontend) entries(ctx context.Context) ([]entry, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.backend+"/entries", nil)
	if err != nil {
		return nil, err
	}
	resp, err := f.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var list []entry
	return list, json.NewDecoder(resp.Body).Decode(&list)
}

func (f *frontend) show(w http.ResponseWriter, r *http.Request) {
	list, err := f.entries(r.Context())
	if err != nil {
		slog.Error("backend", "error", err)
		http.Error(w, "the guestbook's back end does not answer", http.StatusBadGateway)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if err := page.Execute(w, map[string]any{"Title": f.title(), "Entries": list, "Pod": f.pod}); err != nil {
		slog.Error("answer", "error", err)
	}
}

func (f *frontend) sign(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 4096)
	body, err := json.Marshal(entry{Text: strings.TrimSpace(r.FormValue("text"))})
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	req, err := http.NewRequestWithContext(r.Context(), http.MethodPost, f.backend+"/entries", bytes.NewReader(body))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	req.Header.Set("X-Guestbook-Token", f.token)
	resp, err := f.client.Do(req)
	if err != nil {
		http.Error(w, "the guestbook's back end does not answer", http.StatusBadGateway)
		return
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		http.Error(w, "the back end refused: "+resp.Status, http.StatusBadGateway)
		return
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

func main() {
	pod, _ := os.Hostname()
	f := &frontend{
		backend:   "http://guestbook-backend:8080",
		token:     os.Getenv("GUESTBOOK_TOKEN"),
		titleFile: "/etc/guestbook/title",
		pod:       pod,
		client:    &http.Client{Timeout: 5 * time.Second},
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", f.show)
	mux.HandleFunc("POST /{$}", f.sign)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if _, err := f.entries(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})

	srv := &http.Server{Addr: ":8080", Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	go func() {
		<-ctx.Done()
		if err := srv.Shutdown(context.WithoutCancel(ctx)); err != nil {
			slog.Error("shut down", "error", err)
		}
	}()
	slog.Info("guestbook frontend listens", "address", srv.Addr, "backend", f.backend)
	err := srv.ListenAndServe()
	stop()
	if !errors.Is(err, http.ErrServerClosed) {
		slog.Error("serve", "error", err)
		os.Exit(1)
	}
}
