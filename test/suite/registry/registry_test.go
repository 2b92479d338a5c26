package registry_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/proa-dev/proa/internal/ociimage"
	"github.com/proa-dev/proa/test/suite/registry"
)

// TestPull pulls an image as a client that mirrors does.
func TestPull(t *testing.T) {
	dir := t.TempDir()
	f, err := os.Create(filepath.Join(dir, "app.tar"))
	if err != nil {
		t.Fatal(err)
	}
	layer := []ociimage.File{{Path: "/app", Content: []byte("binary")}}
	if err := ociimage.Build(f, ociimage.Spec{Names: []string{"registry.k8s.io/team/app:2"}, Layers: [][]ociimage.File{layer}}); err != nil {
		t.Fatal(err)
	}
	f.Close()
	r, err := registry.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(r)
	defer server.Close()
	get := func(method, path string, want int) []byte {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != want {
			t.Fatalf("%s %s: %s, want %d (%v)", method, path, resp.Status, want, err)
		}
		return body
	}
	get("GET", "/v2/", 200)
	get("HEAD", "/v2/team/app/manifests/2?ns=registry.k8s.io", 200)
	var manifest v1.Manifest
	if err := json.Unmarshal(get("GET", "/v2/team/app/manifests/2?ns=registry.k8s.io", 200), &manifest); err != nil {
		t.Fatal(err)
	}
	for _, d := range append(manifest.Layers, manifest.Config) {
		if body := get("GET", "/v2/team/app/blobs/"+d.Digest.String(), 200); int64(len(body)) != d.Size {
			t.Errorf("%s: %d bytes, want %d", d.Digest, len(body), d.Size)
		}
	}
	get("GET", "/v2/team/app/manifests/3?ns=registry.k8s.io", 404)
	get("GET", "/v2/team/app/manifests/2?ns=docker.io", 404)
	get("GET", "/v2/team/app/blobs/sha256:0", 404)
	get("POST", "/v2/team/app/blobs/uploads/", 405)
}
