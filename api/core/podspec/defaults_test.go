package podspec_test

import (
	"strings"
	"testing"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"

	"github.com/proa-dev/proa/api/core/podspec"
)

// Images are pulled always when their tag is latest, named or implied: the short
// ways to find that out come out as the library's.
func TestPullPolicy(t *testing.T) {
	part := rapid.SampledFrom([]string{"a", "b0", "latest", ".", "-", "_", "/", ":", ":5000", "@", "A", "localhost", "sha256", " ", "é", ":latest", ":v1"})
	rapid.Check(t, func(t *rapid.T) {
		image := strings.Join(rapid.SliceOfN(part, 1, 6).Draw(t, "image"), "")
		want := corev1.PullIfNotPresent
		if ref, err := reference.ParseNormalizedNamed(image); err == nil {
			if tagged, ok := reference.TagNameOnly(ref).(reference.Tagged); ok && tagged.Tag() == "latest" {
				want = corev1.PullAlways
			}
		}
		p := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: image}}}}
		podspec.DefaultPod(p)
		if got := p.Spec.Containers[0].ImagePullPolicy; got != want {
			t.Errorf("%q: %s, want %s", image, got, want)
		}
	})
}
