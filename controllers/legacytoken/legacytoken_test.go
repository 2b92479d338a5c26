package legacytoken_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/controllers/internal/clustertest"
	"github.com/proa-dev/proa/controllers/legacytoken"
)

const (
	used    = "kubernetes.io/legacy-token-last-used"
	invalid = "kubernetes.io/legacy-token-invalid-since"
)

var now = time.Date(2026, 6, 15, 12, 0, 0, 0, time.UTC)

func secret(name, made string, labels map[string]string) *corev1.Secret {
	at, err := time.Parse(time.DateOnly, made)
	if err != nil {
		panic(err)
	}
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{
		Namespace: "ns", Name: name, Labels: labels, CreationTimestamp: metav1.NewTime(at), Annotations: map[string]string{corev1.ServiceAccountNameKey: "app"},
	}, Type: corev1.SecretTypeServiceAccountToken}
}

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		name, made string
		labels     map[string]string
		want       legacytoken.Verdict
	}{
		{"young", "2025-06-16", nil, legacytoken.Keep},
		{"old, never used", "2025-06-14", nil, legacytoken.Mark},
		{"used a year ago", "2020-01-01", map[string]string{used: "2025-06-15"}, legacytoken.Keep},
		{"used earlier", "2020-01-01", map[string]string{used: "2025-06-14"}, legacytoken.Mark},
		{"used at a day that is none", "2020-01-01", map[string]string{used: "soon"}, legacytoken.Keep},
		{"marked lately", "2020-01-01", map[string]string{invalid: "2025-06-15"}, legacytoken.Keep},
		{"marked long ago", "2020-01-01", map[string]string{invalid: "2025-06-14"}, legacytoken.Remove},
		{"marked, but used since", "2020-01-01", map[string]string{invalid: "2025-06-14", used: "2026-01-01"}, legacytoken.Keep},
		{"marked with what is no day", "2020-01-01", map[string]string{invalid: "x"}, legacytoken.Mark},
	} {
		if got := legacytoken.Judge(secret("s", c.made, c.labels), now); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
	other := secret("s", "2020-01-01", nil)
	other.Type = corev1.SecretTypeOpaque
	if got := legacytoken.Judge(other, now); got != legacytoken.Keep {
		t.Errorf("a Secret that is no token: %d", got)
	}
}

// world has tokens of every sort, all of them old and unused.
func world(t *testing.T, since string) (*clustertest.Cluster, *clocktesting.FakeClock) {
	t.Helper()
	stranger := secret("stranger", "2020-01-01", nil)
	stranger.Annotations[corev1.ServiceAccountUIDKey] = "another"
	objs := []client.Object{
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "app", UID: "uid"},
			Secrets: []corev1.ObjectReference{{Name: "auto"}, {Name: "marked"}, {Name: "mounted"}, {Name: "stranger"}}},
		secret("auto", "2020-01-01", nil), secret("marked", "2020-01-01", map[string]string{invalid: "2021-01-01"}),
		secret("byhand", "2020-01-01", nil), secret("mounted", "2020-01-01", nil), stranger,
		&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}, Spec: corev1.PodSpec{
			Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "mounted"}}}}}},
	}
	if since != "" {
		objs = append(objs, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "kube-apiserver-legacy-service-account-token-tracking"},
			Data: map[string]string{"since": since}})
	}
	c := clustertest.New(t, objs...)
	clk := clocktesting.NewFakeClock(now)
	l, err := legacytoken.New(c.Env(clk))
	c.Do(err)
	c.Run(l)
	return c, clk
}

func marked(c *clustertest.Cluster, name string) bool {
	s := &corev1.Secret{}
	return c.Get(s, "ns", name) && s.Labels[invalid] != ""
}

func TestClean(t *testing.T) {
	c, _ := world(t, "2024-01-01")
	c.Eventually(func() (bool, string) {
		return marked(c, "auto") && !c.Get(&corev1.Secret{}, "ns", "marked"), "the unused tokens are not marked and removed"
	})
	for _, name := range []string{"byhand", "mounted", "stranger"} {
		if !c.Get(&corev1.Secret{}, "ns", name) || marked(c, name) {
			t.Errorf("%s was touched", name)
		}
	}
}

// Nothing is touched until uses have been known for a year, whatever becomes of
// the ConfigMap.
func TestTracking(t *testing.T) {
	c, clk := world(t, "")
	since := func(want string) {
		t.Helper()
		c.Eventually(func() (bool, string) {
			m := &corev1.ConfigMap{}
			return c.Get(m, "kube-system", "kube-apiserver-legacy-service-account-token-tracking") && m.Data["since"] == want, "since is " + m.Data["since"]
		})
	}
	since("2026-06-15")
	c.Do(c.API.Patch(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "kube-apiserver-legacy-service-account-token-tracking"}},
		client.RawPatch(types.MergePatchType, []byte(`{"data":{"since":"x"}}`))))
	since("2026-06-15")
	clk.Step(365 * 24 * time.Hour)
	clk.Step(25 * time.Hour)
	c.Eventually(func() (bool, string) { return marked(c, "auto"), "the unused token is not marked after a year" })
}
