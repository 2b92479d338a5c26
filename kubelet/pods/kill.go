package pods

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/proa-dev/proa/kubelet/cri"
	"github.com/proa-dev/proa/kubelet/spec"
)

// minGrace is what a container gets to end after its preStop hook at least.
const minGrace = 2 * time.Second

// killing is a container that is being stopped beside the worker.
type killing struct {
	cancel   context.CancelFunc
	deadline time.Time
	turn     func() // what it has to wait for has ended
}

// podGrace is how long the pod's containers have to end.
func (w *worker) podGrace() time.Duration {
	seconds := int64(30)
	switch {
	case w.override != nil:
		seconds = *w.override
		if asked := w.pod.DeletionGracePeriodSeconds; asked != nil {
			seconds = min(seconds, *asked)
		}
	case w.pod.DeletionGracePeriodSeconds != nil:
		seconds = *w.pod.DeletionGracePeriodSeconds
	case w.pod.Spec.TerminationGracePeriodSeconds != nil:
		seconds = *w.pod.Spec.TerminationGracePeriodSeconds
	default:
		for _, c := range w.runtime.Containers { // an orphan: the runtime remembers
			if n, err := strconv.ParseInt(c.Annotations[cri.AnnotationPodGracePeriod], 10, 32); err == nil {
				seconds = n
			}
		}
	}
	return time.Duration(max(seconds, 1)) * time.Second
}

// probeGrace is how long a container has that failed a probe.
func (w *worker) probeGrace(c *cri.Container) time.Duration {
	if k := w.containers[c.Name()]; k != nil && k.probes != nil && k.probes.id == c.Id && k.probes.grace != nil {
		return time.Duration(max(*k.probes.grace, 1)) * time.Second
	}
	return w.podGrace()
}

// kill stops a container beside the worker, hook first. Called again with an
// earlier end it starts over with that.
func (w *worker) kill(c *cri.Container, grace time.Duration, message string) {
	w.killInTurn(c, grace, message)
	w.kills[c.Id].turn()
}

// killInTurn is kill for a container that others must have ended before: its
// hook runs at once, and then it waits for its turn.
func (w *worker) killInTurn(c *cri.Container, grace time.Duration, message string) {
	deadline, again := w.now().Add(grace), false
	if old := w.kills[c.Id]; old != nil {
		if !deadline.Before(old.deadline.Add(-time.Second)) {
			return
		}
		old.cancel()
		again = true
	}
	// The runtime may say for a moment that what has been stopped still runs.
	again = again || w.killed[c.Id]
	for _, of := range []map[string]bool{w.killed, w.renewed} {
		maps.DeleteFunc(of, func(id string, _ bool) bool {
			return !slices.ContainsFunc(w.runtime.Containers, func(c *cri.Container) bool { return c.Id == id })
		})
	}
	w.killed[c.Id] = true
	ctx, cancel := context.WithCancel(w.m.ctx)
	turn := make(chan struct{})
	own := &killing{cancel: cancel, deadline: deadline, turn: sync.OnceFunc(func() { close(turn) })}
	w.kills[c.Id] = own
	event := w.eventer(c.Name())
	if !again {
		if message == "" {
			message = "Stopping container " + c.Name()
		}
		event(corev1.EventTypeNormal, "Killing", message)
	}
	var hook *corev1.LifecycleHandler
	sp := spec.FindContainer(w.pod, c.Name())
	if sp != nil && sp.Lifecycle != nil && !again && c.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
		hook = sp.Lifecycle.PreStop
	}
	ip := ""
	if ips := w.fields().PodIPs; len(ips) > 0 {
		ip = ips[0]
	}
	w.wg.Go(func() {
		defer cancel()
		err := w.m.stop(ctx, c, sp, hook, ip, turn, grace, event)
		w.call(func() {
			if w.kills[c.Id] != own {
				return
			}
			delete(w.kills, c.Id)
			w.dirty = true
			if err != nil && ctx.Err() == nil {
				w.log.Warn("container not stopped", "container", c.Id, "err", err)
				w.killFailed("KillContainer", c.Name(), err)
				w.retry.fail(w.now())
			}
		})
	})
}

// killFailed tells of a step of a pod's end that failed.
func (w *worker) killFailed(step, of string, err error) {
	if w.state != running {
		w.event("", corev1.EventTypeWarning, "FailedKillPod", fmt.Sprintf("error killing pod: failed to %q for %q with %sError: %q", step, of, step, cri.Message(err)))
	}
}

// stop runs the preStop hook, asks the container to end when its turn has come
// and forces it when the grace is over.
func (m *Manager) stop(ctx context.Context, c *cri.Container, sp *corev1.Container, hook *corev1.LifecycleHandler, ip string, turn <-chan struct{}, grace time.Duration, event func(kind, reason, message string)) error {
	began := m.cfg.Clock.Now()
	over := m.cfg.Clock.NewTimer(grace)
	defer over.Stop()
	inTime := true
	if hook != nil {
		hookCtx, cancel := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- m.hook(hookCtx, sp, c.Id, ip, hook, event) }()
		var err error
		select {
		case err = <-done:
		case <-over.C():
			inTime = false
			cancel()
			err = <-done
		case <-ctx.Done():
		}
		cancel()
		if err != nil && ctx.Err() == nil {
			event(corev1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed")
		}
	}
	if inTime {
		select {
		case <-turn:
		case <-over.C():
		case <-ctx.Done():
		}
	}
	grace = max(grace-m.cfg.Clock.Since(began), minGrace)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, grace+2*time.Minute)
	defer cancel()
	seconds := int64((grace + time.Second - 1) / time.Second)
	_, err := m.cfg.CRI.Runtime.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: c.Id, Timeout: seconds})
	if cri.IsNotFound(err) {
		return nil
	}
	return err
}

// syncEnding takes a pod that is not to run any further down: containers,
// sandbox, volumes, groups, and at last what the runtime keeps for its logs.
func (w *worker) syncEnding(ctx context.Context) (next time.Time, done bool) {
	if now := w.now(); now.Before(w.retry.at) {
		return w.retry.at, false
	}
	if w.state == terminating {
		if err := w.stopAll(ctx); err != nil {
			w.stuck(ctx, "pod not stopped", err)
			return w.retry.fail(w.now()), false
		}
		w.forgetProbes()
		if w.runtime.AnyRunning() || len(w.kills) > 0 {
			w.report(false)
			return time.Time{}, false
		}
		w.state, w.retry = terminated, retry{}
		for _, k := range w.containers {
			k.stopProbes()
		}
		w.report(false)
	}
	if w.state == terminated {
		if err := w.cleanUp(ctx); err != nil {
			w.stuck(ctx, "pod not cleaned up", err)
			return w.retry.fail(w.now()), false
		}
		w.state, w.retry = cleaned, retry{}
	}
	if w.runtime.AnyRunning() { // something came up that nobody has asked for
		w.state = terminating
		return w.now(), false
	}
	if w.gone {
		if err := w.purge(ctx); err != nil {
			w.stuck(ctx, "pod's dead containers not removed", err)
			return w.retry.fail(w.now()), false
		}
		return time.Time{}, true
	}
	w.report(w.pod.DeletionTimestamp != nil)
	if w.pod.Status.Reason == ReasonEvicted { // what is left of it is in the way
		if err := w.reclaim(ctx); err != nil {
			w.stuck(ctx, "an evicted pod's dead containers not removed", err)
			return w.retry.fail(w.now()), false
		}
	}
	return time.Time{}, false
}

// stuck tells of a step that failed and is tried again; not of one that the
// kubelet's own end cut short.
func (w *worker) stuck(ctx context.Context, what string, err error) {
	if ctx.Err() == nil {
		w.log.Warn(what, "err", err)
	}
}

// stopAll stops the pod's own containers together, then its sidecars in
// reverse order of their start, then the sandboxes. Hooks run all at once.
func (w *worker) stopAll(ctx context.Context) error {
	left := max(w.since.Add(w.podGrace()).Sub(w.now()), 0)
	sidecars := map[string]int{}
	for i := range w.pod.Spec.InitContainers {
		if c := &w.pod.Spec.InitContainers[i]; spec.IsSidecar(c) {
			sidecars[c.Name] = i + 1
		}
	}
	main, last := false, (*cri.Container)(nil)
	for _, c := range w.runtime.Containers {
		if !c.Running() {
			if k := w.kills[c.Id]; k != nil {
				k.turn() // it has ended by itself
			}
			continue
		}
		if rank := sidecars[c.Name()]; rank > 0 {
			w.killInTurn(c, left, "")
			if last == nil || rank > sidecars[last.Name()] {
				last = c
			}
			continue
		}
		main = true
		w.kill(c, left, "")
	}
	if !main && last != nil {
		w.kills[last.Id].turn()
	}
	if main || last != nil {
		return nil
	}
	for _, s := range w.runtime.Sandboxes {
		if s.State == runtimeapi.PodSandboxState_SANDBOX_READY {
			if err := w.stopSandbox(ctx, s.Id); err != nil {
				if ctx.Err() == nil {
					w.killFailed("KillPodSandbox", string(w.uid), errors.Unwrap(err))
				}
				return err
			}
			w.dirty = true
		}
	}
	if w.dirty {
		return w.refresh(ctx)
	}
	return nil
}

func (w *worker) stopSandbox(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	_, err := w.m.cfg.CRI.Runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: id})
	if err != nil && !cri.IsNotFound(err) {
		return fmt.Errorf("stop sandbox %s: %w", id, err)
	}
	return nil
}

// cleanUp takes away what the pod holds of the node. Termination messages
// are read before: their files go too.
func (w *worker) cleanUp(ctx context.Context) error {
	for _, c := range w.runtime.Containers {
		if c.Exited() {
			w.message(c, nil)
		}
	}
	w.m.cfg.Objects.Unregister(w.uid)
	w.registered = nil
	if err := w.m.cfg.Volumes.TearDown(ctx, w.uid); err != nil {
		return err
	}
	w.m.cfg.Images.Forget(w.uid)
	// Of a pod that never got a sandbox, nothing else leads to the logs.
	if len(w.runtime.Sandboxes)+len(w.runtime.Containers) == 0 {
		if err := w.removeLogs(); err != nil {
			return err
		}
	}
	return w.removeGroup()
}

// purge removes dead containers, logs and sandboxes. The sandboxes go last:
// after a crash they are what leads here again.
func (w *worker) purge(ctx context.Context) error {
	var errs []error
	for _, c := range w.runtime.Containers {
		if !w.remove(c) {
			errs = append(errs, fmt.Errorf("container %s is still there", c.Id))
		}
	}
	errs = append(errs, w.removeLogs())
	for _, s := range w.runtime.Sandboxes {
		callCtx, cancel := context.WithTimeout(ctx, 2*time.Minute)
		_, err := w.m.cfg.CRI.Runtime.StopPodSandbox(callCtx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: s.Id})
		if err == nil || cri.IsNotFound(err) {
			_, err = w.m.cfg.CRI.Runtime.RemovePodSandbox(callCtx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: s.Id})
		}
		cancel()
		if err != nil && !cri.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("remove sandbox %s: %w", s.Id, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		w.dirty = true
		return err
	}
	return nil
}
