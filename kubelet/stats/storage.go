package stats

import (
	"context"
	"iter"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"

	"github.com/proa-dev/proa/kubelet/internal/du"
)

// Storage is what a pod takes of the node's own disk, in bytes.
type Storage struct {
	Total uint64
	// Volumes and containers are by name. Layers are what containers wrote over
	// their images.
	Volumes, Logs, Layers map[string]uint64
}

// Storage tells what a pod takes of the node's own disk. It waits for nothing: a
// directory that is not measured yet counts as nothing, and will be known later.
func (r *Reader) Storage(ctx context.Context, pod *corev1.Pod) (Storage, error) {
	out := Storage{Volumes: map[string]uint64{}, Logs: map[string]uint64{}, Layers: map[string]uint64{}}
	runs, err := r.containers(ctx)
	if err != nil {
		return out, err
	}
	for i := range runs[pod.UID] {
		c := &runs[pod.UID][i]
		out.Layers[c.name] = c.stats.GetWritableLayer().GetUsedBytes().GetValue()
		if logs, err := du.Measure(ctx, r.logsOf(c)); err == nil {
			out.Logs[c.name] = logs.Bytes
		}
		out.Total += out.Layers[c.name] + out.Logs[c.name]
	}
	now := r.cfg.Clock.Now()
	for v, path := range r.mounted(pod) {
		if !onNode(v) {
			continue
		}
		if got, known := r.walks.size(ctx, path, now); known {
			out.Volumes[v.Name] = got.Bytes
			out.Total += got.Bytes
		}
	}
	if hosts, err := du.Measure(ctx, r.hostsFile(pod)); err == nil {
		out.Total += hosts.Bytes
	}
	return out, ctx.Err()
}

// mounted are the volumes of a pod that are there, and their directories.
func (r *Reader) mounted(pod *corev1.Pod) iter.Seq2[*corev1.Volume, string] {
	ready := r.cfg.Volumes.Ready(pod.UID)
	return func(yield func(*corev1.Volume, string) bool) {
		for i := range pod.Spec.Volumes {
			v := &pod.Spec.Volumes[i]
			at, ok := ready[v.Name]
			if ok && at.Path != "" && !at.Device && !yield(v, at.Path) {
				return
			}
		}
	}
}

// beginWalks has a pod's directories measured, so that who then asks for one
// size after the other waits for all at once.
func (r *Reader) beginWalks(pod *corev1.Pod) {
	for v, path := range r.mounted(pod) {
		if onNode(v) {
			r.walks.begin(path)
		}
	}
}

func (r *Reader) logsOf(c *container) string {
	return filepath.Join(r.cfg.PodLogsDir, c.pod.Namespace+"_"+c.pod.Name+"_"+string(c.pod.UID), c.name)
}

func (r *Reader) hostsFile(pod *corev1.Pod) string {
	return filepath.Join(r.cfg.Volumes.PodDir(pod.UID), "etc-hosts")
}
