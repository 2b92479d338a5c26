package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// recorder keeps results: at once what the suite's processes tell as each test
// ends, and at the end what their report adds.
type recorder struct {
	results *results
	commit  string
	total   int
	out     io.Writer

	mu   sync.Mutex
	done int
}

// ServeHTTP takes a progress report: {"msg": "PASSED name", …}.
func (r *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	var update struct {
		Msg string `json:"msg"`
	}
	if err := json.NewDecoder(io.LimitReader(req.Body, 1<<20)).Decode(&update); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	state, name, _ := strings.Cut(update.Msg, " ")
	switch state {
	case "PASSED":
		state = passed
	case "FAILED":
		state = failed
	default:
		return
	}
	if err := r.results.put(map[string]result{name: {State: state, Commit: r.commit, At: time.Now()}}); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done++
	fmt.Fprintf(r.out, "%s [%d/%d] %s %s\n", time.Now().Format(time.TimeOnly), r.done, r.total, state, name)
}

// spec is what ginkgo reports of a test.
type spec struct {
	ContainerHierarchyTexts []string
	LeafNodeType            string
	LeafNodeText            string
	State                   string
	RunTime                 time.Duration
	EndTime                 time.Time
	Failure                 struct{ Message string }
}

// readReport completes the results from ginkgo's report.
func (r *recorder) readReport(file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var suites []struct {
		SpecialSuiteFailureReasons []string
		SpecReports                []spec
	}
	if err := json.Unmarshal(data, &suites); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	changes := map[string]result{}
	var trouble []string
	for _, s := range suites {
		for _, t := range s.SpecReports {
			if t.LeafNodeType != "It" {
				if t.Failure.Message != "" {
					trouble = append(trouble, t.LeafNodeType+": "+t.Failure.Message)
				}
				continue
			}
			if state := t.state(); state != "" {
				changes[strings.Join(append(t.ContainerHierarchyTexts, t.LeafNodeText), " ")] =
					result{State: state, Seconds: t.RunTime.Seconds(), Message: t.Failure.Message, Commit: r.commit, At: t.EndTime}
			}
		}
	}
	if err := r.results.put(changes); err != nil {
		return err
	}
	if len(changes) == 0 {
		return fmt.Errorf("no test ran: %s", strings.Join(trouble, "; "))
	}
	return nil
}

// state is empty when the test did not run: not chosen, or broken off.
func (t *spec) state() string {
	switch t.State {
	case "passed":
		return passed
	case "failed", "panicked", "timedout":
		return failed
	case "skipped":
		// What the focus leaves out has no reason.
		if t.Failure.Message != "" {
			return skipped
		}
	}
	return ""
}
