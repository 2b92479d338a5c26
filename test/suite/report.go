package main

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// count is one line of the table.
type count struct{ tests, passed, failed, notRun int }

func (c *count) add(r result, known bool) {
	c.tests++
	switch {
	case !known:
		c.notRun++
	case r.State == passed:
		c.passed++
	default:
		c.failed++
	}
}

var area = regexp.MustCompile(`^\[(sig-[a-z-]+)\]`)

// table counts tests by area, "total" last.
func table(tests []string, known map[string]result) (areas []string, counts map[string]*count) {
	counts = map[string]*count{"total": {}}
	for _, name := range tests {
		a := "other"
		if m := area.FindStringSubmatch(name); m != nil {
			a = m[1]
		}
		if counts[a] == nil {
			counts[a] = &count{}
			areas = append(areas, a)
		}
		r, ok := known[name]
		counts[a].add(r, ok)
		counts["total"].add(r, ok)
	}
	slices.Sort(areas)
	return append(areas, "total"), counts
}

func tableText(tests []string, known map[string]result) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-22s%8s%8s%8s%9s\n", "area", "tests", "passed", "failed", "not run")
	areas, counts := table(tests, known)
	for _, a := range areas {
		c := counts[a]
		fmt.Fprintf(&b, "%-22s%8d%8d%8d%9d\n", a, c.tests, c.passed, c.failed, c.notRun)
	}
	return b.String()
}

// reason is a line of reasons.yaml.
type reason struct {
	Match  string `json:"match"`
	Reason string `json:"reason"`

	re *regexp.Regexp
}

func readReasons(file string) ([]reason, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var list []reason
	if err := yaml.UnmarshalStrict(data, &list); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	for i := range list {
		if list[i].re, err = regexp.Compile(list[i].Match); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	return list, nil
}

func why(name string, reasons []reason) string {
	for _, r := range reasons {
		if r.re.MatchString(name) {
			return r.Reason
		}
	}
	return "wrong"
}

// report writes the page of the documentation.
func (o *options) report(tests []string, r *results) error {
	reasons, err := readReasons(o.reasons)
	if err != nil {
		return err
	}
	return os.WriteFile(o.docs, page(tests, r.all(), reasons), 0o644)
}

func page(tests []string, known map[string]result, reasons []reason) []byte {
	var b bytes.Buffer
	var newest time.Time
	commits := map[string]bool{}
	for _, name := range tests {
		r, ok := known[name]
		if !ok {
			continue
		}
		commits[r.Commit] = true
		if r.At.After(newest) {
			newest = r.At
		}
	}
	b.WriteString("# Conformance\n\nUpstream's end-to-end suite, Kubernetes 1.37.0, its conformance tests. `make conformance` writes this page;\nnobody edits it.\n\n")
	if !newest.IsZero() {
		fmt.Fprintf(&b, "The newest result is of %s", newest.UTC().Format("2 January 2006"))
		if len(commits) > 1 {
			fmt.Fprintf(&b, "; the results are of %d states of the source", len(commits))
		}
		b.WriteString(".\n\n")
	}
	fmt.Fprintf(&b, "```\n%s```\n", tableText(tests, known))
	section := func(title string, want func(result, bool) bool, line func(string) string) {
		first := true
		for _, name := range tests {
			r, ok := known[name]
			if !want(r, ok) {
				continue
			}
			if first {
				fmt.Fprintf(&b, "\n## %s\n\n", title)
				first = false
			}
			fmt.Fprintf(&b, "- %s\n", line(name))
		}
	}
	section("Failing", func(r result, ok bool) bool { return ok && r.State != passed },
		func(name string) string { return fmt.Sprintf("%s: `%s`", why(name, reasons), name) })
	section("Not run", func(_ result, ok bool) bool { return !ok }, func(name string) string { return "`" + name + "`" })
	return b.Bytes()
}
