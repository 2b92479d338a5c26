package main

import (
	"regexp"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestChoose(t *testing.T) {
	tests := []string{"[sig-apps] Deployment", "[sig-apps] Job", "[sig-node] Pods"}
	some := map[string]result{tests[0]: {State: passed}, tests[1]: {State: failed}}
	every := map[string]result{tests[0]: {State: passed}, tests[1]: {State: failed}, tests[2]: {State: skipped}}
	for _, c := range []struct {
		what        string
		known       map[string]result
		focus, skip string
		rerun       string
		want        []string
		bad         bool
	}{
		{what: "nothing is known", want: tests},
		{what: "the rest", known: some, want: tests[2:]},
		{what: "a complete run starts anew", known: every, want: tests},
		{what: "failed ones", known: every, rerun: "failed", want: tests[1:]},
		{what: "all of them", known: some, rerun: "all", want: tests},
		{what: "focus takes known ones too", known: every, focus: "sig-apps", want: tests[:2]},
		{what: "failed ones in focus", known: every, focus: "sig-apps", rerun: "failed", want: tests[1:2]},
		{what: "some are left out", skip: "Deploy|Pods", want: tests[1:2]},
		{what: "no test in focus", focus: "sig-windows", bad: true},
		{what: "nothing failed", known: some, focus: "Deployment", rerun: "failed", bad: true},
		{what: "focus that is no regexp", focus: "[", bad: true},
		{what: "unknown rerun", rerun: "some", bad: true},
	} {
		got, err := choose(tests, c.known, c.focus, c.skip, c.rerun)
		if (err != nil) != c.bad {
			t.Errorf("%s: error %v", c.what, err)
		}
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%s: %s", c.what, d)
		}
	}
}

func TestPattern(t *testing.T) {
	re := regexp.MustCompile(pattern([]string{"[sig-node] Pods should be (quick) [Conformance]", "[sig-cli] x"}))
	for text, want := range map[string]bool{
		"Kubernetes e2e suite [sig-node] Pods should be (quick) [Conformance]":       true,
		"Kubernetes e2e suite [sig-cli] x":                                           true,
		"Kubernetes e2e suite [sig-cli] x and more":                                  false,
		"Kubernetes e2e suite [sig-windows][sig-cli] x":                              false,
		"Kubernetes e2e suite [sig-node] Pods should be quick [Conformance]":         false,
		"Kubernetes e2e suite [sig-node] Pods should be (quick) [Conformance] twice": false,
	} {
		if re.MatchString(text) != want {
			t.Errorf("%q: not %v", text, want)
		}
	}
}
