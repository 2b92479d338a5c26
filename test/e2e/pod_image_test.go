package e2e

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/proa-dev/proa/internal/ociimage"
)

// registry serves one image by the distribution protocol, under any name and
// tag; those below private/ to who knows the password.
type registry struct {
	host     string
	blobs    map[string][]byte
	manifest v1.Descriptor
	pulls    atomic.Int64
}

func newRegistry(t *testing.T) *registry {
	t.Helper()
	var archive bytes.Buffer
	if err := ociimage.Build(&archive, ociimage.Spec{
		Names: []string{"any:1"}, Layers: [][]ociimage.File{busyboxFiles(t)}, Env: []string{"PATH=/bin", "FROM=image"},
		Entrypoint: []string{"echo", "entrypoint"}, Cmd: []string{"cmd"}, WorkingDir: "/tmp",
	}); err != nil {
		t.Fatal(err)
	}
	r := &registry{blobs: map[string][]byte{}}
	for tr := tar.NewReader(&archive); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		r.blobs[digest.FromBytes(data).String()] = data
		if h.Name == v1.ImageIndexFile {
			var index v1.Index
			if err := json.Unmarshal(data, &index); err != nil {
				t.Fatal(err)
			}
			r.manifest = index.Manifests[0]
		}
	}
	srv := httptest.NewServer(r)
	t.Cleanup(srv.Close)
	r.host = strings.TrimPrefix(srv.URL, "http://")
	return r
}

// ServeHTTP implements http.Handler.
func (r *registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	user, password, _ := req.BasicAuth()
	if strings.HasPrefix(req.URL.Path, "/v2/private/") && (user != "me" || password != "secret") {
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	parts := strings.Split(req.URL.Path, "/")
	name := parts[len(parts)-1]
	if strings.Contains(req.URL.Path, "/manifests/") && !strings.Contains(name, ":") && name != "missing" {
		r.pulls.Add(1)
		name = r.manifest.Digest.String()
	}
	if name == "" || name == "v2" {
		return
	}
	data, ok := r.blobs[name]
	if !ok {
		http.NotFound(w, req)
		return
	}
	if name == r.manifest.Digest.String() {
		w.Header().Set("Content-Type", r.manifest.MediaType)
	}
	w.Header().Set("Docker-Content-Digest", name)
	w.Header().Set("Content-Length", fmt.Sprint(len(data)))
	if req.Method != http.MethodHead {
		_, _ = w.Write(data)
	}
}

// Images come from a registry as the pull policy says, with the secrets that
// the pod or its service account names; what fails is told in upstream's words.
func TestPodImages(t *testing.T) {
	e, r := newEnv(t), newRegistry(t)
	open, private := r.host+"/open/app:1", r.host+"/private/app:1"
	login := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, r.host, base64.StdEncoding.EncodeToString([]byte("me:secret")))
	e.kubectl("create", "secret", "generic", "login", "--type=kubernetes.io/dockerconfigjson", "--from-literal=.dockerconfigjson="+login)

	// Without a command: what the image says.
	for name, c := range map[string]struct{ spec, want string }{
		"defaults": {"image: " + open, "entrypoint cmd"},
		"args":     {"image: " + open + ", args: [mine]", "entrypoint mine"},
		"command":  {"image: " + open + ", command: [sh, -c, 'echo $FROM; pwd']", "image\n/tmp"},
		"both":     {"image: " + open + ", command: [echo], args: [all]", "all"},
		"digest":   {"image: " + r.host + "/open/app@" + r.manifest.Digest.String(), "entrypoint cmd"},
		"secret":   {"image: " + private + "}]\nimagePullSecrets: [{name: login", "entrypoint cmd"},
	} {
		e.create(podOf(t, name, "containers: [{"+c.spec+"}]"))
		pod := e.ended(name)
		matchLines(t, e.logs(name, "c0"), c.want)
		if s := pod.Status.ContainerStatuses[0]; !strings.Contains(s.ImageID, "sha256:") || s.Image == "" {
			t.Errorf("%s: image %q, ID %q", name, s.Image, s.ImageID)
		}
	}
	e.eventMatching("secret", "Pulling", "^Pulling image \""+private+"\"$")
	e.eventMatching("secret", "Pulled", `^Successfully pulled image "`+private+`" in .* \(.* including waiting\)\. Image size: \d+ bytes\.$`)
	e.create(podOf(t, "present", "containers: [{image: "+open+"}]"))
	e.ended("present")
	e.eventMatching("present", "Pulled", `already present on machine`)

	before := r.pulls.Load()
	e.create(podOf(t, "always", "containers: [{imagePullPolicy: Always, image: "+open+"}]"))
	e.ended("always")
	if r.pulls.Load() == before {
		t.Error("Always asked nobody")
	}

	// Without the right secret, a missing image, and Never.
	for name, c := range map[string]struct{ spec, reason, message string }{
		"nobody":  {"imagePullPolicy: Always, image: " + r.host + "/private/other:1", "ErrImagePull|ImagePullBackOff", "401 Unauthorized|authorization failed"},
		"missing": {"image: " + r.host + "/open/app:missing", "ErrImagePull|ImagePullBackOff", "not found"},
		"never":   {"imagePullPolicy: Never, image: " + r.host + "/open/never:1", "ErrImageNeverPull", `^Container image ".*" is not present with pull policy of Never$`},
		"invalid": {"image: 'UPPER/case:x y'", "InvalidImageName", "Failed to apply default image tag"},
	} {
		e.create(podOf(t, name, "containers: [{"+c.spec+"}]"))
		e.untilPod(name, "waits for its image", func(p *corev1.Pod) bool {
			if len(p.Status.ContainerStatuses) != 1 {
				return false
			}
			w := p.Status.ContainerStatuses[0].State.Waiting
			return w != nil && regexpMatch(t, c.reason, w.Reason) && regexpMatch(t, c.message, w.Message)
		})
	}
	e.eventMatching("missing", "Failed", `^Failed to pull image "`+r.host+`/open/app:missing": .*not found$`)
	e.eventMatching("missing", "Failed", `^Error: ErrImagePull$`)
	e.eventMatching("missing", "BackOff", `^Back-off pulling image "`+r.host+`/open/app:missing"$`)
	e.eventMatching("missing", "Failed", `^Error: ImagePullBackOff$`)
	e.eventMatching("never", "ErrImageNeverPull", "is not present with pull policy of Never$")
}
