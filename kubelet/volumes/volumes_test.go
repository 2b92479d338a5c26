package volumes_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/kubelet/objects"
	"github.com/proa-dev/proa/kubelet/spec"
	"github.com/proa-dev/proa/kubelet/volumes"
)

const uid = types.UID("0b1c")

// world is a manager over objects that a test changes.
type world struct {
	*volumes.Manager
	t       *testing.T
	objects map[objects.Ref]ctrl.Object
	issued  int
	now     time.Time
}

func (w *world) Get(_ context.Context, ref objects.Ref) (ctrl.Object, error) {
	if o := w.objects[ref]; o != nil {
		return o, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: string(ref.Kind)}, ref.Name)
}

func (w *world) Token(_ context.Context, _, account string, r *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	w.issued++
	r.Status.Token = account + "-token"
	r.Status.ExpirationTimestamp = metav1.NewTime(w.now.Add(time.Duration(*r.Spec.ExpirationSeconds) * time.Second))
	return r, nil
}

func newWorld(t *testing.T) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("volumes need root: tmpfs and bind mounts, and owners of files")
	}
	w := &world{t: t, objects: map[objects.Ref]ctrl.Object{}, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	w.Manager = volumes.New(volumes.Config{RootDir: t.TempDir(), Objects: w, Tokens: w, Now: func() time.Time { return w.now }})
	t.Cleanup(func() {
		if err := w.TearDown(context.Background(), uid); err != nil {
			t.Errorf("tear down: %v", err)
		}
		if _, err := os.Stat(w.PodDir(uid)); !os.IsNotExist(err) {
			t.Errorf("the pod's directory is left: %v", err)
		}
	})
	return w
}

func (w *world) configMap(data map[string]string) {
	w.objects[objects.Ref{Kind: objects.ConfigMap, Namespace: "ns", Name: "cm"}] = &corev1.ConfigMap{Data: data}
}

func pod(v ...corev1.Volume) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: uid},
		Spec: corev1.PodSpec{ServiceAccountName: "sa", Volumes: v, Containers: []corev1.Container{{Name: "c"}}}}
}

func (w *world) setUp(p *corev1.Pod) string {
	w.t.Helper()
	if _, err := w.SetUp(w.t.Context(), p, spec.Fields{Pod: p}); err != nil {
		w.t.Fatal(err)
	}
	return w.Ready(uid)[p.Spec.Volumes[0].Name].Path
}

func (w *world) wantFile(path, text string) {
	w.t.Helper()
	data, err := os.ReadFile(path)
	if err != nil || string(data) != text {
		w.t.Errorf("%s holds %q (%v), want %q", path, data, err, text)
	}
}

func TestConfigMapFollowsItsObject(t *testing.T) {
	w := newWorld(t)
	w.configMap(map[string]string{"a": "1", "b": "2"})
	p := pod(corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}}}})
	dir := w.setUp(p)
	w.wantFile(dir+"/a", "1")
	data, err := os.Readlink(dir + "/..data")
	if err != nil {
		t.Fatal(err)
	}
	w.setUp(p)
	if again, err := os.Readlink(dir + "/..data"); err != nil || again != data {
		t.Errorf("nothing changed, but the files were written anew (%v)", err)
	}
	if err := os.Remove(dir + "/a"); err != nil { // a crash had come before the link was made
		t.Fatal(err)
	}
	w.setUp(p)
	w.wantFile(dir+"/a", "1")
	w.configMap(map[string]string{"a": "changed", "c/../../x": ""})
	if _, err := w.SetUp(t.Context(), p, spec.Fields{Pod: p}); err == nil {
		t.Error("a key leads out of the volume")
	}
	w.configMap(map[string]string{"a": "changed"})
	w.setUp(p)
	w.wantFile(dir+"/a", "changed")
	if _, err := os.Lstat(dir + "/b"); !os.IsNotExist(err) {
		t.Errorf("b is still there: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, data)); !os.IsNotExist(err) {
		t.Errorf("the old data is still there: %v", err)
	}
}

func TestMissingObjects(t *testing.T) {
	w := newWorld(t)
	yes := true
	source := &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}}
	p := pod(corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{ConfigMap: source}})
	_, err := w.SetUp(t.Context(), p, spec.Fields{Pod: p})
	if want := `MountVolume.SetUp failed for volume "v" : configmap "cm" not found`; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	source.Optional = &yes
	w.setUp(p)
	source.Optional, source.Items = nil, []corev1.KeyToPath{{Key: "no", Path: "x"}}
	w.configMap(map[string]string{})
	_, err = w.SetUp(t.Context(), p, spec.Fields{Pod: p})
	if want := "configmap references non-existent config key: no"; err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("error %v, want %s", err, want)
	}
}

func TestProjectedTokenIsRenewedAndOwned(t *testing.T) {
	w := newWorld(t)
	hour, group := int64(3600), int64(2000)
	p := pod(corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: &hour}}}}}})
	p.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: &group}
	dir := w.setUp(p)
	w.wantFile(dir+"/token", "sa-token")
	info, err := os.Stat(dir + "/token")
	if err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v (%v)", info.Mode(), err)
	}
	w.now = w.now.Add(45 * time.Minute)
	w.setUp(p)
	if w.issued != 1 {
		t.Errorf("%d tokens were asked for", w.issued)
	}
	w.now = w.now.Add(4 * time.Minute) // more than 80 % of an hour in all
	w.setUp(p)
	if w.issued != 2 {
		t.Errorf("%d tokens were asked for", w.issued)
	}
}

func TestSubPathStaysBelowItsVolume(t *testing.T) {
	w := newWorld(t)
	p := pod(corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
	dir := w.setUp(p)
	if err := os.Symlink("/etc", dir+"/out"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../../../..", dir+"/up"); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"out", "out/passwd", "up/etc", "/etc", "../x", "a/../../x"} {
		if got, err := w.SubPath(uid, "v", dir, bad, "c", 0); err == nil {
			t.Errorf("%q leads to %s", bad, got)
		}
	}
	got, err := w.SubPath(uid, "v", dir, "new/deep", "c", 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(got+"/f", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.wantFile(dir+"/new/deep/f", "x")
}

func TestReadFileReadsFilesOfTheVolume(t *testing.T) {
	w := newWorld(t)
	dir := w.setUp(pod(corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}))
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(dir+"/d", 0o755))
	must(os.WriteFile(dir+"/d/f", []byte("x"), 0o600))
	must(os.Symlink("d/f", dir+"/link"))
	must(os.Symlink("/etc/passwd", dir+"/out"))
	must(syscall.Mkfifo(dir+"/fifo", 0o600))
	must(os.WriteFile(dir+"/huge", nil, 0o600))
	must(os.Truncate(dir+"/huge", 1<<40))
	for _, good := range []string{"d/f", "link"} {
		if data, err := w.ReadFile(uid, "v", good); err != nil || string(data) != "x" {
			t.Errorf("%s: %q, %v", good, data, err)
		}
	}
	for _, bad := range []string{"out", "fifo", "huge", "d", "../v/d/f", "none"} {
		if data, err := w.ReadFile(uid, "v", bad); err == nil {
			t.Errorf("%s: %d bytes", bad, len(data))
		}
	}
	if _, err := w.ReadFile(uid, "v", "none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}

func TestMemoryVolumeSurvivesSetUpAndEndsWithThePod(t *testing.T) {
	w := newWorld(t)
	p := pod(corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}})
	group := int64(2000)
	p.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: &group}
	dir := w.setUp(p)
	owned := func() {
		t.Helper()
		info, err := os.Stat(dir)
		if err != nil || info.Mode() != os.ModeDir|os.ModeSetgid|0o777 || info.Sys().(*syscall.Stat_t).Gid != 2000 {
			t.Errorf("the volume is %v (%v)", info.Mode(), err)
		}
	}
	owned()
	if err := os.WriteFile(dir+"/f", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.setUp(p)
	w.wantFile(dir+"/f", "x")
	if err := syscall.Unmount(dir, 0); err != nil { // the machine was restarted
		t.Fatal(err)
	}
	w.setUp(p)
	owned()
}

func TestHostPathTypes(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "f")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		path string
		kind corev1.HostPathType
		want string
	}{
		{dir, corev1.HostPathDirectory, ""},
		{file, corev1.HostPathDirectory, "hostPath type check failed: " + file + " is not a directory, it's a File"},
		{file, corev1.HostPathFile, ""},
		{dir, corev1.HostPathSocket, "hostPath type check failed: " + dir + " is not a socket file, it's a Directory"},
		{dir + "/made/dir", corev1.HostPathDirectoryOrCreate, ""},
		{"/dev/null", corev1.HostPathCharDev, ""},
		{"/dev/null", corev1.HostPathBlockDev, "hostPath type check failed: /dev/null is not a block device, it's a CharDevice"},
		{"/dev/null", corev1.HostPathFileOrCreate, "hostPath type check failed: /dev/null is not a file, it's a CharDevice"},
		{dir + "/new", corev1.HostPathFileOrCreate, ""},
		{dir + "/gone", corev1.HostPathFile, "hostPath type check failed, " + dir + "/gone is not a file, unable to determine its type: path \"" + dir + "/gone\" does not exist"},
		{dir + "/none", corev1.HostPathUnset, ""},
	} {
		p := pod(corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: c.path, Type: &c.kind}}})
		_, err := w.SetUp(t.Context(), p, spec.Fields{Pod: p})
		if (err == nil) != (c.want == "") || (err != nil && !strings.HasSuffix(err.Error(), c.want)) {
			t.Errorf("%s as %q: %v, want %q", c.path, c.kind, err, c.want)
		}
	}
}
