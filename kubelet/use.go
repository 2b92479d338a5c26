package kubelet

import (
	"context"
	"errors"
	"path/filepath"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/proa-dev/proa/kubelet/cri"
	"github.com/proa-dev/proa/kubelet/evict"
	"github.com/proa-dev/proa/kubelet/internal/du"
	"github.com/proa-dev/proa/kubelet/node"
	"github.com/proa-dev/proa/kubelet/pods"
	"github.com/proa-dev/proa/kubelet/status"
)

// Thresholds are what a node must have left.
type Thresholds = node.Thresholds

// ParseThresholds reads the form of upstream's flag: memory.available<100Mi.
func ParseThresholds(list []string) (Thresholds, error) { return node.ParseThresholds(list) }

// evictor makes the part that ends pods when the node runs short.
func (k *Kubelet) evictor(p *parts, recorder record.EventRecorder) *evict.Evictor {
	return evict.New(evict.Config{
		Thresholds: k.cfg.EvictionHard,
		Measure: func(ctx context.Context) (map[node.Signal]node.Level, error) {
			return node.Measure(k.cfg.RootDir, p.imageDir(ctx), int64(p.cgroups.Node().WorkingSet))
		},
		Pods: func() []*corev1.Pod { return p.pods.Pods() },
		Use: func(ctx context.Context, pod *corev1.Pod, of corev1.ResourceName) evict.Use {
			return k.use(ctx, p, pod, of)
		},
		Storage: func(ctx context.Context, pod *corev1.Pod) (evict.Storage, error) { return k.storage(ctx, p, pod) },
		Evict:   func(uid uidType, v status.Verdict, grace *int64) error { return p.pods.Evict(uid, v, grace) },
		Reclaim: func(ctx context.Context, short node.Signal) error { return k.reclaim(ctx, p, short) },
		Changed: func() { p.node.Poke() }, Evicted: func(signal node.Signal) { p.metrics.Evicted(string(signal)) },
		Node: func() *corev1.ObjectReference { return p.node.Ref() }, Recorder: recorder,
		Clock: k.cfg.Clock, Logger: k.log,
	})
}

// reclaim makes room without ending pods: first what is left of those that have
// ended goes, then the images that nobody uses, unless they lie on another disk
// than the one that is short.
func (k *Kubelet) reclaim(ctx context.Context, p *parts, short node.Signal) error {
	err := p.pods.Reclaim(ctx)
	if (short == node.NodeFSAvailable || short == node.NodeFSInodes) && !k.imagesHere(ctx, p) {
		return err
	}
	return errors.Join(err, p.gc.Collect(ctx, true))
}

// imagesHere says that images and containers lie on the same disk as all else.
func (k *Kubelet) imagesHere(ctx context.Context, p *parts) bool {
	dir := p.imageDir(ctx)
	return dir == "" || deviceOf(dir) == deviceOf(k.cfg.RootDir)
}

// useTimeout bounds the look at one pod's files.
const useTimeout = time.Minute

// use says what a pod uses of a resource. What cannot be read counts as
// nothing: it is a question of order.
func (k *Kubelet) use(ctx context.Context, p *parts, pod *corev1.Pod, of corev1.ResourceName) evict.Use {
	ctx, cancel := context.WithTimeout(ctx, useTimeout)
	defer cancel()
	out := evict.Use{Containers: map[string]int64{}}
	switch of {
	case "pids":
		out.Total = int64(p.cgroups.Pod(pod).Threads)
		return out
	case corev1.ResourceMemory:
		out.Total = int64(p.cgroups.Pod(pod).WorkingSet)
	default:
		volumes := filepath.Join(p.volumes.PodDir(pod.UID), "volumes", "kubernetes.io~empty-dir")
		out.Total = size(ctx, volumes, of)
	}
	got, err := p.cri.Runtime.ListContainerStats(ctx, &runtimeapi.ListContainerStatsRequest{
		Filter: &runtimeapi.ContainerStatsFilter{LabelSelector: map[string]string{cri.LabelPodUID: string(pod.UID)}}})
	if err != nil {
		k.log.Debug("statistics of a pod's containers not read", "pod", pod.Namespace+"/"+pod.Name, "err", err)
		return out
	}
	for _, st := range got.Stats {
		name := st.GetAttributes().GetMetadata().GetName()
		switch of {
		case corev1.ResourceMemory:
			out.Containers[name] = int64(st.GetMemory().GetWorkingSetBytes().GetValue())
		case corev1.ResourceEphemeralStorage:
			logs := size(ctx, filepath.Join(pods.LogDir(k.cfg.PodLogsDir, pod.Namespace, pod.Name, string(pod.UID)), name), of)
			out.Containers[name] = int64(st.GetWritableLayer().GetUsedBytes().GetValue()) + logs
			out.Total += out.Containers[name]
		default:
			out.Total += int64(st.GetWritableLayer().GetInodesUsed().GetValue())
		}
	}
	return out
}

// size is what the files below dir take, in bytes or inodes.
func size(ctx context.Context, dir string, of corev1.ResourceName) int64 {
	got, _ := du.Measure(ctx, dir) // what cannot be read counts as nothing
	if of == corev1.ResourceEphemeralStorage {
		return int64(got.Bytes)
	}
	return int64(got.Inodes)
}

// storage says what a pod takes of the node's disk.
func (k *Kubelet) storage(ctx context.Context, p *parts, pod *corev1.Pod) (evict.Storage, error) {
	ctx, cancel := context.WithTimeout(ctx, useTimeout)
	defer cancel()
	got, err := p.stats.Storage(ctx, pod)
	if err != nil {
		return evict.Storage{}, err
	}
	out := evict.Storage{Total: got.Total, Volumes: got.Volumes, Containers: got.Logs}
	if k.imagesHere(ctx, p) {
		for name, n := range got.Layers {
			out.Containers[name] += n
		}
	}
	return out, nil
}

// deviceOf is the number of the file system that a directory is on; 0 for none.
func deviceOf(dir string) uint64 {
	var st syscall.Stat_t
	if syscall.Stat(dir, &st) != nil {
		return 0
	}
	return st.Dev
}
