package main

import (
	"net/http"
	"net/http/pprof"
)

// profiles serves Go's profiles as upstream's API server does, to whoever may
// get /debug/pprof: administrators, unless a role says otherwise.
func profiles() map[string]http.Handler {
	const base = "/debug/pprof/"
	paths := map[string]http.Handler{
		base + "cmdline": http.HandlerFunc(pprof.Cmdline),
		base + "profile": http.HandlerFunc(pprof.Profile),
		base + "symbol":  http.HandlerFunc(pprof.Symbol),
		base + "trace":   http.HandlerFunc(pprof.Trace),
	}
	for _, name := range []string{"allocs", "block", "goroutine", "heap", "mutex", "threadcreate"} {
		paths[base+name] = pprof.Handler(name)
	}
	return paths
}
