package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"time"
)

// recorder keeps results: at once what the suite prints as each test ends,
// and at the end what its report adds.
type recorder struct {
	results *results
	commit  string
	chosen  map[string]bool
	out     io.Writer

	done  int
	line  []byte
	state string // of the test that the next line names
}

// ended is the first line of what ginkgo prints of a test.
var ended = regexp.MustCompile(`^• (?:\[(?:FAILED|PANICKED!|TIMEDOUT)\] )?\[[0-9.]+ seconds\]$`)

// step is what ginkgo puts into the name to say where the test failed.
var step = regexp.MustCompile(` \[(?:It|BeforeEach|JustBeforeEach|AfterEach|JustAfterEach|DeferCleanup \(Each\))\]`)

// Write takes what the suite prints.
func (r *recorder) Write(p []byte) (int, error) {
	for rest := p; ; {
		part, more, whole := bytes.Cut(rest, []byte("\n"))
		r.line = append(r.line, part...)
		if !whole {
			return len(p), nil
		}
		r.take(string(r.line))
		r.line, rest = r.line[:0], more
	}
}

func (r *recorder) take(line string) {
	// Dots of tests that were left out may stand before the first.
	if i := strings.Index(line, "• ["); i >= 0 && ended.MatchString(line[i:]) {
		r.state = passed
		if line[i+len("• [")] > '9' {
			r.state = failed
		}
		return
	}
	name := step.ReplaceAllLiteralString(line, "")
	if i := strings.LastIndex(name, " ["); !r.chosen[name] && i > 0 {
		name = name[:i] // labels follow it
	}
	if r.state == "" || !r.chosen[name] {
		return
	}
	if err := r.results.put(map[string]result{name: {State: r.state, Commit: r.commit, At: time.Now()}}); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
	}
	r.done++
	fmt.Fprintf(r.out, "%s [%d/%d] %s %s\n", time.Now().Format(time.TimeOnly), r.done, len(r.chosen), r.state, name)
	r.state = ""
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
