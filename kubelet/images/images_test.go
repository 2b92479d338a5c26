package images_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
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

func puller(t *testing.T, client *cri.Client, dir string) *images.Puller {
	t.Helper()
	p, err := images.New(images.Config{Client: client, Now: time.Now, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPullUsesTheMostSpecificSecret(t *testing.T) {
	secret := corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{
		corev1.DockerConfigJsonKey: []byte(`{"auths":{
			"reg.example.com":{"username":"all","password":"1"},
			"https://reg.example.com/team":{"auth":"dGVhbTpzZWNyZXQ="},
			"*.example.org":{"username":"star","password":"2"},
			"z.example.org":{"username":"host","password":"2"},
			"https://index.docker.io/v1/":{"username":"hub","password":"3"}}}`)}}
	for image, want := range map[string]string{
		"reg.example.com/team/app:1":  "team",
		"reg.example.com/teams/app:1": "all",
		"x.example.org/a":             "star",
		"z.example.org/a":             "host",
		"a.b.example.org/a":           "",
		"busybox":                     "hub",
		"other.io/x":                  "",
	} {
		s := &spy{Runtime: &fakecri.Runtime{}}
		p := puller(t, &cri.Client{Images: s}, t.TempDir())
		_, err := p.Pull(t.Context(), images.Request{Pod: &corev1.Pod{}, Image: image, Secrets: func() []corev1.Secret { return []corev1.Secret{secret} }, Event: func(string, string, string) {}})
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
		p := puller(t, r.Client(), t.TempDir())
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
	c := &images.Collector{Client: &cri.Client{Runtime: s, Images: s}, Puller: puller(t, &cri.Client{Images: s}, t.TempDir()), Logger: slog.New(slog.DiscardHandler), MinAge: 2 * time.Minute,
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

// full is a runtime whose images' disk is full.
type full struct {
	*fakecri.Runtime
	disk    string
	removed []string
}

func (f *full) ImageFsInfo(context.Context, *runtimeapi.ImageFsInfoRequest, ...grpc.CallOption) (*runtimeapi.ImageFsInfoResponse, error) {
	return &runtimeapi.ImageFsInfoResponse{ImageFilesystems: []*runtimeapi.FilesystemUsage{{FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: f.disk}}}}, nil
}

func (f *full) ListImages(context.Context, *runtimeapi.ListImagesRequest, ...grpc.CallOption) (*runtimeapi.ListImagesResponse, error) {
	out := &runtimeapi.ListImagesResponse{}
	for _, name := range f.Images {
		out.Images = append(out.Images, &runtimeapi.Image{Id: name, Size: 7})
	}
	return out, nil
}

func (f *full) RemoveImage(_ context.Context, req *runtimeapi.RemoveImageRequest, _ ...grpc.CallOption) (*runtimeapi.RemoveImageResponse, error) {
	f.removed = append(f.removed, req.Image.Image)
	return &runtimeapi.RemoveImageResponse{}, nil
}

// No registry gives back what was imported: pods that come back to it would
// wait for ever. That the rest was not enough is told.
func TestImportedImagesStay(t *testing.T) {
	f := &full{Runtime: &fakecri.Runtime{Images: []string{"imported:1"}}, disk: t.TempDir()}
	client := &cri.Client{Runtime: f, Images: f}
	p := puller(t, client, t.TempDir())
	if _, err := p.Pull(t.Context(), images.Request{Pod: &corev1.Pod{}, Image: "pulled:1", Event: func(string, string, string) {}}); err != nil {
		t.Fatal(err)
	}
	c := &images.Collector{Client: client, Puller: p, Logger: slog.New(slog.DiscardHandler), Now: time.Now, Low: -100} // more than the disk holds
	collect := func(pressed bool, want ...string) error {
		t.Helper()
		f.removed = nil
		err := c.Collect(t.Context(), pressed)
		slices.Sort(f.removed)
		if !slices.Equal(f.removed, want) {
			t.Errorf("removed %v, want %v", f.removed, want)
		}
		return err
	}
	var lacking *images.FullError
	if err := collect(false, "pulled:1"); !errors.As(err, &lacking) || !strings.Contains(lacking.Error(), "GiB used). Failed to free sufficient space by deleting unused images (freed 7 bytes).") {
		t.Error(err)
	}
	if err := collect(true, "imported:1", "pulled:1"); err != nil {
		t.Error(err)
	}
}

// registry is a runtime whose registry lets nobody in without the password.
type registry struct {
	*fakecri.Runtime
	password string // empty: everybody may
	pulls    int
}

func (r *registry) PullImage(ctx context.Context, req *runtimeapi.PullImageRequest, opts ...grpc.CallOption) (*runtimeapi.PullImageResponse, error) {
	r.pulls++
	if r.password != "" && req.Auth.GetPassword() != r.password {
		return nil, errors.New("denied")
	}
	return r.Runtime.PullImage(ctx, req, opts...)
}

// That an image is on the node gives nobody what its registry would refuse.
func TestPrivateImagesAreNotEverybodys(t *testing.T) {
	r := &registry{Runtime: &fakecri.Runtime{Images: []string{"example.com/brought:1"}}, password: "right"}
	client, dir := &cri.Client{Runtime: r, Images: r}, t.TempDir()
	p := puller(t, client, dir)
	secret := func(uid types.UID, password string) []corev1.Secret {
		return []corev1.Secret{{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: string("of-" + uid), UID: uid}, Type: corev1.SecretTypeDockerConfigJson,
			Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte(`{"auths":{"example.com":{"username":"u","password":"` + password + `"}}}`)}}}
	}
	// gets says whether a pod gets the image, and after how many pulls.
	gets := func(image string, policy corev1.PullPolicy, secrets []corev1.Secret, want bool, pulls int) {
		t.Helper()
		before := r.pulls
		req := images.Request{Pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(fmt.Sprint(before))}}, Image: image, Policy: policy,
			Secrets: func() []corev1.Secret { return secrets }, Event: func(string, string, string) {}}
		have, err := p.Present(t.Context(), req)
		if have == nil && err == nil {
			have, err = p.Pull(t.Context(), req)
		}
		if (have != nil) != want || (err == nil) != want || r.pulls-before != pulls {
			t.Errorf("%s: %v, %v after %d pulls; want %v after %d", image, have, err, r.pulls-before, want, pulls)
		}
	}
	const image = "example.com/private:1"
	gets("example.com/brought:1", "", nil, true, 0)
	gets(image, "", nil, false, 1)
	gets(image, "", secret("a", "right"), true, 1)
	for range 2 { // the second time after a restart
		gets(image, "", secret("a", "right"), true, 0)
		gets(image, "", secret("a", "renewed"), true, 0) // the same secret
		gets(image, "", secret("b", "right"), true, 0)   // another that holds the same
		gets(image, "", secret("b", "wrong"), false, 1)
		gets(image, "", nil, false, 1)
		gets(image, corev1.PullNever, nil, false, 0)
		gets("example.com/brought:1", "", nil, true, 0)
		p = puller(t, client, dir)
	}
	// Who has secrets is not tried as nobody: each is asked with, and no more.
	both := append(secret("a", "wrong"), secret("b", "wrong as well")...)
	gets(image, corev1.PullAlways, both, false, 2)
	gets(image, corev1.PullAlways, append(both, secret("a", "right")...), true, 3)
	r.password = ""
	gets(image, "", nil, true, 1)
	gets(image, "", nil, true, 0)
	r.password = "changed"
	gets(image, "", secret("b", "wrong"), true, 0) // it was everybody's once
}

// A pull that was cut short may have left its image: nobody knows for whom.
func TestPullsThatWereCutShort(t *testing.T) {
	r, dir := &fakecri.Runtime{}, t.TempDir()
	var next *images.Puller
	r.PullError = func(string) error { // the next life sees what the first has noted now
		next = puller(t, r.Client(), dir)
		return nil
	}
	req := images.Request{Pod: &corev1.Pod{}, Image: "example.com/a:1", Event: func(string, string, string) {}}
	if _, err := puller(t, r.Client(), dir).Pull(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	p := next
	if have, err := p.Present(t.Context(), req); have != nil || err != nil {
		t.Errorf("the image is %v, %v", have, err)
	}
	if _, err := p.Pull(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if have, err := p.Present(t.Context(), req); have == nil || err != nil {
		t.Errorf("the image is %v, %v", have, err)
	}
}
