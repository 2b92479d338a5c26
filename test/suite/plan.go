package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// readTests gives the names of upstream's conformance tests.
func readTests(file string) ([]string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var list []struct {
		Codename string `json:"codename"`
	}
	if err := yaml.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	var names []string
	for _, t := range list {
		names = append(names, t.Codename)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// choose gives the tests to run: those that focus names; or, when it is empty,
// those without a result, and after a complete run all of them. rerun asks for
// "failed" ones or for "all". What skip names is left out.
func choose(tests []string, known map[string]result, focus, skip, rerun string) ([]string, error) {
	want, err := regexp.Compile(focus)
	if err != nil {
		return nil, fmt.Errorf("focus: %w", err)
	}
	avoid, err := regexp.Compile(skip)
	if err != nil {
		return nil, fmt.Errorf("skip: %w", err)
	}
	tests = slices.DeleteFunc(slices.Clone(tests), func(name string) bool {
		return !want.MatchString(name) || skip != "" && avoid.MatchString(name)
	})
	if len(tests) == 0 {
		return nil, fmt.Errorf("no conformance test is in %q without %q", focus, skip)
	}
	only := func(keep func(result, bool) bool) []string {
		return slices.DeleteFunc(slices.Clone(tests), func(name string) bool {
			r, ok := known[name]
			return !keep(r, ok)
		})
	}
	switch rerun {
	case "all":
		return tests, nil
	case "failed":
		failed := only(func(r result, ok bool) bool { return ok && r.State != passed })
		if len(failed) == 0 {
			return nil, errors.New("no test of these has failed")
		}
		return failed, nil
	case "":
		if left := only(func(_ result, ok bool) bool { return !ok }); focus == "" && len(left) > 0 {
			return left, nil
		}
		return tests, nil
	}
	return nil, fmt.Errorf("rerun: %q is neither failed nor all", rerun)
}

// pattern matches these names and nothing else as ginkgo compares them: after
// the name of the whole suite.
func pattern(names []string) string {
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = regexp.QuoteMeta(n)
	}
	return " (?:" + strings.Join(quoted, "|") + ")$"
}

// listImages asks the suite which images it uses.
func listImages(ctx context.Context, program string) ([]string, error) {
	out, err := exec.CommandContext(ctx, program, "--list-images").Output()
	if err != nil {
		return nil, fmt.Errorf("%s --list-images: %w", program, err)
	}
	return strings.Fields(string(out)), nil
}

func writeMissing(file string, wanted, built []string) error {
	var missing bytes.Buffer
	for _, name := range wanted {
		if !slices.Contains(built, name) {
			fmt.Fprintln(&missing, name)
		}
	}
	return os.WriteFile(file, missing.Bytes(), 0o644)
}
