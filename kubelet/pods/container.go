package pods

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/proa-dev/proa/kubelet/cri"
	"github.com/proa-dev/proa/kubelet/images"
	"github.com/proa-dev/proa/kubelet/spec"
)

// Back-off of crashing containers.
const (
	firstBackOff = 10 * time.Second
	maxBackOff   = 5 * time.Minute
)

// container is what a worker remembers of one container of the spec.
type container struct {
	waiting *corev1.ContainerStateWaiting
	// crash back-off: the delay counts from an exit, since says which step.
	delay       time.Duration
	since       time.Time
	recalled    bool // what was before this kubelet is in them
	configRetry retry
	pull        *pull
	image       *runtimeapi.Image // pulled, and not yet used
	imageErr    *images.Error
	probes      *probeSet
	unhooked    string // the container whose postStart hook failed: it never was ready
}

func (w *worker) container(name string) *container {
	c := w.containers[name]
	if c == nil {
		c = &container{}
		w.containers[name] = c
	}
	return c
}

// wait notes why a container does not run and says whether that is news.
func (c *container) wait(reason, message string) bool {
	news := c.waiting == nil || c.waiting.Reason != reason || c.waiting.Message != message
	c.waiting = &corev1.ContainerStateWaiting{Reason: reason, Message: message}
	return news
}

// startAll starts containers in order, each as soon as its turn has come. It
// says whether any was started, and when to try those again that were not.
func (w *worker) startAll(ctx context.Context, list []*corev1.Container) (started bool, next time.Time) {
	for _, c := range list {
		if ctx.Err() != nil {
			break
		}
		ok, at := w.tryStart(ctx, c)
		started = started || ok
		next = soonest(next, at)
	}
	return started, next
}

func (w *worker) tryStart(ctx context.Context, c *corev1.Container) (started bool, next time.Time) {
	k := w.container(c.Name)
	if until := w.crashBackOff(c, k); !until.IsZero() {
		return false, until
	}
	now := w.now()
	if now.Before(k.configRetry.at) {
		return false, k.configRetry.at
	}
	image, at := w.ensureImage(ctx, c, k)
	if image == nil {
		return false, at
	}
	attempt := w.nextAttempt(c.Name)
	err := w.start(ctx, c, k, image, attempt)
	k.image = nil
	for _, v := range imageVolumes(w.pod, c) { // by the next start they may be gone
		w.container(v.key).image = nil
	}
	if err == nil {
		w.advanceBackOff(k, attempt)
		k.waiting, k.configRetry = nil, retry{}
		w.collect(c.Name)
		if w.dirty { // it was not seen to run: look
			return false, now
		}
		return true, time.Time{}
	}
	if ctx.Err() != nil {
		return false, time.Time{}
	}
	var failed *startError
	if !errors.As(err, &failed) {
		failed = &startError{"CreateContainerError", err}
	}
	k.wait(failed.reason, failed.err.Error())
	if failed.reason != "PostStartHookError" { // which has an event of its own, without the text: it may hold secrets
		w.event(c.Name, corev1.EventTypeWarning, "Failed", "Error: "+failed.err.Error())
	}
	if failed.reason == "RunContainerError" || failed.reason == "PostStartHookError" {
		w.advanceBackOff(k, attempt)
		w.dirty = true
		return false, now
	}
	if failed.reason == "CreateContainerConfigError" { // a change of what it lacks wakes it at once
		k.configRetry.delay = max(k.configRetry.delay, 5*time.Second)
	}
	return false, k.configRetry.fail(now)
}

// startError is a failed start with the reason that the status shows.
type startError struct {
	reason string
	err    error
}

func (e *startError) Error() string { return e.err.Error() }
func (e *startError) Unwrap() error { return e.err }

func (w *worker) nextAttempt(name string) uint32 {
	if latest := w.runtime.Latest(name); latest != nil {
		return latest.Metadata.GetAttempt() + 1
	}
	for _, list := range [][]corev1.ContainerStatus{w.status.ContainerStatuses, w.status.InitContainerStatuses} {
		for i := range list {
			s := &list[i]
			if s.Name == name && (s.State.Running != nil || s.State.Terminated != nil || s.LastTerminationState.Terminated != nil) {
				return uint32(max(s.RestartCount, 0)) + 1
			}
		}
	}
	return 0
}

// crashBackOff says until when a container that ended must wait. The first
// restart is immediate; an exit within the delay doubles it for the next.
func (w *worker) crashBackOff(c *corev1.Container, k *container) (until time.Time) {
	latest := w.runtime.Latest(c.Name)
	if latest == nil || !latest.Exited() {
		return time.Time{}
	}
	if !k.recalled {
		k.recalled = true
		if k.delay == 0 {
			k.delay, k.since = w.recallBackOff(c.Name, latest)
		}
	}
	if k.delay == 0 {
		return time.Time{}
	}
	ended := time.Unix(0, latest.FinishedAt)
	if latest.FinishedAt <= 0 || ended.After(w.now()) {
		ended = w.now()
	}
	if ended.Sub(k.since) > 2*maxBackOff {
		k.delay = 0 // it ran well for long: forgiven
		return time.Time{}
	}
	until = ended.Add(k.delay)
	if !w.now().Before(until) {
		return time.Time{}
	}
	message := fmt.Sprintf("back-off %s restarting failed container=%s pod=%s", k.delay, c.Name, spec.PodName(w.pod))
	if k.wait("CrashLoopBackOff", message) || k.since != ended {
		w.event(c.Name, corev1.EventTypeWarning, "BackOff",
			fmt.Sprintf("Back-off restarting failed container %s in pod %s", c.Name, spec.PodName(w.pod)))
		k.since = ended
	}
	return until
}

// recallBackOff derives the back-off of a container that ended from what the
// runtime has of it and the run before, for a kubelet that did not see them:
// how long it waited between the two shows which step was taken.
func (w *worker) recallBackOff(name string, latest *cri.Container) (delay time.Duration, since time.Time) {
	restarts := latest.Metadata.GetAttempt()
	if restarts == 0 {
		return 0, time.Time{}
	}
	began := time.Unix(0, latest.CreatedAt)
	waited := maxBackOff // unless the run before shows less
	for _, c := range w.runtime.Containers {
		if c.Name() == name && c.Id != latest.Id && c.Exited() {
			waited = began.Sub(time.Unix(0, c.FinishedAt))
			break
		}
	}
	// The first restart waits for nothing, the second for firstBackOff.
	delay = firstBackOff
	for step := uint32(1); step < restarts && delay <= waited && delay < maxBackOff; step++ {
		delay = min(2*delay, maxBackOff)
	}
	return delay, began
}

// advanceBackOff doubles the delay when an ended container is started again.
// The attempt says so, not the runtime: the new one may have ended by now.
func (w *worker) advanceBackOff(k *container, attempt uint32) {
	if attempt == 0 {
		return
	}
	if k.delay == 0 {
		k.delay = firstBackOff
	} else {
		k.delay = min(2*k.delay, maxBackOff)
	}
	k.since = w.now()
}

// start makes and starts a container, then runs its postStart hook.
func (w *worker) start(ctx context.Context, c *corev1.Container, k *container, image *runtimeapi.Image, attempt uint32) (err error) {
	var config *runtimeapi.ContainerConfig
	defer func() {
		if ctx.Err() == nil {
			w.countStart(c, config, err)
		}
	}()
	if config, err = w.config(ctx, c, image, attempt); err != nil {
		return err
	}
	sandbox := w.runtime.Sandbox()
	if sandbox == nil {
		return errors.New("the pod's sandbox is gone")
	}
	if err := os.MkdirAll(filepath.Join(w.logDir(), c.Name), 0o755); err != nil {
		return &startError{"CreateContainerError", fmt.Errorf("create container log directory: %w", err)}
	}
	// As with a sandbox, what the runtime has begun it finishes.
	callCtx, cancel := context.WithTimeout(w.m.ctx, 2*time.Minute)
	defer cancel()
	made, err := w.m.cfg.CRI.Runtime.CreateContainer(callCtx, &runtimeapi.CreateContainerRequest{
		PodSandboxId: sandbox.Id, Config: config, SandboxConfig: w.sandboxConfig()})
	if err != nil {
		return &startError{"CreateContainerError", errors.New(cri.Text(err))}
	}
	w.event(c.Name, corev1.EventTypeNormal, "Created", "Container created")
	if ctx.Err() != nil { // the pod's end has come meanwhile
		w.dirty = true
		return ctx.Err()
	}
	_, err = w.m.cfg.CRI.Runtime.StartContainer(callCtx, &runtimeapi.StartContainerRequest{ContainerId: made.ContainerId})
	if err != nil {
		w.dirty = true
		return &startError{"RunContainerError", errors.New(cri.Text(err))}
	}
	w.event(c.Name, corev1.EventTypeNormal, "Started", "Container started")
	w.link(c.Name, made.ContainerId, config.LogPath)
	if err := w.observe(callCtx, made.ContainerId, sandbox.Id); err != nil {
		w.dirty = true
		return nil // it runs; the next look will tell
	}
	if c.Lifecycle == nil || c.Lifecycle.PostStart == nil {
		return nil
	}
	if err := w.hook(ctx, c, made.ContainerId, c.Lifecycle.PostStart); err != nil && ctx.Err() == nil {
		w.event(c.Name, corev1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed")
		k.unhooked = made.ContainerId
		if running := w.runtime.Latest(c.Name); running != nil {
			w.kill(running, w.podGrace(), "FailedPostStartHook")
		}
		return &startError{"PostStartHookError", errors.New(w.hookFailure(c, c.Lifecycle.PostStart, err))}
	}
	return nil
}

// observe adds a container that was just started to what is known.
func (w *worker) observe(ctx context.Context, id, sandbox string) error {
	got, err := w.m.cfg.CRI.Runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		return err
	}
	next := *w.runtime
	next.Containers = append([]*cri.Container{{ContainerStatus: got.Status, SandboxID: sandbox}}, w.runtime.Containers...)
	w.runtime = &next
	return nil
}

func (w *worker) config(ctx context.Context, c *corev1.Container, image *runtimeapi.Image, attempt uint32) (*runtimeapi.ContainerConfig, error) {
	target, err := w.target(c.Name)
	if err != nil {
		return nil, &startError{"CreateContainerConfigError", err}
	}
	env, err := spec.MakeEnv(w.fields(), c, sources{ctx, w.m, w.uid})
	if err != nil {
		return nil, &startError{"CreateContainerConfigError", err}
	}
	if err := spec.CheckNonRoot(w.pod, c, image); err != nil {
		return nil, &startError{"CreateContainerConfigError", err}
	}
	mounts, devices, groups, err := w.mounts(ctx, c, env)
	if err != nil {
		return nil, &startError{"CreateContainerConfigError", err}
	}
	messageFile, err := w.messageFile(c)
	if err != nil {
		return nil, &startError{"CreateContainerError", err}
	}
	if messageFile != "" {
		mounts = append(mounts, &runtimeapi.Mount{HostPath: messageFile, ContainerPath: c.TerminationMessagePath})
	}
	config, err := spec.Container(spec.ContainerInput{
		Pod: w.pod, Container: c, TargetID: target, ImageRef: image.Id, Image: image, Env: env,
		Mounts: mounts, Devices: devices, Groups: groups, Attempt: attempt, MessageFile: messageFile,
		SeccompDir: w.m.cfg.SeccompDir, Unified: w.m.cfg.Unified, NodeMem: w.m.cfg.Node().Status.Capacity.Memory().Value(),
	})
	if err != nil {
		return nil, &startError{"CreateContainerConfigError", err}
	}
	return config, nil
}

// target is the container whose processes an ephemeral container may see. One
// that wants to see those of another does not run without.
func (w *worker) target(name string) (id string, err error) {
	for i := range w.pod.Spec.EphemeralContainers {
		e := &w.pod.Spec.EphemeralContainers[i]
		if e.Name != name || e.TargetContainerName == "" {
			continue
		}
		c := w.runtime.Latest(e.TargetContainerName)
		if c == nil {
			return "", fmt.Errorf("unable to find target container %v", e.TargetContainerName)
		}
		return c.Id, nil
	}
	return "", nil
}

// collect removes all but the newest dead container of a name.
func (w *worker) collect(name string) {
	dead := 0
	next := *w.runtime
	next.Containers = nil
	for _, c := range w.runtime.Containers {
		if c.Name() == name && c.Exited() {
			if dead++; dead > 1 && w.remove(c) {
				continue
			}
		}
		next.Containers = append(next.Containers, c)
	}
	w.runtime = &next
}

func (w *worker) remove(c *cri.Container) bool {
	ctx, cancel := context.WithTimeout(w.m.ctx, 2*time.Minute)
	defer cancel()
	_, err := w.m.cfg.CRI.Runtime.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: c.Id})
	if err != nil && !cri.IsNotFound(err) {
		w.log.Warn("dead container not removed", "container", c.Id, "err", err)
		return false
	}
	delete(w.messages, c.Id)
	for _, path := range []string{c.LogPath, w.linkPath(c.Name(), c.Id), c.Annotations[cri.AnnotationMessageFile]} {
		if path == "" {
			continue
		}
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			w.log.Debug("file of a dead container not removed", "path", path, "err", err)
		}
	}
	if rotated, err := filepath.Glob(c.LogPath + ".*"); err == nil && c.LogPath != "" {
		for _, path := range rotated {
			_ = os.Remove(path)
		}
	}
	return true
}
