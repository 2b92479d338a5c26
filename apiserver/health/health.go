// Package health answers /healthz, /livez and /readyz, each a list of checks
// that can also be asked one by one.
package health

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Check is one named check.
type Check struct {
	Name string
	Run  func(ctx context.Context) error
}

// Ping always succeeds: the server answers.
func Ping() Check { return Check{Name: "ping", Run: func(context.Context) error { return nil }} }

// checkTimeout bounds a single check.
const checkTimeout = 10 * time.Second

// Handler serves one of the paths and all below.
type Handler struct {
	// Path is "/healthz", "/livez" or "/readyz".
	Path   string
	Checks []Check
	// Observe is told what each check has found; may be nil.
	Observe func(check string, err error)
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-cache, private")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	if name := strings.Trim(strings.TrimPrefix(r.URL.Path, h.Path), "/"); name != "" {
		h.one(w, r, name)
		return
	}
	h.all(w, r)
}

func (h *Handler) one(w http.ResponseWriter, r *http.Request, name string) {
	i := slices.IndexFunc(h.Checks, func(c Check) bool { return c.Name == name })
	if i < 0 {
		http.Error(w, "404 page not found", http.StatusNotFound)
		return
	}
	if err := h.ask(r.Context(), h.Checks[i]); err != nil {
		http.Error(w, fmt.Sprintf("internal server error: %v", err), http.StatusInternalServerError)
		return
	}
	_, _ = fmt.Fprint(w, "ok")
}

func (h *Handler) ask(ctx context.Context, c Check) error {
	err := c.Ask(ctx)
	if h.Observe != nil {
		h.Observe(c.Name, err)
	}
	return err
}

// Ask runs the check, for as long as it may take.
func (c Check) Ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	return c.Run(ctx)
}

func (h *Handler) all(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	_, verbose := query["verbose"]
	excluded := query["exclude"]
	var report strings.Builder
	failed := false
	for _, c := range h.Checks {
		if i := slices.Index(excluded, c.Name); i >= 0 {
			excluded = slices.Delete(slices.Clone(excluded), i, i+1)
			fmt.Fprintf(&report, "[+]%s excluded: ok\n", c.Name)
			continue
		}
		if err := h.ask(r.Context(), c); err != nil {
			// The reason may name internals and the caller may be anyone.
			fmt.Fprintf(&report, "[-]%s failed: reason withheld\n", c.Name)
			failed = true
			continue
		}
		fmt.Fprintf(&report, "[+]%s ok\n", c.Name)
	}
	if len(excluded) > 0 {
		fmt.Fprintf(&report, "warn: some health checks cannot be excluded: no matches for %q\n", excluded)
	}
	name := strings.Trim(h.Path, "/")
	switch {
	case failed:
		http.Error(w, fmt.Sprintf("%s%s check failed", report.String(), name), http.StatusInternalServerError)
	case verbose:
		_, _ = fmt.Fprintf(w, "%s%s check passed\n", report.String(), name)
	default:
		_, _ = fmt.Fprint(w, "ok")
	}
}
