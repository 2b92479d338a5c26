package cgroups_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/proa-dev/proa/kubelet/cgroups"
)

// dirs finds the directories of a group in every hierarchy of this machine.
func dirs(t *testing.T, path string) []string {
	t.Helper()
	var out []string
	for _, pattern := range []string{"/sys/fs/cgroup" + path, "/sys/fs/cgroup/*" + path} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, found...)
	}
	return out
}

func TestPodGroups(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("control groups need root")
	}
	root := fmt.Sprintf("/proa-test-%d", os.Getpid())
	m, err := cgroups.New(root, 2000)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, sub := range []string{"/kubepods/burstable", "/kubepods/besteffort", "/kubepods", ""} {
			for _, d := range dirs(t, root+sub) {
				if err := unix.Rmdir(d); err != nil {
					t.Errorf("%s: %v", d, err)
				}
			}
		}
	})
	if whole := m.Unified()["memory.oom.group"] == "1"; whole != m.V2() {
		t.Errorf("containers are killed as a whole: %v; cgroup v2: %v", whole, m.V2())
	}
	limits := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m"), corev1.ResourceMemory: resource.MustParse("64Mi")}
	for _, c := range []struct {
		class string
		spec  corev1.ResourceRequirements
		path  string
	}{
		{"besteffort", corev1.ResourceRequirements{}, "/kubepods/besteffort/podu"},
		{"burstable", corev1.ResourceRequirements{Limits: limits, Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m")}}, "/kubepods/burstable/podu"},
		{"guaranteed", corev1.ResourceRequirements{Limits: limits, Requests: limits}, "/kubepods/podu"},
	} {
		t.Run(c.class, func(t *testing.T) {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Resources: c.spec}}}}
			if got := m.Parent(pod); got != root+c.path {
				t.Fatalf("parent %s, want %s", got, root+c.path)
			}
			for range 2 { // again changes nothing
				if err := m.Ensure(pod); err != nil {
					t.Fatal(err)
				}
			}
			if len(dirs(t, root+c.path)) == 0 || len(m.UIDs()) != 1 {
				t.Errorf("the group was not made: %v", m.UIDs())
			}
			if err := m.Remove("u"); err != nil {
				t.Fatal(err)
			}
			if left := dirs(t, root+c.path); len(left) > 0 || len(m.UIDs()) != 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
	for _, uid := range []types.UID{"", "a/../b"} {
		if err := m.Remove(uid); err == nil {
			t.Errorf("%q passes as a uid", uid)
		}
	}
}
