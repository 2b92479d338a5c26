package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestReport takes results as the suite's programs give them, and reads the
// page that comes of them.
func TestReport(t *testing.T) {
	dir := t.TempDir()
	known, err := openResults(filepath.Join(dir, "results.json"))
	if err != nil {
		t.Fatal(err)
	}
	report := filepath.Join(dir, "report.json")
	if err := os.WriteFile(report, []byte(`[{"SpecReports": [
		{"LeafNodeType": "It", "ContainerHierarchyTexts": ["[sig-apps] Job"], "LeafNodeText": "runs", "State": "passed", "RunTime": 2000000000},
		{"LeafNodeType": "It", "ContainerHierarchyTexts": ["[sig-apps] Job"], "LeafNodeText": "fails", "State": "failed", "Failure": {"Message": "expected 1"}},
		{"LeafNodeType": "It", "ContainerHierarchyTexts": ["[sig-node] Pods"], "LeafNodeText": "wait", "State": "interrupted", "Failure": {"Message": "by signal"}},
		{"LeafNodeType": "It", "ContainerHierarchyTexts": ["[sig-cli] Kubectl"], "LeafNodeText": "applies", "State": "skipped", "Failure": {"Message": "wants two nodes"}},
		{"LeafNodeType": "It", "ContainerHierarchyTexts": ["[sig-node] Other"], "LeafNodeText": "not chosen", "State": "skipped"}]}]`), 0o600); err != nil {
		t.Fatal(err)
	}
	rec := recorder{results: known, commit: "abc", chosen: map[string]bool{"[sig-apps] Job runs": true, "[sig-apps] Job fails": true}, out: t.Output()}
	printed := "SSS------\n• [2.000 seconds]\n[sig-apps] Job runs [sig-apps, Conformance]\na_test.go:1\n\n• [FAILED] [0.100 seconds]\n[sig-apps] Job [It] fails\n"
	for part := range slices.Chunk([]byte(printed), 7) {
		if _, err := rec.Write(part); err != nil {
			t.Fatal(err)
		}
	}
	if r := known.all(); len(r) != 2 || r["[sig-apps] Job runs"].State != passed || r["[sig-apps] Job fails"].State != failed {
		t.Errorf("while it ran: %+v", r)
	}
	if err := rec.readReport(report); err != nil {
		t.Fatal(err)
	}
	again, err := openResults(filepath.Join(dir, "results.json"))
	if err != nil {
		t.Fatal(err)
	}
	if r := again.all()["[sig-apps] Job runs"]; r.State != passed || r.Seconds != 2 || r.Commit != "abc" {
		t.Errorf("kept %+v", r)
	}
	reasons := filepath.Join(dir, "reasons.yaml")
	if err := os.WriteFile(reasons, []byte("- match: Kubectl\n  reason: two nodes\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	o := options{docs: filepath.Join(dir, "page.md"), reasons: reasons}
	tests := []string{"[sig-apps] Job fails", "[sig-apps] Job runs", "[sig-cli] Kubectl applies", "[sig-node] Pods wait"}
	if err := o.report(tests, again); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(o.docs)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"\nsig-apps                     2       1       1        0\n",
		"\ntotal                        4       1       2        1\n",
		"\n- wrong: `[sig-apps] Job fails`\n",
		"\n- two nodes: `[sig-cli] Kubectl applies`\n",
		"\n## Not run\n\n- `[sig-node] Pods wait`\n",
	} {
		if !strings.Contains(string(page), want) {
			t.Errorf("no %q in\n%s", want, page)
		}
	}
	if err := summary(tests, again.all(), time.Second); err == nil {
		t.Error("a run with failures is a success")
	}
	if err := summary(tests[1:2], again.all(), time.Second); err != nil {
		t.Error(err)
	}
}
