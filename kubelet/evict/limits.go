package evict

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	helpers "k8s.io/component-helpers/resource"

	"github.com/proa-dev/proa/kubelet/node"
	"github.com/proa-dev/proa/kubelet/pods"
	"github.com/proa-dev/proa/kubelet/status"
)

// Storage is what a pod takes of the node's disk, in bytes.
type Storage struct {
	Total uint64
	// Volumes and Containers are by name: directories of emptyDirs, logs, and
	// what was written over images.
	Volumes, Containers map[string]uint64
}

// The limits on local storage, as metrics name them.
const (
	limitEmptyDir  node.Signal = "emptydirfs.limit"
	limitPod       node.Signal = "ephemeralpodfs.limit"
	limitContainer node.Signal = "ephemeralcontainerfs.limit"
)

// enforce evicts the pods that take more of the disk than they may, however
// much there is, and says whether there were any.
func (e *Evictor) enforce(ctx context.Context) (any bool) {
	for _, p := range e.cfg.Pods() {
		if !mayEnd(p) || !limited(p) {
			continue
		}
		used, err := e.cfg.Storage(ctx, p)
		if err != nil {
			e.cfg.Logger.Warn("what a pod takes of the disk cannot be read", "pod", p.Namespace+"/"+p.Name, "err", err)
			continue
		}
		signal, text := exceeded(p, used)
		if signal == "" {
			continue
		}
		any = true
		e.cfg.Logger.Warn("pod evicted", "pod", p.Namespace+"/"+p.Name, "signal", signal)
		e.end(p, status.Verdict{Phase: corev1.PodFailed, Reason: pods.ReasonEvicted, Message: text}, signal)
	}
	return any
}

// limited says whether a pod has a limit on local storage: what others take is
// not measured.
func limited(p *corev1.Pod) bool {
	if _, ok := podLimit(p); ok {
		return true
	}
	for i := range p.Spec.Volumes {
		if _, ok := volumeLimit(&p.Spec.Volumes[i]); ok {
			return true
		}
	}
	return false
}

func podLimit(p *corev1.Pod) (resource.Quantity, bool) {
	limit, ok := helpers.PodLimits(p, helpers.PodResourcesOptions{})[corev1.ResourceEphemeralStorage]
	return limit, ok
}

// volumeLimit is that of a directory on disk; the kernel limits those in memory.
func volumeLimit(v *corev1.Volume) (*resource.Quantity, bool) {
	if v.EmptyDir == nil || v.EmptyDir.Medium != corev1.StorageMediumDefault || v.EmptyDir.SizeLimit == nil || v.EmptyDir.SizeLimit.Sign() <= 0 {
		return nil, false
	}
	return v.EmptyDir.SizeLimit, true
}

// exceeded finds the first limit that a pod does not keep to: of a volume, of
// the pod as a whole, of a container.
func exceeded(p *corev1.Pod, used Storage) (node.Signal, string) {
	above := func(n uint64, limit *resource.Quantity) bool { return limit.CmpInt64(int64(n)) < 0 }
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		if limit, ok := volumeLimit(v); ok && above(used.Volumes[v.Name], limit) {
			return limitEmptyDir, fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q. ", v.Name, limit.String())
		}
	}
	if limit, ok := podLimit(p); ok && above(used.Total, &limit) {
		return limitPod, fmt.Sprintf("Pod ephemeral local storage usage exceeds the total limit of containers %s. ", limit.String())
	}
	of := func(c *corev1.Container) bool {
		limit := c.Resources.Limits.StorageEphemeral()
		return !limit.IsZero() && above(used.Containers[c.Name], limit)
	}
	text := func(c *corev1.Container) string {
		return fmt.Sprintf("Container %s exceeded its local ephemeral storage limit %q. ", c.Name, c.Resources.Limits.StorageEphemeral().String())
	}
	for i := range p.Spec.Containers {
		if c := &p.Spec.Containers[i]; of(c) {
			return limitContainer, text(c)
		}
	}
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways && of(c) {
			return limitContainer, text(c)
		}
	}
	return "", ""
}
