package pods

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/proa-dev/proa/kubelet/cri"
	"github.com/proa-dev/proa/kubelet/metrics"
	"github.com/proa-dev/proa/kubelet/probes"
	"github.com/proa-dev/proa/kubelet/spec"
)

// probeSet is the probes of one running container and their verdicts.
type probeSet struct {
	id      string
	cancel  context.CancelFunc // all probes
	life    context.CancelFunc // liveness and startup alone
	started bool
	ready   bool
	failed  string // why the container must be killed
	grace   *int64 // that the failed probe asks for
}

func (c *container) isStarted() bool { return c.probes != nil && c.probes.started }
func (c *container) isReady() bool   { return c.probes != nil && c.probes.ready }

// failure is why that very container must be killed.
func (c *container) failure(k *cri.Container) string {
	if c.probes == nil || c.probes.id != k.Id {
		return ""
	}
	return c.probes.failed
}

func (c *container) stopLifeProbes() {
	if c.probes != nil {
		c.probes.life()
	}
}

func (c *container) stopProbes() {
	if c.probes != nil {
		c.probes.cancel()
		c.probes = nil
	}
}

// probeAll probes what runs and forgets what does not.
func (w *worker) probeAll() {
	w.forgetProbes()
	each := func(list []corev1.Container, init bool) {
		for i := range list {
			c := &list[i]
			running := w.runtime.Latest(c.Name)
			if running == nil || running.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
				continue
			}
			if k := w.container(c.Name); k.probes == nil && k.unhooked != running.Id {
				w.probe(c, k, running, init && !spec.IsSidecar(c))
			}
		}
	}
	each(w.pod.Spec.InitContainers, true)
	each(w.pod.Spec.Containers, false)
}

func (w *worker) forgetProbes() {
	for name, k := range w.containers {
		latest := w.runtime.Latest(name)
		if k.probes != nil && (latest == nil || latest.Id != k.probes.id || !latest.Running()) {
			k.stopProbes()
		}
	}
}

// probe starts the probes of a container that was not known to run.
func (w *worker) probe(c *corev1.Container, k *container, running *cri.Container, plain bool) {
	ctx, cancel := context.WithCancel(w.m.ctx)
	lifeCtx, life := context.WithCancel(ctx)
	set := &probeSet{id: running.Id, cancel: cancel, life: life}
	k.probes = set
	if plain {
		set.started = true
		return
	}
	old := w.before(c.Name, running.Id)
	set.ready = c.ReadinessProbe == nil || (old != nil && old.Ready)
	if c.StartupProbe == nil || (old != nil && old.Started != nil && *old.Started) {
		set.started = true
		w.probeStarted(ctx, lifeCtx, c, set, running, old != nil)
		return
	}
	w.runProbe(lifeCtx, c, c.StartupProbe, "Startup", running, probeOptions{once: true, spread: old != nil}, func(o probes.Outcome) {
		if o.OK {
			set.started = true
			w.probeStarted(ctx, lifeCtx, c, set, running, false)
			return
		}
		set.failed, set.grace = "failed startup probe", c.StartupProbe.TerminationGracePeriodSeconds
	})
}

// before is what the API knew of this very container when the kubelet
// started: verdicts outlive a restart of the kubelet.
func (w *worker) before(name, id string) *corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{w.pod.Status.ContainerStatuses, w.pod.Status.InitContainerStatuses} {
		for i := range list {
			s := &list[i]
			if s.Name == name && s.ContainerID == w.m.cfg.RuntimeName+"://"+id && s.State.Running != nil &&
				s.State.Running.StartedAt.Time.Before(w.m.started) {
				return s
			}
		}
	}
	return nil
}

func (w *worker) probeStarted(ctx, lifeCtx context.Context, c *corev1.Container, set *probeSet, running *cri.Container, spread bool) {
	if p := c.ReadinessProbe; p != nil {
		w.runProbe(ctx, c, p, "Readiness", running, probeOptions{spread: spread}, func(o probes.Outcome) { set.ready = o.OK })
	}
	if p := c.LivenessProbe; p != nil {
		w.runProbe(lifeCtx, c, p, "Liveness", running, probeOptions{spread: spread}, func(o probes.Outcome) {
			if !o.OK {
				set.failed, set.grace = "failed liveness probe", p.TerminationGracePeriodSeconds
			}
		})
	}
}

type probeOptions struct{ once, spread bool }

func (w *worker) runProbe(ctx context.Context, c *corev1.Container, p *corev1.Probe, kind string, running *cri.Container, o probeOptions, verdict func(probes.Outcome)) {
	event := w.eventer(c.Name)
	ip := ""
	if ips := w.fields().PodIPs; len(ips) > 0 {
		ip = ips[0]
	}
	counts := w.m.cfg.Metrics.Probe(kind, c.Name, w.pod)
	worker := &probes.Worker{
		Probe: p, Clock: w.m.cfg.Clock, Since: time.Unix(0, running.StartedAt), Once: o.once, Spread: o.spread,
		Target: probes.Target{PodIP: ip, Container: c, Exec: w.m.exec(running.Id)},
		Done: func(err error, took time.Duration) {
			switch {
			case err == nil:
				counts.Done(metrics.Successful, took)
			case errors.Is(err, probes.ErrUnknown):
				counts.Done(metrics.Unknown, took)
			default:
				counts.Done(metrics.Failed, took)
			}
		},
		Tell: func(err error) {
			away := (*probes.Warning)(nil)
			switch {
			case errors.Is(err, probes.ErrUnknown):
				event(corev1.EventTypeWarning, "Unhealthy", fmt.Sprintf("%s probe errored and resulted in unknown state: %v", kind,
					strings.TrimPrefix(err.Error(), probes.ErrUnknown.Error()+": ")))
			case errors.As(err, &away):
				event(corev1.EventTypeWarning, "ProbeWarning", fmt.Sprintf("%s probe warning: %v", kind, err))
			default:
				event(corev1.EventTypeWarning, "Unhealthy", fmt.Sprintf("%s probe failed: %v", kind, err))
			}
		},
		Verdict: func(outcome probes.Outcome) {
			w.call(func() {
				if k := w.containers[c.Name]; k != nil && k.probes != nil && k.probes.id == running.Id {
					verdict(outcome)
				}
			})
		},
	}
	w.wg.Go(func() { worker.Run(ctx) })
}

// exec runs commands in a container for probes and hooks.
func (m *Manager) exec(id string) probes.Exec {
	return func(ctx context.Context, command []string, timeout time.Duration) ([]byte, int32, error) {
		if timeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, timeout+5*time.Second)
			defer cancel()
		}
		got, err := m.cfg.CRI.Runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{
			ContainerId: id, Cmd: command, Timeout: int64(timeout.Seconds())})
		if err != nil {
			return nil, -1, err
		}
		return append(got.Stdout, got.Stderr...), got.ExitCode, nil
	}
}

func (w *worker) hook(ctx context.Context, c *corev1.Container, id string, h *corev1.LifecycleHandler) error {
	ip := ""
	if ips := w.fields().PodIPs; len(ips) > 0 {
		ip = ips[0]
	}
	return w.m.hook(ctx, c, id, ip, h, w.eventer(c.Name))
}

// hookError is a failed command with what it wrote.
type hookError struct {
	error
	output []byte
}

// hookFailure says how a hook of the container failed.
func (w *worker) hookFailure(c *corev1.Container, h *corev1.LifecycleHandler, err error) string {
	of := fmt.Sprintf("for Container %q in Pod %q failed - error: %v", c.Name, spec.PodName(w.pod), err)
	switch {
	case h.Exec != nil:
		var output []byte
		var failed *hookError
		if errors.As(err, &failed) {
			output = failed.output
		}
		return fmt.Sprintf("Exec lifecycle hook (%v) %s, message: %q", h.Exec.Command, of, output)
	case h.HTTPGet != nil:
		return fmt.Sprintf("HTTP lifecycle hook (%s) %s", h.HTTPGet.Path, of)
	case h.Sleep != nil:
		return fmt.Sprintf("Sleep lifecycle hook (%d) %s", h.Sleep.Seconds, of)
	}
	return "lifecycle hook " + of
}

func (m *Manager) hook(ctx context.Context, c *corev1.Container, id, ip string, h *corev1.LifecycleHandler, event func(kind, reason, message string)) error {
	switch {
	case h.Exec != nil:
		out, code, err := m.exec(id)(ctx, h.Exec.Command, 0)
		if err != nil {
			return &hookError{err, out}
		}
		if code != 0 {
			return &hookError{fmt.Errorf("command '%s' exited with %d: %s", strings.Join(h.Exec.Command, " "), code, out), out}
		}
		return nil
	case h.HTTPGet != nil:
		return probes.Hook(ctx, h.HTTPGet, 10*time.Minute, probes.Target{PodIP: ip, Container: c}, func(server string) {
			event(corev1.EventTypeWarning, "LifecycleHTTPFallback",
				fmt.Sprintf("request to HTTPS lifecycle hook %s got HTTP response, retry with HTTP succeeded", server))
		})
	case h.Sleep != nil:
		timer := m.cfg.Clock.NewTimer(time.Duration(h.Sleep.Seconds) * time.Second)
		defer timer.Stop()
		select {
		case <-timer.C():
			return nil
		case <-ctx.Done():
			return errors.New("container terminated before sleep hook finished")
		}
	}
	return errors.New("invalid handler")
}
