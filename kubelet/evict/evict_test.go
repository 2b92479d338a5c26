package evict_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"

	"github.com/proa-dev/proa/kubelet/evict"
	"github.com/proa-dev/proa/kubelet/node"
	"github.com/proa-dev/proa/kubelet/pods"
	"github.com/proa-dev/proa/kubelet/status"
)

// bench is a node whose levels a test sets.
type bench struct {
	mu        sync.Mutex
	levels    map[node.Signal]node.Level
	reclaimed []node.Signal
	reclaim   func()
	evicted   []string
	messages  []string
	changes   int
	pods      []*corev1.Pod
	use       map[string]evict.Use
	storage   map[string]evict.Storage
	asked     []string // whose storage was measured
	recorder  *record.FakeRecorder
	evictor   *evict.Evictor
}

func newBench() *bench {
	b := &bench{recorder: record.NewFakeRecorder(100), use: map[string]evict.Use{}, levels: map[node.Signal]node.Level{}}
	for _, s := range []node.Signal{node.MemoryAvailable, node.NodeFSAvailable, node.NodeFSInodes, node.ImageFSAvailable, node.ImageFSInodes, node.PIDAvailable} {
		b.levels[s] = node.Level{Available: 8 << 30, Capacity: 10 << 30}
	}
	b.evictor = evict.New(evict.Config{
		Thresholds: node.DefaultThresholds(),
		Measure: func(context.Context) (map[node.Signal]node.Level, error) {
			b.mu.Lock()
			defer b.mu.Unlock()
			return maps.Clone(b.levels), nil
		},
		Pods: func() []*corev1.Pod { return slices.Clone(b.pods) },
		Use:  func(_ context.Context, p *corev1.Pod, _ corev1.ResourceName) evict.Use { return b.use[p.Name] },
		Storage: func(_ context.Context, p *corev1.Pod) (evict.Storage, error) {
			b.asked = append(b.asked, p.Name)
			return b.storage[p.Name], nil
		},
		Evict: func(uid types.UID, v status.Verdict, grace *int64) error {
			if v.Phase != corev1.PodFailed || v.Reason != "Evicted" || v.Disrupted != strings.HasPrefix(v.Message, "The node was low") || *grace != 1 {
				return errors.New("not as an eviction is")
			}
			b.evicted, b.messages = append(b.evicted, string(uid)), append(b.messages, v.Message)
			b.pods = slices.DeleteFunc(b.pods, func(p *corev1.Pod) bool { return p.UID == uid })
			return nil
		},
		Reclaim: func(_ context.Context, short node.Signal) error {
			b.reclaimed = append(b.reclaimed, short)
			if b.reclaim != nil {
				b.reclaim()
			}
			return nil
		},
		Changed:  func() { b.changes++ },
		Node:     func() *corev1.ObjectReference { return &corev1.ObjectReference{Kind: "Node", Name: "n"} },
		Recorder: b.recorder, Clock: clock.RealClock{}, Logger: slog.New(slog.DiscardHandler),
	})
	return b
}

func (b *bench) set(signal node.Signal, level node.Level) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.levels[signal] = level
}

// run gives test a bubble in which the evictor looks every 10 seconds.
func (b *bench) run(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { b.evictor.Run(ctx); close(done) }()
		test(t)
		cancel()
		<-done
	})
}

func (b *bench) pod(name string, priority int32, request string, use int64) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}}
	p.Spec.Priority = &priority
	c := corev1.Container{Name: "c"}
	if request != "" {
		q := resource.MustParse(request)
		c.Resources.Requests = corev1.ResourceList{corev1.ResourceMemory: q, corev1.ResourceEphemeralStorage: q}
	}
	p.Spec.Containers = []corev1.Container{c}
	b.pods = append(b.pods, p)
	b.use[name] = evict.Use{Total: use, Containers: map[string]int64{"c": use}}
	return p
}

func TestMemory(t *testing.T) {
	b := newBench()
	b.pod("within", 0, "1Gi", 512<<20)
	b.pod("important", 100, "1Mi", 900<<20)
	b.pod("greedy", 0, "1Mi", 300<<20)
	b.pod("careless", 0, "", 200<<20)
	b.pod("system", 2000000000, "", 1<<30)
	b.pod("file", 0, "", 1<<30).Annotations = map[string]string{pods.AnnotationSource: "file"}
	b.pod("leaving", 0, "", 1<<30).DeletionTimestamp = &metav1.Time{Time: time.Now()}
	b.pod("done", 0, "", 1<<30).Status.Phase = corev1.PodSucceeded
	b.run(t, func(t *testing.T) {
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(b.evicted) > 0 || b.changes > 0 {
			t.Fatalf("evicted without need: %v", b.evicted)
		}
		b.set(node.MemoryAvailable, node.Level{Available: 50 << 20, Capacity: 10 << 30})
		time.Sleep(time.Minute)
		synctest.Wait()
		if want := []string{"greedy", "careless", "important", "within"}; !slices.Equal(b.evicted, want) {
			t.Errorf("evicted %v, want %v", b.evicted, want)
		}
		if want := "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container c was using 300Mi, request is 1Mi, has larger consumption of memory. "; b.messages[0] != want {
			t.Errorf("%q\nwant %q", b.messages[0], want)
		}
		if want := "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. "; b.messages[3] != want {
			t.Errorf("%q\nwant %q", b.messages[3], want)
		}
		if e := <-b.recorder.Events; e != "Warning EvictionThresholdMet Attempting to reclaim memory" {
			t.Errorf("event %q", e)
		}
		if memory, disk, pid := b.evictor.Pressure(); !memory || disk || pid || b.changes != 1 {
			t.Errorf("pressure %v %v %v, told %d times", memory, disk, pid, b.changes)
		}
		// It is announced for five minutes more.
		b.set(node.MemoryAvailable, node.Level{Available: 8 << 30, Capacity: 10 << 30})
		time.Sleep(4 * time.Minute)
		synctest.Wait()
		if memory, _, _ := b.evictor.Pressure(); !memory {
			t.Error("forgotten too early")
		}
		time.Sleep(70 * time.Second)
		synctest.Wait()
		if memory, _, _ := b.evictor.Pressure(); memory || b.changes != 2 {
			t.Errorf("still told, %d times", b.changes)
		}
	})
}

func TestDisk(t *testing.T) {
	for _, c := range []struct {
		signal  node.Signal
		helps   bool
		message string
	}{
		{node.NodeFSAvailable, true, ""},
		{node.NodeFSAvailable, false, "The node was low on resource: ephemeral-storage. Threshold quantity: 1Gi, available: 1Mi. Container c was using 2Mi, request is 1Mi, has larger consumption of ephemeral-storage. "},
		{node.ImageFSAvailable, false, "The node was low on resource: ephemeral-storage. Threshold quantity: 1536Mi, available: 1Mi. Container c was using 2Mi, request is 1Mi, has larger consumption of ephemeral-storage. "},
		{node.ImageFSInodes, false, "The node was low on resource: inodes. Threshold quantity: 512Mi, available: 1Mi. "},
	} {
		t.Run(fmt.Sprint(c.signal, c.helps), func(t *testing.T) {
			b := newBench()
			b.pod("p", 0, "1Mi", 2<<20)
			b.set(c.signal, node.Level{Available: 1 << 20, Capacity: 10 << 30})
			if c.helps {
				b.reclaim = func() { b.set(c.signal, node.Level{Available: 9 << 30, Capacity: 10 << 30}) }
			}
			b.run(t, func(t *testing.T) {
				time.Sleep(11 * time.Second)
				synctest.Wait()
				if _, disk, _ := b.evictor.Pressure(); !disk || !slices.Equal(b.reclaimed, []node.Signal{c.signal}) {
					t.Errorf("disk pressure %v, reclaimed for %v", disk, b.reclaimed)
				}
				if c.helps != (len(b.evicted) == 0) {
					t.Fatalf("evicted %v", b.evicted)
				}
				if !c.helps && b.messages[0] != c.message {
					t.Errorf("%q\nwant %q", b.messages[0], c.message)
				}
			})
		})
	}
}

// Limits on local storage hold however much of the disk is left.
func TestLimits(t *testing.T) {
	b := newBench()
	limits := func(p *corev1.Pod, each ...string) {
		p.Spec.Containers = nil
		for i, text := range each {
			c := corev1.Container{Name: fmt.Sprint("c", i)}
			if text != "" {
				c.Resources.Limits = corev1.ResourceList{corev1.ResourceEphemeralStorage: resource.MustParse(text)}
			}
			p.Spec.Containers = append(p.Spec.Containers, c)
		}
	}
	scratch := func(p *corev1.Pod, medium corev1.StorageMedium, limit string) {
		q := resource.MustParse(limit)
		p.Spec.Volumes = []corev1.Volume{{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: medium, SizeLimit: &q}}}}
	}
	much := map[string]uint64{"scratch": 2 << 20, "c0": 2 << 20, "c1": 2 << 20}
	b.storage = map[string]evict.Storage{}
	for _, name := range []string{"free", "volume", "memory", "within", "whole", "one", "system", "done"} {
		b.storage[name] = evict.Storage{Total: 6 << 20, Volumes: much, Containers: much}
		b.pod(name, 0, "", 0)
	}
	pod := func(name string) *corev1.Pod {
		return b.pods[slices.IndexFunc(b.pods, func(p *corev1.Pod) bool { return p.Name == name })]
	}
	scratch(pod("volume"), "", "1Mi")
	scratch(pod("memory"), corev1.StorageMediumMemory, "1Mi")
	scratch(pod("within"), "", "2Mi")
	limits(pod("within"), "3Mi", "3Mi")
	limits(pod("whole"), "5Mi", "")
	limits(pod("one"), "9Mi", "1Mi")
	scratch(pod("system"), "", "1Mi")
	pod("system").Annotations = map[string]string{pods.AnnotationSource: "file"}
	scratch(pod("done"), "", "1Mi")
	pod("done").Status.Phase = corev1.PodSucceeded
	b.run(t, func(t *testing.T) {
		time.Sleep(time.Minute)
		synctest.Wait()
		if want := []string{"volume", "whole", "one"}; !slices.Equal(b.evicted, want) {
			t.Fatalf("evicted %v, want %v", b.evicted, want)
		}
		for i, want := range []string{
			`Usage of EmptyDir volume "scratch" exceeds the limit "1Mi". `,
			"Pod ephemeral local storage usage exceeds the total limit of containers 5Mi. ",
			`Container c1 exceeded its local ephemeral storage limit "1Mi". `,
		} {
			if b.messages[i] != want {
				t.Errorf("%q, want %q", b.messages[i], want)
			}
		}
		if slices.Contains(b.asked, "free") || slices.Contains(b.asked, "memory") {
			t.Errorf("measured without need: %q", b.asked)
		}
	})
}
