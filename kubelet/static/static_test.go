package static_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/kubelet/internal/fakeapi"
	"github.com/proa-dev/proa/kubelet/pods"
	"github.com/proa-dev/proa/kubelet/static"
)

// bench is a source over a directory of its own.
type bench struct {
	*testing.T
	dir    string
	api    *fakeapi.API
	source *static.Source
	news   chan string // "+name" and "-name"
	pods   chan *corev1.Pod
}

func start(t *testing.T, api *fakeapi.API, dir string) *bench {
	t.Helper()
	b := &bench{T: t, dir: dir, api: api, news: make(chan string, 100), pods: make(chan *corev1.Pod, 100)}
	b.source = static.New(static.Config{
		Dir: dir, NodeName: "n", NodeUID: func() types.UID { return "node-uid" }, Client: b.api, Reader: b.api,
		Logger:  slog.New(slog.DiscardHandler),
		Default: func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyAlways },
		Update:  func(p *corev1.Pod) { b.pods <- p; b.news <- "+" + p.Name },
		Remove:  func(p *corev1.Pod) { b.news <- "-" + p.Name },
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.source.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	<-b.source.Loaded()
	return b
}

func (b *bench) write(file, content string) {
	b.Helper()
	// As an editor does: a file beside it, and a new name.
	hidden := filepath.Join(b.dir, ".new")
	if err := os.WriteFile(hidden, []byte(content), 0o600); err != nil {
		b.Fatal(err)
	}
	if err := os.Rename(hidden, filepath.Join(b.dir, file)); err != nil {
		b.Fatal(err)
	}
}

func (b *bench) want(news ...string) {
	b.Helper()
	for _, want := range news {
		select {
		case got := <-b.news:
			if got != want {
				b.Fatalf("news %q, want %q", got, want)
			}
		case <-time.After(20 * time.Second):
			b.Fatalf("no news, want %q", want)
		}
	}
}

// mirror waits until the API's mirror is of the given hash, or gone when empty.
func (b *bench) mirror(name, hash string) *corev1.Pod {
	b.Helper()
	tick, deadline := time.NewTicker(time.Millisecond), time.After(20*time.Second)
	defer tick.Stop()
	for {
		p := &corev1.Pod{}
		err := b.api.Get(b.Context(), ctrl.ObjectKey{Namespace: "default", Name: name}, p)
		if (err != nil) == (hash == "") && p.Annotations[pods.AnnotationMirror] == hash {
			return p
		}
		select {
		case <-tick.C:
		case <-deadline:
			b.Fatalf("mirror %s: %v, %v; want %q", name, p.Annotations, err, hash)
		}
	}
}

const manifest = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: c, image: "

func TestFilesBecomePods(t *testing.T) {
	b := start(t, &fakeapi.API{}, filepath.Join(t.TempDir(), "made"))
	b.write("web.yaml", manifest+"a}]}\n")
	b.want("+web-n")
	p := <-b.pods
	hash := p.Annotations[pods.AnnotationHash]
	if p.Namespace != "default" || p.Spec.NodeName != "n" || string(p.UID) != hash || hash == "" || !pods.IsStatic(p) || p.Spec.RestartPolicy != corev1.RestartPolicyAlways ||
		p.Status.Phase != corev1.PodPending || len(p.Spec.Tolerations) != 1 || p.Spec.Tolerations[0].Effect != corev1.TaintEffectNoExecute {
		t.Errorf("pod %+v", p)
	}
	mirror := b.mirror("web-n", hash)
	if !pods.IsMirror(mirror) || len(mirror.OwnerReferences) != 1 || mirror.OwnerReferences[0].UID != "node-uid" || mirror.UID == p.UID {
		t.Errorf("mirror %+v", mirror.ObjectMeta)
	}

	// Who deletes the mirror gets a new one.
	if err := b.api.Delete(t.Context(), mirror); err != nil {
		t.Fatal(err)
	}
	b.source.Poke()
	if again := b.mirror("web-n", hash); again.UID == mirror.UID {
		t.Error("the mirror is the old one")
	}

	// Another content is another pod; none that is wrong ends the last.
	b.write("web.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: we")
	b.write("web.yaml", manifest+"b}]}\n")
	b.want("-web-n", "+web-n")
	next := (<-b.pods).Annotations[pods.AnnotationHash]
	if next == hash {
		t.Error("the changed pod has the same hash")
	}
	b.mirror("web-n", next)
	if err := os.Remove(filepath.Join(b.dir, "web.yaml")); err != nil {
		t.Fatal(err)
	}
	b.want("-web-n")
	b.mirror("web-n", "")
}

func TestWrongFilesAreLeftOut(t *testing.T) {
	api := &fakeapi.API{}
	own := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "taken-n"}}
	if err := api.Create(t.Context(), own); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, content := range map[string]string{
		"text": "hello", "empty": "", "kind.yaml": "kind: Service\napiVersion: v1\nmetadata: {name: x}\n",
		"nameless.yaml": "kind: Pod\napiVersion: v1\nspec: {containers: [{name: c}]}\n", "nothing.yaml": "kind: Pod\napiVersion: v1\nmetadata: {name: x}\n",
		"account.yaml": "kind: Pod\napiVersion: v1\nmetadata: {name: x}\nspec: {serviceAccountName: admin, containers: [{name: c}]}\n",
		"field.yaml":   "kind: Pod\napiVersion: v1\nmetadata: {name: x}\nspec: {bogus: 1, containers: [{name: c}]}\n",
		".hidden.yaml": manifest + "a}]}\n",
		"taken.yaml":   "kind: Pod\napiVersion: v1\nmetadata: {name: taken}\nspec: {containers: [{name: c}]}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "directory.yaml"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/zero", filepath.Join(dir, "endless.yaml")); err != nil {
		t.Fatal(err)
	}
	b := start(t, api, dir)
	b.want("+taken-n")
	b.write("web.yaml", manifest+"a}]}\n")
	b.want("+web-n") // and nothing before
	<-b.pods
	b.mirror("web-n", (<-b.pods).Annotations[pods.AnnotationHash])
	have := &corev1.Pod{}
	if err := api.Get(t.Context(), ctrl.ObjectKeyFromObject(own), have); err != nil || have.UID != own.UID || pods.IsMirror(have) {
		t.Errorf("the pod that has a mirror's name: %v, %v", have, err)
	}
}

// A copy beside a manifest names the same pod: there is one, and one mirror.
func TestTwoFilesOfOnePod(t *testing.T) {
	b := start(t, &fakeapi.API{}, t.TempDir())
	b.write("web.yaml", manifest+"a}]}\n")
	b.want("+web-n")
	hash := (<-b.pods).Annotations[pods.AnnotationHash]
	b.write("copy.yaml", manifest+"b}]}\n")
	b.write("other.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: other}\nspec: {containers: [{name: c}]}\n")
	b.want("+other-n") // and nothing of the copy
	<-b.pods
	b.mirror("web-n", hash)
	if err := os.Remove(filepath.Join(b.dir, "web.yaml")); err != nil {
		t.Fatal(err)
	}
	b.want("-web-n", "+web-n")
	b.mirror("web-n", (<-b.pods).Annotations[pods.AnnotationHash])
}
