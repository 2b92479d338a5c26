package e2e

import (
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/proa-dev/proa/internal/ociimage"
)

// TestGuestbookExample builds the example's images from its sources, applies
// its manifests and signs the guestbook.
func TestGuestbookExample(t *testing.T) {
	const example = "../../examples/guestbook"
	for _, part := range []string{"frontend", "backend"} {
		binary := filepath.Join(t.TempDir(), part)
		build := exec.CommandContext(t.Context(), "go", "build", "-ldflags", "-s -w", "-o", binary, "./"+example+"/"+part)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		r, w := io.Pipe()
		go func() {
			w.CloseWithError(ociimage.Build(w, ociimage.Spec{
				Names:      []string{"proa.dev/examples/guestbook-" + part + ":1"},
				Layers:     [][]ociimage.File{{{Path: "/app", Mode: 0o755, Source: binary}}},
				Entrypoint: []string{"/app"},
			}))
		}()
		if _, err := shared.Proa(t.Context(), r, "image", "import", "-"); err != nil {
			t.Fatal(err)
		}
	}
	e := &env{t: t, namespace: "guestbook"}
	e.kubectl("apply", "-f", example+"/guestbook.yaml")
	t.Cleanup(func() {
		if out, err := e.try("delete", "-f", example+"/guestbook.yaml", "--wait=false"); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	e.kubectl("rollout", "status", "deployment/guestbook-backend", "--timeout=60s")
	e.kubectl("rollout", "status", "deployment/guestbook", "--timeout=60s")

	const page = "http://127.0.0.1:30080/"
	e.until("the guestbook takes an entry and shows it", func() bool {
		resp, err := http.PostForm(page, url.Values{"text": {"Hello from a test"}})
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return err == nil && resp.StatusCode == http.StatusOK &&
			strings.Contains(string(body), "Hello from a test") && strings.Contains(string(body), "Proa&#39;s guestbook")
	})
}
