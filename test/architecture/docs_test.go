package architecture

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/proa-dev/proa/api/builtin"
)

// prose are the pages that people read first.
var prose = []string{"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs/status.md"}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root(t), name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// mentioned finds `code` and links.
var mentioned = regexp.MustCompile("`([a-z][a-zA-Z0-9_./-]*/[a-zA-Z0-9_./-]*)`|\\]\\(([^)#:]+)\\)")

func TestPathsInProseExist(t *testing.T) {
	tops := map[string]bool{}
	entries, err := os.ReadDir(root(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		tops[e.Name()] = true
	}
	for _, page := range prose {
		for _, m := range mentioned.FindAllStringSubmatch(read(t, page), -1) {
			path := m[1] + m[2]
			if m[1] != "" && !tops[strings.SplitN(path, "/", 2)[0]] {
				continue // an import path or a URL
			}
			if strings.HasPrefix(path, "bin/") || strings.ContainsAny(path, "<*") {
				continue // made by the build
			}
			if _, err := os.Stat(filepath.Join(root(t), path)); err != nil {
				t.Errorf("%s speaks of %s, which is not there", page, path)
			}
		}
	}
}

func TestTheTreeInTheDocumentationExists(t *testing.T) {
	_, rest, _ := strings.Cut(read(t, "ARCHITECTURE.md"), "## The tree")
	tree, _, _ := strings.Cut(rest, "\n## ")
	for _, line := range strings.Split(tree, "\n") {
		fields := strings.Fields(line)
		if !strings.HasPrefix(line, "    ") || strings.HasPrefix(line, "     ") || len(fields) == 0 || !strings.HasSuffix(fields[0], "/") {
			continue
		}
		if _, err := os.Stat(filepath.Join(root(t), fields[0])); err != nil {
			t.Errorf("the tree shows %s, which is not there", fields[0])
		}
	}
}

func TestEveryKindIsInTheStatusPage(t *testing.T) {
	page := read(t, "docs/status.md")
	for _, k := range builtin.Kinds() {
		if strings.Contains(k.GVK.Group, "authentication") || strings.Contains(k.GVK.Group, "authorization.k8s.io") && k.Virtual {
			continue // named as a family there
		}
		if !strings.Contains(page, k.GVK.Kind) {
			t.Errorf("docs/status.md does not name %s", k.GVK.Kind)
		}
	}
}
