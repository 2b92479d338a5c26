package pods_test

import (
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"github.com/proa-dev/proa/kubelet/internal/fakecri"
	"github.com/proa-dev/proa/kubelet/pods"
)

// A changed manifest is another static pod of the same name, which may want the
// same port: it waits for the end of the one before.
func TestStaticPodWaitsForItsPredecessor(t *testing.T) {
	runtime := &fakecri.Runtime{Act: func(string, uint32) fakecri.Behaviour { return fakecri.Behaviour{IgnoresTerm: true} }}
	run(t, runtime, func(b *bench) {
		static := func(uid types.UID) *corev1.Pod {
			p := pod("c")
			p.UID, p.Annotations = uid, map[string]string{pods.AnnotationSource: "file"}
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 80}}
			return p
		}
		b.manager.Update(static("a"))
		synctest.Wait()
		b.manager.Remove(static("a"))
		b.manager.Update(static("b"))
		b.manager.Remove(static("b")) // changed again meanwhile
		b.manager.Update(static("c"))
		time.Sleep(29 * time.Second)
		b.wantLog("sandbox p/0", "start c/0", "stop c/0 30s")
		time.Sleep(2 * time.Second)
		b.wantLog("sandbox p/0", "start c/0", "stop c/0 30s", "exit c/0 137", "stop sandbox p/0", "sandbox p/0", "start c/0")
		if all := b.manager.Pods(); len(all) != 1 || all[0].UID != "c" || all[0].Status.Phase != corev1.PodRunning {
			t.Errorf("pods: %v", all)
		}
	})
}

// What the node does not know is the cluster's to count: a scheduler's extender
// has, or a claim of devices stands for it.
func TestUnknownResourcesAreNotTheNodes(t *testing.T) {
	run(t, &fakecri.Runtime{}, func(b *bench) {
		p := pod("c")
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"example.com/licence": resource.MustParse("1")}
		b.manager.Update(p)
		b.wantLog("sandbox p/0", "start c/0")
	})
}
