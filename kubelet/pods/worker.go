package pods

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/proa-dev/proa/kubelet/cri"
	"github.com/proa-dev/proa/kubelet/objects"
	"github.com/proa-dev/proa/kubelet/spec"
	"github.com/proa-dev/proa/kubelet/status"
	"github.com/proa-dev/proa/kubelet/volumes"
)

// state is where a pod is in its life on this node. It only moves on.
type state int

const (
	running     state = iota // containers are kept running
	terminating              // containers are being stopped
	terminated               // no process is left; volumes and groups go
	cleaned                  // only dead containers and logs are left
)

// worker is one pod's goroutine with all that it knows. Others reach it
// through the inbox only.
type worker struct {
	m    *Manager
	uid  types.UID
	log  *slog.Logger
	wake chan struct{}
	done chan struct{}  // closed at the end of the goroutine
	wg   sync.WaitGroup // kills, pulls and probes

	mu         sync.Mutex
	inbox      inbox
	cancelSync context.CancelFunc // ends what blocks the present sync
	published  published
	watchers   []watcher

	seen time.Time // when the kubelet heard of the pod

	// Below: the goroutine's own.
	pod        *corev1.Pod
	asked      *corev1.Pod // the API's, when a resize has to wait
	gone       bool        // the API object is
	state      state
	since      time.Time // when termination began
	override   *int64    // grace that replaces the pod's own
	verdict    *status.Verdict
	status     corev1.PodStatus
	reported   bool
	runtime    *cri.Pod
	dirty      bool // the runtime's state may have changed
	containers map[string]*container
	kills      map[string]*killing
	killed     map[string]bool // by container: it was told to end, hook and event included
	renewed    map[string]bool // by container: another is to take its place
	mounted    bool
	remount    bool
	mountAt    time.Time
	retry      retry
	sandbox    *runtimeapi.PodSandboxConfig
	registered *corev1.Pod
	messages   map[string]string
	pending    *corev1.PodCondition // a resize that does not fit
	resizing   *corev1.PodCondition // a resize that goes on, or failed
	size       spec.Size            // of the pod's group
	given      *corev1.Pod          // as the kubelet before this one ran it
	synced     bool                 // once
	measured   bool                 // its start was, or cannot be
	pulled     time.Duration        // in which images were pulled
}

type inbox struct {
	pod     *corev1.Pod
	gone    bool
	dirty   bool
	changed bool // an object that the pod refers to
	verdict *status.Verdict
	grace   *int64
	calls   []func()
}

// published is what others may ask for.
type published struct {
	pod     *corev1.Pod
	status  corev1.PodStatus
	state   state
	runtime *cri.Pod
}

// retry spaces out attempts at what fails.
type retry struct {
	delay time.Duration
	at    time.Time
}

func (r *retry) fail(now time.Time) time.Time {
	r.delay = min(max(2*r.delay, 500*time.Millisecond), 30*time.Second)
	r.at = now.Add(r.delay)
	return r.at
}

func (w *worker) post(f func(in *inbox)) {
	w.mu.Lock()
	f(&w.inbox)
	ending := w.inbox.gone || w.inbox.verdict != nil || (w.inbox.pod != nil && w.inbox.pod.DeletionTimestamp != nil)
	if ending && w.cancelSync != nil {
		w.cancelSync()
	}
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// call runs f in the worker's goroutine.
func (w *worker) call(f func()) {
	w.post(func(in *inbox) { in.calls = append(in.calls, f) })
}

// run is the pod's goroutine. It ends when nothing of the pod is left, or with
// ctx, which leaves containers running.
func (w *worker) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer close(w.done)
	defer w.wg.Wait()
	defer cancel()
	defer w.closeWatchers()
	for {
		next, done := w.sync(ctx)
		if done || ctx.Err() != nil {
			return
		}
		if !w.wait(ctx, next) {
			return
		}
	}
}

func (w *worker) closeWatchers() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, x := range w.watchers {
		close(x.done)
	}
	w.watchers = nil
}

// wait returns at news or when it is time; false when ctx has ended.
func (w *worker) wait(ctx context.Context, at time.Time) bool {
	var timer <-chan time.Time
	if !at.IsZero() {
		t := w.m.cfg.Clock.NewTimer(max(at.Sub(w.now()), 0))
		defer t.Stop()
		timer = t.C()
	}
	select {
	case <-w.wake:
	case <-timer:
	case <-ctx.Done():
		return false
	}
	return true
}

func (w *worker) now() time.Time { return w.m.cfg.Clock.Now() }

// sync takes the pod one step further and returns when to look again.
func (w *worker) sync(ctx context.Context) (next time.Time, done bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	begin, before := w.now(), w.asked
	if !w.synced {
		w.m.cfg.Metrics.WorkerStart.Observe(begin.Sub(w.seen).Seconds())
	}
	defer func() { w.measureWork(begin, before) }()
	w.take(cancel)
	if err := w.refresh(ctx); err != nil {
		if ctx.Err() == nil {
			w.log.Warn("runtime does not answer", "err", err)
		}
		return w.retry.fail(w.now()), false
	}
	if w.state == running {
		w.decideEnd()
	}
	switch w.state {
	case running:
		next = w.syncRunning(ctx)
	default:
		next, done = w.syncEnding(ctx)
	}
	w.publish()
	return next, done
}

func (w *worker) take(cancel context.CancelFunc) {
	w.mu.Lock()
	in := w.inbox
	w.inbox = inbox{}
	w.cancelSync = nil
	if in.pod == nil || in.pod.DeletionTimestamp == nil {
		w.cancelSync = cancel
	}
	w.mu.Unlock()
	if in.pod != nil {
		before := w.pod
		w.asked, w.pod = in.pod, w.allocate(in.pod)
		if !sameResources(before, w.pod) {
			w.publish()
			w.m.Poke() // others may wait for what this pod gives up
		}
	}
	w.gone = w.gone || in.gone
	w.dirty = w.dirty || in.dirty
	if in.changed {
		w.remount = true
		w.retry = retry{}
		for _, c := range w.containers {
			c.configRetry = retry{}
		}
	}
	if in.verdict != nil && w.verdict == nil {
		w.verdict = in.verdict
		w.override = in.grace
		w.event("", corev1.EventTypeWarning, w.verdict.Reason, w.verdict.Message)
	}
	for _, f := range in.calls {
		f()
	}
	if w.state != running {
		w.mu.Lock()
		w.cancelSync = nil // what ends a pod is not cut short
		w.mu.Unlock()
	}
}

func (w *worker) refresh(ctx context.Context) error {
	if !w.dirty && w.runtime != nil {
		return nil
	}
	w.dirty = false
	got, err := w.m.cfg.CRI.Pod(ctx, string(w.uid), w.runtime)
	if err != nil {
		w.dirty = true
		return err
	}
	w.runtime = got
	return nil
}

// decideEnd moves on to terminating when the pod's time has come.
func (w *worker) decideEnd() {
	switch {
	case w.gone || w.pod.DeletionTimestamp != nil:
	case w.verdict != nil:
	case final(w.pod):
	default:
		if left, bounded := w.activeLeft(); bounded && left <= 0 {
			w.verdict = &status.Verdict{Phase: corev1.PodFailed, Reason: "DeadlineExceeded",
				Message: "Pod was active on the node longer than the specified deadline"}
			w.event("", corev1.EventTypeNormal, "DeadlineExceeded", "Pod was active on the node longer than the specified deadline")
			break
		}
		return
	}
	w.end()
}

func (w *worker) end() {
	w.state, w.since = terminating, w.now()
	w.retry = retry{}
	for _, c := range w.containers {
		c.stopLifeProbes()
		if c.pull != nil {
			c.pull.cancel()
		}
	}
	w.mu.Lock()
	w.cancelSync = nil
	w.mu.Unlock()
}

// activeLeft is what is left of the pod's active deadline.
func (w *worker) activeLeft() (left time.Duration, bounded bool) {
	limit := w.pod.Spec.ActiveDeadlineSeconds
	if limit == nil || w.status.StartTime == nil {
		return 0, false
	}
	return w.status.StartTime.Add(time.Duration(*limit) * time.Second).Sub(w.now()), true
}

func (w *worker) syncRunning(ctx context.Context) (next time.Time) {
	w.probeAll() // what ran before the kubelet did is as ready as it was
	w.report(false)
	if now := w.now(); now.Before(w.retry.at) {
		return w.retry.at
	}
	if err := w.prepare(ctx); err != nil {
		if ctx.Err() == nil {
			w.log.Debug("pod not prepared", "err", err)
		}
		return soonest(w.retry.fail(w.now()), w.deadlineAt())
	}
	p := makePlan(w.view())
	if p.newSandbox {
		if err := w.makeSandbox(); err != nil {
			w.report(false)
			return soonest(w.retry.fail(w.now()), w.deadlineAt())
		}
		p = makePlan(w.view())
	}
	w.retry = retry{}
	// What was started may let the next ones start: a sidecar without a
	// startup probe holds nothing back.
	for {
		if p.over {
			w.end()
			next, _ = w.syncEnding(ctx)
			return next
		}
		for _, k := range p.kill {
			if k.renew {
				w.renewed[k.container.Id] = true
			}
			w.kill(k.container, w.probeGrace(k.container), k.message)
		}
		if !usable(w.pod, w.runtime) {
			break
		}
		started, at := w.startAll(ctx, p.start)
		w.probeAll()
		next = at
		if !started || ctx.Err() != nil {
			break
		}
		p = makePlan(w.view())
	}
	if at := w.resize(ctx); !at.IsZero() {
		next = soonest(next, at)
	}
	w.report(false)
	return soonest(soonest(next, w.deadlineAt()), w.mountAt)
}

func (w *worker) deadlineAt() time.Time {
	if left, bounded := w.activeLeft(); bounded {
		return w.now().Add(left)
	}
	return time.Time{}
}

// soonest is the earlier of two times of which zero is never.
func soonest(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}

func (w *worker) view() view {
	return view{pod: w.pod, runtime: w.runtime,
		started: func(name string) bool { return w.container(name).isStarted() },
		failed:  func(c *cri.Container) string { return w.container(c.Name()).failure(c) },
		renewed: w.isRenewed,
	}
}

// isRenewed says that the newest container of a name was ended to be made anew.
func (w *worker) isRenewed(name string) bool {
	latest := w.runtime.Latest(name)
	return latest != nil && w.renewed[latest.Id]
}

// fields is what the pod may know of itself.
func (w *worker) fields() spec.Fields {
	ips := w.runtime.IPs()
	if w.pod.Spec.HostNetwork {
		ips = w.m.cfg.HostIPs()
	}
	return spec.Fields{Pod: w.pod, PodIPs: ips, HostIPs: w.m.cfg.HostIPs(), Allocatable: w.m.cfg.Node().Status.Allocatable}
}

// prepare makes ready what a sandbox needs: directories, groups, volumes.
func (w *worker) prepare(ctx context.Context) error {
	if w.registered != w.pod {
		w.m.cfg.Objects.Register(w.uid, objects.Of(w.pod), func() { w.post(func(in *inbox) { in.changed = true }) })
		if w.registered == nil || !equality.Semantic.DeepEqual(w.registered.Labels, w.pod.Labels) || !equality.Semantic.DeepEqual(w.registered.Annotations, w.pod.Annotations) ||
			!equality.Semantic.DeepEqual(w.registered.Spec, w.pod.Spec) {
			w.remount = true
		}
		w.registered = w.pod
	}
	if !w.mounted {
		if err := w.makeDirs(); err != nil {
			w.event("", corev1.EventTypeWarning, "Failed", fmt.Sprintf("error making pod data directories: %v", err))
			return err
		}
		if err := w.ensureGroup(); err != nil {
			w.event("", corev1.EventTypeWarning, "FailedCreatePodContainer", fmt.Sprintf("unable to ensure pod container exists: %v", err))
			return err
		}
	}
	due := !w.mountAt.IsZero() && !w.now().Before(w.mountAt)
	if w.mounted && !w.remount && !due {
		return nil
	}
	refresh, err := w.m.cfg.Volumes.SetUp(ctx, w.pod, w.fields())
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		for _, f := range failures(err) {
			w.event("", corev1.EventTypeWarning, "FailedMount", f.Error())
		}
		if !w.mounted {
			return err
		}
		// Containers run on with what they have; the next change tries again.
		refresh = soonest(refresh, w.now().Add(30*time.Second))
	}
	w.mounted, w.remount, w.mountAt = true, false, refresh
	return nil
}

// failures takes joined errors apart.
func failures(err error) []error {
	var joined interface{ Unwrap() []error }
	var one *volumes.Failure
	if errors.As(err, &joined) {
		return joined.Unwrap()
	}
	if errors.As(err, &one) {
		return []error{one}
	}
	return []error{err}
}

// event records an event of the pod or one of its containers.
func (w *worker) event(container, kind, reason, message string) {
	w.eventer(container)(kind, reason, message)
}

// eventer records events from goroutines beside the worker's own.
func (w *worker) eventer(container string) func(kind, reason, message string) {
	if w.pod.ResourceVersion == "" && w.gone { // known from the runtime only
		return func(string, string, string) {}
	}
	ref := &corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: w.pod.Namespace, Name: w.pod.Name,
		UID: w.pod.UID, ResourceVersion: w.pod.ResourceVersion}
	if container != "" {
		ref.FieldPath = spec.FieldPath(w.pod, container)
	}
	return func(kind, reason, message string) { w.m.cfg.Recorder.Event(ref, kind, reason, message) }
}
