package images_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"context"

	"google.golang.org/grpc"
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
