package pods

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/proa-dev/proa/kubelet/images"
	"github.com/proa-dev/proa/kubelet/objects"
	"github.com/proa-dev/proa/kubelet/spec"
	"github.com/proa-dev/proa/kubelet/volumes"
)

// LogDir is where the logs of a pod's containers are.
func LogDir(base string, namespace, name, uid string) string {
	return filepath.Join(base, namespace+"_"+name+"_"+uid)
}

func (w *worker) logDir() string {
	return LogDir(w.m.cfg.PodLogsDir, w.pod.Namespace, w.pod.Name, string(w.uid))
}

func (w *worker) podDir() string { return w.m.cfg.Volumes.PodDir(w.uid) }

func (w *worker) makeDirs() error {
	for _, dir := range []string{w.podDir(), filepath.Join(w.podDir(), "volumes"), filepath.Join(w.podDir(), "plugins"), w.logDir()} {
		mode := os.FileMode(0o750)
		if dir == w.logDir() {
			mode = 0o755
		}
		if err := os.MkdirAll(dir, mode); err != nil {
			return err
		}
	}
	return nil
}

func (w *worker) linkPath(container, id string) string {
	if w.m.cfg.ContainerLogsDir == "" {
		return ""
	}
	return filepath.Join(w.m.cfg.ContainerLogsDir, fmt.Sprintf("%s_%s_%s-%s.log", w.pod.Name, w.pod.Namespace, container, id))
}

// link gives log shippers a name for the log that holds all they need.
func (w *worker) link(container, id, logPath string) {
	link := w.linkPath(container, id)
	if link == "" {
		return
	}
	if err := os.Symlink(filepath.Join(w.logDir(), logPath), link); err != nil && !os.IsExist(err) {
		w.log.Warn("log not linked", "link", link, "err", err)
	}
}

// messageFile makes the file that a container writes its last words to.
func (w *worker) messageFile(c *corev1.Container) (string, error) {
	if c.TerminationMessagePath == "" {
		return "", nil
	}
	dir := filepath.Join(w.podDir(), "containers", c.Name)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return "", err
	}
	f, err := os.CreateTemp(dir, "")
	if err != nil {
		return "", err
	}
	defer f.Close()
	// Whatever user the container runs as may write.
	return f.Name(), f.Chmod(0o666)
}

const hostsPath = "/etc/hosts"

// mounts resolves a container's volume mounts.
func (w *worker) mounts(ctx context.Context, c *corev1.Container, env *spec.Env) (out []*runtimeapi.Mount, devices []*runtimeapi.Device, groups []int64, err error) {
	ready := w.m.cfg.Volumes.Ready(w.uid)
	hosts := false
	for i := range c.VolumeMounts {
		m := &c.VolumeMounts[i]
		v, ok := ready[m.Name]
		if !ok {
			return nil, nil, nil, fmt.Errorf("cannot find volume %q to mount into container %q", m.Name, c.Name)
		}
		groups = append(groups, v.Groups...)
		mount, err := w.mount(ctx, c, m, i, v, env)
		if err != nil {
			return nil, nil, nil, err
		}
		hosts = hosts || m.MountPath == hostsPath
		out = append(out, mount)
	}
	for _, d := range c.VolumeDevices {
		v, ok := ready[d.Name]
		if !ok || !v.Device {
			return nil, nil, nil, fmt.Errorf("cannot find block volume %q to map into container %q", d.Name, c.Name)
		}
		permissions := "mrw"
		if v.ReadOnly {
			permissions = "r"
		}
		devices = append(devices, &runtimeapi.Device{HostPath: v.Path, ContainerPath: d.DevicePath, Permissions: permissions})
	}
	if !hosts {
		path := filepath.Join(w.podDir(), "etc-hosts")
		ips := w.runtime.IPs()
		if err := w.m.cfg.Cluster.WriteHosts(path, w.pod, ips); err != nil {
			return nil, nil, nil, err
		}
		out = append(out, &runtimeapi.Mount{HostPath: path, ContainerPath: hostsPath})
	}
	return out, devices, groups, nil
}

func (w *worker) mount(ctx context.Context, c *corev1.Container, m *corev1.VolumeMount, index int, v volumes.Volume, env *spec.Env) (*runtimeapi.Mount, error) {
	sub := m.SubPath
	if m.SubPathExpr != "" {
		var err error
		if sub, err = expandStrict(m.SubPathExpr, env); err != nil {
			return nil, err
		}
	}
	target := m.MountPath
	if !strings.HasPrefix(target, "/") {
		target = "/" + target
	}
	out := &runtimeapi.Mount{HostPath: v.Path, ContainerPath: target, Readonly: m.ReadOnly || v.ReadOnly, Propagation: propagation(m.MountPropagation)}
	if m.RecursiveReadOnly != nil && m.ReadOnly {
		switch *m.RecursiveReadOnly {
		case corev1.RecursiveReadOnlyEnabled:
			if !w.m.cfg.RecursiveReadOnly() {
				return nil, fmt.Errorf("volume %q requested recursive read-only mode, but it is not supported by the runtime", m.Name)
			}
			out.RecursiveReadOnly = true
		case corev1.RecursiveReadOnlyIfPossible:
			out.RecursiveReadOnly = w.m.cfg.RecursiveReadOnly()
		}
	}
	if v.Image != nil {
		ref, err := images.Normalize(v.Image.Reference)
		if err != nil {
			return nil, err
		}
		have, err := w.m.cfg.Images.Status(ctx, ref)
		if err != nil || have == nil {
			return nil, fmt.Errorf("image volume %q: image %q is not present: %w", m.Name, v.Image.Reference, err)
		}
		out.HostPath = ""
		out.Image = &runtimeapi.ImageSpec{Image: images.NameOf(have, ref), UserSpecifiedImage: v.Image.Reference}
		out.ImageSubPath = sub
		return out, nil
	}
	if sub != "" {
		path, err := w.m.cfg.Volumes.SubPath(w.uid, m.Name, v.Path, sub, c.Name, index)
		if err != nil {
			w.log.Warn("subpath", "container", c.Name, "volume", m.Name, "err", err)
			return nil, fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q: %w", m.Name, c.Name, err)
		}
		out.HostPath = path
	}
	return out, nil
}

// expandStrict expands a path in which every variable must be known.
func expandStrict(expr string, env *spec.Env) (string, error) {
	var missing []string
	out := spec.Expand(expr, func(name string) (string, bool) {
		v, ok := env.Get(name)
		if !ok {
			missing = append(missing, name)
		}
		return v, ok
	})
	if len(missing) > 0 {
		return "", fmt.Errorf("missing value for %q", missing[0])
	}
	return out, nil
}

func propagation(p *corev1.MountPropagationMode) runtimeapi.MountPropagation {
	if p != nil {
		switch *p {
		case corev1.MountPropagationHostToContainer:
			return runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
		case corev1.MountPropagationBidirectional:
			return runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
		}
	}
	return runtimeapi.MountPropagation_PROPAGATION_PRIVATE
}

// sources gives environments their values.
type sources struct {
	ctx context.Context
	m   *Manager
	pod types.UID
}

func (s sources) ConfigMap(namespace, name string) (*corev1.ConfigMap, error) {
	obj, err := s.m.cfg.Objects.Get(s.ctx, objects.Ref{Kind: objects.ConfigMap, Namespace: namespace, Name: name})
	if err != nil {
		return nil, err
	}
	cm, ok := obj.(*corev1.ConfigMap)
	if !ok {
		return nil, fmt.Errorf("configmap %q is a %T", name, obj)
	}
	return cm, nil
}

func (s sources) Secret(namespace, name string) (*corev1.Secret, error) {
	obj, err := s.m.cfg.Objects.Get(s.ctx, objects.Ref{Kind: objects.Secret, Namespace: namespace, Name: name})
	if err != nil {
		return nil, err
	}
	secret, ok := obj.(*corev1.Secret)
	if !ok {
		return nil, fmt.Errorf("secret %q is a %T", name, obj)
	}
	return secret, nil
}

func (s sources) File(volume, path string) ([]byte, error) {
	return s.m.cfg.Volumes.ReadFile(s.pod, volume, path)
}

func (s sources) Services(namespace string) ([]corev1.Service, error) {
	return s.m.cfg.Services(s.ctx, namespace)
}
