package pods

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/proa-dev/proa/kubelet/cri"
	"github.com/proa-dev/proa/kubelet/spec"
)

// sandboxConfig is the configuration of the present sandbox, which runtimes
// want again with every container.
func (w *worker) sandboxConfig() *runtimeapi.PodSandboxConfig {
	if w.sandbox == nil {
		attempt := uint32(0)
		if len(w.runtime.Sandboxes) > 0 {
			attempt = w.runtime.Sandboxes[0].Metadata.GetAttempt()
		}
		config, err := w.makeSandboxConfig(attempt)
		if err != nil { // a sandbox of this pod was made: it can only be the node's resolv.conf now
			w.log.Warn("sandbox configuration", "err", err)
			return nil
		}
		w.sandbox = config
	}
	return w.sandbox
}

func (w *worker) makeSandboxConfig(attempt uint32) (*runtimeapi.PodSandboxConfig, error) {
	if users := w.pod.Spec.HostUsers; users != nil && !*users {
		// To run it among the host's users would break what it asks for.
		return nil, errors.New("this node does not support user namespaces (hostUsers: false)")
	}
	host, _, err := w.m.cfg.Cluster.Hostname(w.pod)
	if err != nil {
		return nil, err
	}
	dns, warnings, err := w.m.cfg.Cluster.ResolvConfFor(w.pod)
	if err != nil {
		return nil, err
	}
	for _, warning := range warnings {
		w.event("", corev1.EventTypeWarning, warning.Reason, warning.Message)
	}
	return spec.Sandbox(spec.SandboxInput{
		Pod: w.pod, Hostname: host, DNS: dns, LogDir: w.logDir(), Attempt: attempt,
		CgroupParent: w.m.cfg.Cgroups.Parent(w.pod), SeccompDir: w.m.cfg.SeccompDir,
	}), nil
}

// makeSandbox replaces the pod's sandbox by a new one. News of the pod's end do
// not cut it short: a runtime that is stopped half way through a sandbox loses
// track of what it has started.
func (w *worker) makeSandbox() error {
	ctx := w.m.ctx
	attempt := uint32(0)
	for i, s := range w.runtime.Sandboxes {
		if i == 0 {
			attempt = s.Metadata.GetAttempt() + 1
			w.event("", corev1.EventTypeNormal, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
		}
		if s.State == runtimeapi.PodSandboxState_SANDBOX_READY {
			if err := w.stopSandbox(ctx, s.Id); err != nil {
				return err
			}
		}
	}
	config, err := w.makeSandboxConfig(attempt)
	if err == nil {
		err = w.runSandbox(ctx, config)
	}
	w.m.cfg.Metrics.StartedPods.Inc()
	if err != nil {
		w.m.cfg.Metrics.StartedPodsErrors.Inc()
		w.dirty = true
		if ctx.Err() == nil {
			w.event("", corev1.EventTypeWarning, "FailedCreatePodSandBox", "Failed to create pod sandbox: "+cri.Message(err))
		}
		return err
	}
	w.sandbox = config
	w.removeSandboxes(ctx)
	w.remount = w.remount || usesIP(w.pod)
	return nil
}

func (w *worker) runSandbox(ctx context.Context, config *runtimeapi.PodSandboxConfig) error {
	ctx, cancel := context.WithTimeout(ctx, 4*time.Minute)
	defer cancel()
	handler, err := w.m.cfg.RuntimeHandler(ctx, w.pod)
	if err != nil {
		return err
	}
	begin := w.now()
	made, err := w.m.cfg.CRI.Runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: config, RuntimeHandler: handler})
	w.m.cfg.Metrics.Sandbox(handler, w.m.cfg.Clock.Since(begin), err)
	if err != nil {
		return err
	}
	got, err := w.m.cfg.CRI.Runtime.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: made.PodSandboxId})
	if err != nil {
		return fmt.Errorf("status of sandbox %s: %w", made.PodSandboxId, err)
	}
	next := *w.runtime
	next.Sandboxes = append([]*runtimeapi.PodSandboxStatus{got.Status}, w.runtime.Sandboxes...)
	w.runtime = &next
	return nil
}

// removeSandboxes removes old sandboxes. Their dead containers stay: they
// hold the logs and exit codes of before.
func (w *worker) removeSandboxes(ctx context.Context) {
	for _, s := range w.runtime.Sandboxes[1:] {
		used := false
		for _, c := range w.runtime.Containers {
			used = used || c.SandboxID == s.Id
		}
		if used {
			continue
		}
		if _, err := w.m.cfg.CRI.Runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: s.Id}); err != nil && !cri.IsNotFound(err) {
			w.log.Debug("old sandbox not removed", "sandbox", s.Id, "err", err)
		}
		w.dirty = true
	}
}

// usesIP says that a volume may hold the pod's address.
func usesIP(pod *corev1.Pod) bool {
	for i := range pod.Spec.Volumes {
		if pod.Spec.Volumes[i].DownwardAPI != nil || pod.Spec.Volumes[i].Projected != nil {
			return true
		}
	}
	return false
}
