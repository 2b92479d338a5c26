package fault

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// locked refuses every write that there is, since nobody answers there.
const locked = `
apiVersion: admissionregistration.k8s.io/v1
kind: KINDWebhookConfiguration
metadata: {name: locked}
webhooks:
- name: locked.example.com
  clientConfig: {url: "https://127.0.0.1:9/"}
  rules: [{apiGroups: ["*"], apiVersions: ["*"], resources: ["*/*"], operations: ["*"]}]
  sideEffects: None
  admissionReviewVersions: [v1]
  timeoutSeconds: 1
`

// A cluster whose webhooks are gone refuses what they are for, itself included,
// but starts, serves, and is set free by deleting them.
func TestWebhooksThatAreGone(t *testing.T) {
	n := newNode(t)
	n.start()
	manifest := strings.ReplaceAll(locked, "KIND", "Mutating") + "---" + strings.ReplaceAll(locked, "KIND", "Validating")
	if out, err := n.Kubectl(t.Context(), strings.NewReader(manifest), "apply", "-f", "-"); err != nil {
		t.Fatal(out, err)
	}
	write := func() error {
		_, err := n.client.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "x"}}, metav1.CreateOptions{})
		return err
	}
	const want = `Internal error occurred: failed calling webhook "locked.example.com": failed to call webhook: Post "https://127.0.0.1:9/?timeout=1s": dial tcp 127.0.0.1:9: connect: connection refused`
	for _, end := range []func() error{n.Kill, nil} {
		if err := write(); err == nil || err.Error() != want {
			t.Errorf("a write: %v", err)
		}
		if end == nil {
			break
		}
		if err := end(); err != nil {
			t.Fatal(err)
		}
		if err := n.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		var err error
		if n.client, err = n.Client(); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := n.Kubectl(t.Context(), strings.NewReader(manifest), "delete", "-f", "-"); err != nil {
		t.Fatal(out, err)
	}
	if err := write(); err != nil {
		t.Error(err)
	}
	n.importBusybox()
	n.run("p")
	n.pod("p")
}
