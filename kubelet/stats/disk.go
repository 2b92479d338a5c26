package stats

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	"k8s.io/utils/clock"

	"github.com/proa-dev/proa/kubelet/internal/du"
)

// fileSystem is what a file system has; nothing is known of one that is not
// ok.
type fileSystem struct {
	ok                        bool
	device                    string
	capacity, available, used uint64
	inodes, inodesFree        uint64
}

func statFS(dir string) fileSystem {
	var st unix.Statfs_t
	if dir == "" || unix.Statfs(dir, &st) != nil {
		return fileSystem{}
	}
	size := uint64(max(st.Bsize, 0))
	return fileSystem{ok: true, device: deviceOf(dir), capacity: st.Blocks * size, available: st.Bavail * size,
		used: (st.Blocks - st.Bfree) * size, inodes: st.Files, inodesFree: st.Ffree}
}

// deviceOf is the device that a directory is on.
func deviceOf(dir string) string {
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil {
		return ""
	}
	target, err := os.Readlink(filepath.Join("/sys/dev/block", devNumber(st.Dev)))
	if err != nil {
		return "" // overlays and memory have none
	}
	return "/dev/" + filepath.Base(target)
}

// stats is the file system as the summary shows it.
func (f fileSystem) stats(at metav1.Time) *statsapi.FsStats {
	out := &statsapi.FsStats{Time: at}
	if f.ok {
		used := f.inodes - min(f.inodes, f.inodesFree)
		out.AvailableBytes, out.CapacityBytes, out.UsedBytes = &f.available, &f.capacity, &f.used
		out.Inodes, out.InodesFree, out.InodesUsed = &f.inodes, &f.inodesFree, &used
	}
	return out
}

// within is what something takes of the file system.
func (f fileSystem) within(at metav1.Time, bytes, inodes *uint64) *statsapi.FsStats {
	out := f.stats(at)
	out.UsedBytes, out.InodesUsed = bytes, inodes
	return out
}

// walks measures directories beside those who ask, a few at a time.
type walks struct {
	ctx   context.Context
	clock clock.Clock
	slots chan struct{}
	wg    sync.WaitGroup

	mu   sync.Mutex
	dirs map[string]*walk
}

type walk struct {
	size  du.Size
	known bool
	at    time.Time
	good  time.Duration // for so long
	done  chan struct{} // of the walk that is under way; nil when none is
}

const (
	// A size is good for walkFactor times what it took to measure it, within
	// bounds: the longest is upstream's.
	walkFactor          = 100
	leastGood, mostGood = 10 * time.Second, time.Minute
	// walkPatience is how long a request waits for all that are not known.
	walkPatience = 2 * time.Second
	// walkTimeout ends what will not end.
	walkTimeout = 10 * time.Minute
	walkers     = 2
	// maxWalks bounds what is remembered; pods come and go.
	maxWalks = 4096
)

func newWalks(ctx context.Context, clk clock.Clock) *walks {
	return &walks{ctx: ctx, clock: clk, slots: make(chan struct{}, walkers), dirs: map[string]*walk{}}
}

// begin has dir measured if nothing is known of it, or nothing new.
func (w *walks) begin(dir string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.beginLocked(dir)
}

func (w *walks) beginLocked(dir string) *walk {
	x := w.dirs[dir]
	if x == nil {
		if len(w.dirs) >= maxWalks {
			w.forget()
		}
		x = &walk{}
		w.dirs[dir] = x
	}
	if x.done == nil && (!x.known || w.clock.Since(x.at) >= x.good) && w.ctx.Err() == nil {
		x.done = make(chan struct{})
		w.wg.Add(1)
		go w.walk(dir, x, x.done)
	}
	return x
}

// size is what is below dir. A size that is outdated is still told while a new
// one is measured; one that is not known is waited for until then.
func (w *walks) size(ctx context.Context, dir string, until time.Time) (du.Size, bool) {
	w.mu.Lock()
	x := w.beginLocked(dir)
	done, have, known := x.done, x.size, x.known
	w.mu.Unlock()
	left := until.Sub(w.clock.Now())
	if known || done == nil || left <= 0 {
		return have, known
	}
	timer := w.clock.NewTimer(left)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C():
	case <-ctx.Done():
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return x.size, x.known
}

// forget drops what nobody measures now; w.mu is held.
func (w *walks) forget() {
	for dir, x := range w.dirs {
		if x.done == nil {
			delete(w.dirs, dir)
		}
	}
}

func (w *walks) walk(dir string, x *walk, done chan struct{}) {
	defer w.wg.Done()
	var got du.Size
	var err error
	var took time.Duration
	select {
	case w.slots <- struct{}{}:
		began := w.clock.Now()
		ctx, cancel := context.WithTimeout(w.ctx, walkTimeout)
		got, err = du.Measure(ctx, dir)
		cancel()
		took = w.clock.Since(began)
		<-w.slots
	case <-w.ctx.Done():
		err = w.ctx.Err()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil {
		x.size, x.known = got, true
	}
	x.at, x.done, x.good = w.clock.Now(), nil, min(max(walkFactor*took, leastGood), mostGood)
	close(done)
}

// volume tells what one volume of a pod takes; nil where that says nothing: a
// directory of the node is not the pod's.
func (r *Reader) volume(ctx context.Context, until time.Time, now *reading, pod *corev1.Pod, v *corev1.Volume, path string) *statsapi.VolumeStats {
	at := now.time()
	out := &statsapi.VolumeStats{Name: v.Name}
	switch {
	case v.PersistentVolumeClaim != nil, v.Ephemeral != nil:
		out.PVCRef = claimOf(pod, v)
		out.FsStats = *statFS(path).stats(at)
	case onNode(v):
		got, known := r.walks.size(ctx, path, until)
		out.FsStats = *now.disk.stats(at)
		out.UsedBytes, out.InodesUsed = nil, nil
		if known {
			out.UsedBytes, out.InodesUsed = &got.Bytes, &got.Inodes
		}
	case v.EmptyDir != nil: // of memory
		out.FsStats = *statFS(path).stats(at)
	default:
		return nil
	}
	return out
}

// onNode says whether a volume is a directory on the node's own disk, which is
// the pod's alone.
func onNode(v *corev1.Volume) bool {
	return v.EmptyDir != nil && v.EmptyDir.Medium == corev1.StorageMediumDefault || v.ConfigMap != nil || v.Secret != nil || v.Projected != nil || v.DownwardAPI != nil
}

// claimOf names the claim of a volume, nil of one that has none.
func claimOf(pod *corev1.Pod, v *corev1.Volume) *statsapi.PVCReference {
	switch {
	case v.PersistentVolumeClaim != nil:
		return &statsapi.PVCReference{Name: v.PersistentVolumeClaim.ClaimName, Namespace: pod.Namespace}
	case v.Ephemeral != nil:
		return &statsapi.PVCReference{Name: pod.Name + "-" + v.Name, Namespace: pod.Namespace}
	}
	return nil
}
