package images_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/proa-dev/proa/kubelet/cri"
	"github.com/proa-dev/proa/kubelet/images"
	"github.com/proa-dev/proa/kubelet/internal/fakecri"
)

// spy keeps the credentials that a pull came with.
type spy struct {
	*fakecri.Runtime
	auth []*runtimeapi.AuthConfig
}

func (s *spy) PullImage(ctx context.Context, req *runtimeapi.PullImageRequest, opts ...grpc.CallOption) (*runtimeapi.PullImageResponse, error) {
	s.auth = append(s.auth, req.Auth)
	return s.Runtime.PullImage(ctx, req, opts...)
}

func TestPullUsesTheMostSpecificSecret(t *testing.T) {
	secret := corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{
		corev1.DockerConfigJsonKey: []byte(`{"auths":{
			"reg.example.com":{"username":"all","password":"1"},
			"https://reg.example.com/team":{"auth":"dGVhbTpzZWNyZXQ="},
			"*.example.org":{"username":"star","password":"2"},
			"https://index.docker.io/v1/":{"username":"hub","password":"3"}}}`)}}
	for image, want := range map[string]string{
		"reg.example.com/team/app:1":  "team",
		"reg.example.com/teams/app:1": "all",
		"x.example.org/a":             "star",
		"a.b.example.org/a":           "",
		"busybox":                     "hub",
		"other.io/x":                  "",
	} {
		s := &spy{Runtime: &fakecri.Runtime{}}
		p := images.New(images.Config{Client: &cri.Client{Images: s}, Now: time.Now})
		_, err := p.Pull(t.Context(), images.Request{Pod: &corev1.Pod{}, Image: image, Secrets: []corev1.Secret{secret}, Event: func(string, string, string) {}})
		if err != nil {
			t.Fatalf("%s: %v", image, err)
		}
		if got := s.auth[0].GetUsername(); got != want {
			t.Errorf("%s was pulled as %q, want %q", image, got, want)
		}
	}
}

func TestPolicies(t *testing.T) {
	for _, c := range []struct {
		image   string
		policy  corev1.PullPolicy
		present bool
		reason  string // of the error
		pull    bool
	}{
		{"a:1", "", true, "", false},
		{"a:1", "", false, "", true},
		{"a", "", true, "", true},
		{"a:1", corev1.PullAlways, true, "", true},
		{"a:1", corev1.PullNever, true, "", false},
		{"a:1", corev1.PullNever, false, images.ReasonNeverPull, false},
		{"A B", "", false, images.ReasonInvalidName, false},
	} {
		r := &fakecri.Runtime{}
		if c.present {
			r.Images = []string{"a:1", "a:latest"}
		}
		p := images.New(images.Config{Client: r.Client(), Now: time.Now})
		got, err := p.Present(t.Context(), images.Request{Pod: &corev1.Pod{}, Image: c.image, Policy: c.policy, Event: func(string, string, string) {}})
		reason := ""
		if e, ok := err.(*images.Error); ok { //nolint:errorlint // it is not wrapped here
			reason = e.Reason
		}
		if reason != c.reason || (got == nil && err == nil) != c.pull {
			t.Errorf("%s %q present %v: image %v, error %v", c.image, c.policy, c.present, got, err)
		}
	}
}

// store is a runtime's images and what its containers use.
type store struct {
	runtimeapi.RuntimeServiceClient
	runtimeapi.ImageServiceClient
	images  []*runtimeapi.Image
	used    []string
	stuck   string
	removed []string
}

func (s *store) ListImages(context.Context, *runtimeapi.ListImagesRequest, ...grpc.CallOption) (*runtimeapi.ListImagesResponse, error) {
	return &runtimeapi.ListImagesResponse{Images: s.images}, nil
}

func (s *store) ListContainers(context.Context, *runtimeapi.ListContainersRequest, ...grpc.CallOption) (*runtimeapi.ListContainersResponse, error) {
	out := &runtimeapi.ListContainersResponse{}
	for _, id := range s.used {
		out.Containers = append(out.Containers, &runtimeapi.Container{ImageId: id})
	}
	return out, nil
}

func (s *store) RemoveImage(_ context.Context, req *runtimeapi.RemoveImageRequest, _ ...grpc.CallOption) (*runtimeapi.RemoveImageResponse, error) {
	if req.Image.Image == s.stuck {
		return nil, errors.New("it does not go")
	}
	s.removed = append(s.removed, req.Image.Image)
	return &runtimeapi.RemoveImageResponse{}, nil
}

// Under pressure all images go that nobody uses, except what was just pulled and
// is about to be, and one that cannot be removed does not keep the others.
func TestCollect(t *testing.T) {
	s := &store{stuck: "stuck", used: []string{"running"}, images: []*runtimeapi.Image{
		{Id: "stuck"}, {Id: "running"}, {Id: "idle"}, {Id: "pinned", Pinned: true},
		{Id: "volume", RepoTags: []string{"docker.io/library/data:latest"}},
	}}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	c := &images.Collector{Client: &cri.Client{Runtime: s, Images: s}, Logger: slog.New(slog.DiscardHandler), MinAge: 2 * time.Minute,
		Now: func() time.Time { return now }, Mounted: func() []string { return []string{"data"} }}
	collect := func(want ...string) {
		t.Helper()
		if err := c.Collect(t.Context(), true); err == nil {
			t.Error("nobody is told of the image that does not go")
		}
		if !slices.Equal(s.removed, want) {
			t.Errorf("removed %v, want %v", s.removed, want)
		}
		s.removed = nil
	}
	collect("idle")
	s.images = append(s.images, &runtimeapi.Image{Id: "pulled"})
	collect("idle")
	now = now.Add(2 * time.Minute)
	s.used = nil
	collect("idle", "running", "pulled")
}
