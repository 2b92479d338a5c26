package container_test

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/proa-dev/proa/container/containertest"
	"github.com/proa-dev/proa/internal/ociimage"
)

// registry serves one image archive by the distribution protocol to those who
// know the password.
func registry(t *testing.T, archive []byte) *httptest.Server {
	t.Helper()
	blobs := map[string][]byte{}
	var index v1.Index
	for tr := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		if h.Name == v1.ImageIndexFile {
			if err := json.Unmarshal(data, &index); err != nil {
				t.Fatal(err)
			}
		}
		sum := sha256.Sum256(data)
		blobs["sha256:"+hex.EncodeToString(sum[:])] = data
	}
	manifest := index.Manifests[0]
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, pass, ok := r.BasicAuth(); !ok || user != "me" || pass != "secret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		name := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
		if name == "v2" || name == "" {
			return
		}
		if name == "1" {
			name = manifest.Digest.String()
		}
		data, ok := blobs[name]
		if !ok {
			http.NotFound(w, r)
			return
		}
		if name == manifest.Digest.String() {
			w.Header().Set("Content-Type", manifest.MediaType)
		}
		w.Header().Set("Docker-Content-Digest", name)
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		_, _ = w.Write(data)
	}))
	t.Cleanup(srv.Close)
	return srv
}

// An image is pulled from a mirror that the registries directory names, with
// the credentials of the request, and its container events are told.
func TestPullWithCredentials(t *testing.T) {
	dir := containertest.Dir(t)
	srv := registry(t, containertest.Image(t, "registry.test/app:1", ociimage.File{Path: "/hello", Content: []byte("pulled\n")}))
	hosts := filepath.Join(dir, "data", "registries", "registry.test")
	if err := os.MkdirAll(hosts, 0o755); err != nil {
		t.Fatal(err)
	}
	toml := fmt.Sprintf("server = %q\n[host.%q]\ncapabilities = [\"pull\", \"resolve\"]\n", srv.URL, srv.URL)
	if err := os.WriteFile(filepath.Join(hosts, "hosts.toml"), []byte(toml), 0o600); err != nil {
		t.Fatal(err)
	}
	n := containertest.Start(t, dir)
	events, err := n.RPC.GetContainerEvents(t.Context(), &runtimeapi.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	image := &runtimeapi.ImageSpec{Image: "registry.test/app:1"}
	for what, auth := range map[string]*runtimeapi.AuthConfig{"none": nil, "wrong": {Username: "me", Password: "guess"}} {
		if _, err := n.Images.PullImage(t.Context(), &runtimeapi.PullImageRequest{Image: image, Auth: auth}); err == nil {
			t.Errorf("pulled with %s credentials", what)
		}
	}
	if _, err := n.Images.PullImage(t.Context(), &runtimeapi.PullImageRequest{Image: image, Auth: &runtimeapi.AuthConfig{Username: "me", Password: "secret"}}); err != nil {
		t.Fatal(err)
	}
	pod := n.RunPod(containertest.HostNetwork)
	id := pod.Run("c", "cat /hello", func(c *runtimeapi.ContainerConfig) { c.Image = image })
	want := []runtimeapi.ContainerEventType{
		runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT,
		runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT,
		runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT,
	}
	for len(want) > 0 {
		e, err := events.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if e.ContainerId == id && e.ContainerEventType == want[0] {
			want = want[1:]
		}
	}
	if got := pod.Log("c"); got != "pulled\n" {
		t.Errorf("log %q", got)
	}
}
