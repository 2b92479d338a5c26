// Package architecture keeps the import rules of ARCHITECTURE.md.
package architecture

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/proa-dev/proa/"

// rule forbids imports of to from files below from; except lists folders
// below from that may.
type rule struct {
	from, to string
	allowed  []string
	reason   string
}

var rules = []rule{
	{"api", module, []string{module + "api"},
		"api describes kinds as data: it must not depend on how they are served"},
	{"store", module, []string{module + "api", module + "internal", module + "store"},
		"store is below everything but api"},
	{"scheduler", module + "store", nil, "components see the cluster only through client: there is no hidden API"},
	{"controllers", module + "store", nil, "components see the cluster only through client: there is no hidden API"},
	{"kubelet", module + "store", nil, "components see the cluster only through client: there is no hidden API"},
	{"network", module + "store", nil, "components see the cluster only through client: there is no hidden API"},
	{"container", module + "store", nil, "components see the cluster only through client: there is no hidden API"},
	{"dashboard", module + "store", nil, "components see the cluster only through client: there is no hidden API"},
	{"scheduler", module + "apiserver", nil, "the scheduler must also run against a remote server"},
	{"controllers", module + "apiserver", nil, "controllers must also run against a remote server"},
	{"kubelet", module + "apiserver", nil, "a node must also run against a remote server"},
	{"network", module + "apiserver", nil, "a node must also run against a remote server"},
	{"", "k8s.io/kubernetes", nil, "to import the system would not be to implement it"},
	{"", "k8s.io/apiserver/pkg/server", nil, "the API server is ours; only leaf packages of k8s.io/apiserver are used"},
	{"", "k8s.io/apiserver/pkg/registry", nil, "the API server is ours; only leaf packages of k8s.io/apiserver are used"},
	{"", "k8s.io/apiserver/pkg/endpoints/handlers", nil, "the API server is ours; only leaf packages of k8s.io/apiserver are used"},
	{"", "k8s.io/apiserver/pkg/storage", nil, "the API server is ours; only leaf packages of k8s.io/apiserver are used"},
}

// layers are the top folders that never import one another: what two of them
// share belongs in internal/.
var layers = []string{"scheduler", "controllers", "kubelet", "container", "network", "dashboard"}

func root(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Dir(filepath.Dir(dir))
}

// goFiles calls fn for every Go file of the product, by its path from the root.
func goFiles(t *testing.T, fn func(path string, imports []string, doc bool, pkg string)) {
	t.Helper()
	top := root(t)
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(top, path)
		if d.IsDir() {
			if strings.HasPrefix(d.Name(), ".") && rel != "." || rel == "test/conformance" || d.Name() == "testdata" || rel == "bin" {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		var imports []string
		for _, i := range f.Imports {
			imports = append(imports, strings.Trim(i.Path.Value, `"`))
		}
		fn(rel, imports, f.Doc != nil, f.Name.Name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func below(path, dir string) bool {
	return dir == "" || path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

func TestImportRules(t *testing.T) {
	goFiles(t, func(path string, imports []string, _ bool, _ string) {
		if below(path, "test") || strings.HasSuffix(path, "_test.go") {
			return
		}
		for _, imp := range imports {
			for _, r := range rules {
				if below(path, r.from) && below(imp, r.to) && !anyBelow(imp, r.allowed) {
					t.Errorf("%s imports %s: %s", path, imp, r.reason)
				}
			}
		}
	})
}

func anyBelow(imp string, dirs []string) bool {
	return slices.ContainsFunc(dirs, func(d string) bool { return below(imp, d) })
}

func TestStoreIsSeenByFew(t *testing.T) {
	goFiles(t, func(path string, imports []string, _ bool, _ string) {
		for _, ok := range []string{"store", "apiserver", "client", "cmd", "test"} {
			if below(path, ok) {
				return
			}
		}
		for _, imp := range imports {
			if below(imp, module+"store") {
				t.Errorf("%s imports %s: only apiserver, client and cmd do", path, imp)
			}
		}
	})
}

func TestSiblings(t *testing.T) {
	goFiles(t, func(path string, imports []string, _ bool, _ string) {
		if strings.HasSuffix(path, "_test.go") || below(path, "test") || below(path, "cmd") {
			return
		}
		parts := strings.Split(path, "/")
		for _, imp := range imports {
			rel, ours := strings.CutPrefix(imp, module)
			if !ours {
				continue
			}
			to := strings.Split(rel, "/")
			if slices.Contains(layers, parts[0]) && slices.Contains(layers, to[0]) && parts[0] != to[0] {
				t.Errorf("%s imports %s: %s", path, imp, "layers meet in client's interfaces; only cmd and test know them all")
			}
			if parts[0] == "controllers" && to[0] == "controllers" && len(parts) > 2 && len(to) > 1 &&
				parts[1] != to[1] && to[1] != "internal" && parts[1] != "internal" {
				t.Errorf("%s imports %s: %s", path, imp, "two controllers meet in the API, never in code")
			}
		}
	})
}

func TestEveryPackageHasADocComment(t *testing.T) {
	documented := map[string]bool{}
	goFiles(t, func(path string, _ []string, doc bool, pkg string) {
		if strings.HasSuffix(path, "_test.go") && strings.HasSuffix(pkg, "_test") {
			return
		}
		dir := filepath.Dir(path)
		documented[dir] = documented[dir] || doc
	})
	for dir, ok := range documented {
		if !ok {
			t.Errorf("%s: no file of the package has a doc comment that says what it is", dir)
		}
	}
}
