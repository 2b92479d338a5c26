// Package job is the Job controller: it runs pods until enough of them have
// succeeded, or too many have failed.
//
// No pod is counted twice and none is lost, whenever the controller dies. Every
// pod carries a finalizer until it is counted, which takes three writes:
//
//  1. the job's status names the UIDs of finished pods as uncounted,
//  2. the finalizer is taken off those pods,
//  3. the status counts them and names them no more.
//
// Of an indexed job the list of completed indexes is in the status itself, so
// that its successes need no UIDs. Whoever takes over after a crash goes on
// where the status and the finalizers say.
package job

import (
	"context"
	"fmt"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/api/batch"
	"github.com/proa-dev/proa/controllers/internal/expect"
	"github.com/proa-dev/proa/controllers/internal/index"
	"github.com/proa-dev/proa/controllers/internal/loop"
	"github.com/proa-dev/proa/controllers/internal/matching"
	"github.com/proa-dev/proa/controllers/internal/owner"
	"github.com/proa-dev/proa/controllers/internal/pods"
)

// Name is the controller's name in logs and events.
const Name = "job-controller"

const workers = 5

var kind = batchv1.SchemeGroupVersion.WithKind("Job")

// Controller is the loop over jobs.
type Controller struct {
	env    loop.Env
	events record.EventRecorder
	pods   pods.Control
	expect *expect.Tracker
	owners *matching.Index[*batchv1.Job]
	rel    *released
	counts *metrics

	mu   sync.Mutex
	jobs map[types.NamespacedName]*memory
}

// memory is what is known of a job beyond its object. All of it can be lost.
type memory struct {
	uid types.UID
	// current says that the cache was seen to be as new as the API.
	current bool
	// written is the resource version of our last write of the status.
	written string
	backoff backoff
	// next is the earliest time of the next pass that pods alone call for.
	next time.Time
}

// New makes the controller.
func New(env loop.Env) (loop.Loop, error) {
	env = env.Named(Name)
	events := env.Cluster.Recorder(Name)
	c := &Controller{
		env: env, events: events,
		pods:   pods.Control{Client: env.Cluster.Client(), Recorder: events},
		expect: expect.NewTracker(env.Clock),
		owners: matching.New(func(j *batchv1.Job) labels.Selector {
			if batch.Finished(j) {
				return labels.Nothing()
			}
			return matching.Adopting(j.Spec.Selector)
		}),
		rel:    &released{},
		counts: newMetrics(),
		jobs:   map[types.NamespacedName]*memory{},
	}
	if err := env.Register(c.counts.all()...); err != nil {
		return loop.Loop{}, err
	}
	// A job that a quota holds up is tried each minute, as upstream does.
	retries := loop.Retries{First: time.Second, Longest: time.Minute}
	jobs, err := loop.NewRetrying(env, Name, workers, retries, c.reconcile, c.watchJobs(), c.watchPods())
	if err != nil {
		return loop.Loop{}, err
	}
	orphans, err := loop.NewRetrying(env, Name+"-orphans", workers, retries, c.freeOrphan, c.watchOwners(), c.watchOrphans())
	if err != nil {
		return loop.Loop{}, err
	}
	return loop.Join(Name, jobs, orphans), nil
}

// memoryOf returns what is known of a job. Only the one pass over the job that
// runs at a time may change it, but for next.
func (c *Controller) memoryOf(key types.NamespacedName, uid types.UID) *memory {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.jobs[key]
	if m == nil || m.uid != uid {
		c.drop(m)
		m = &memory{uid: uid}
		c.jobs[key] = m
	}
	return m
}

// forget is for a job that has ended or is gone.
func (c *Controller) forget(key types.NamespacedName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(c.jobs[key])
	delete(c.jobs, key)
}

func (c *Controller) drop(m *memory) {
	if m != nil {
		c.expect.Forget(m.uid)
		c.rel.forget(m.uid)
	}
}

// pace is how long to wait with a pass that the change of a pod calls for. A
// pass over a job of thousands of pods takes its time; this bounds its share of
// the machine.
func (c *Controller) pace(key types.NamespacedName) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.jobs[key]
	if m == nil {
		return 0
	}
	return max(0, m.next.Sub(c.env.Clock.Now()))
}

// paceFactor and maxPace say how a pass that took long holds back the next.
const (
	paceFactor = 4
	maxPace    = time.Second
)

func (c *Controller) passed(m *memory, began time.Time) {
	now := c.env.Clock.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	m.next = now.Add(min(paceFactor*now.Sub(began), maxPace))
}

// managedElsewhere reports whether a job is another controller's business.
func managedElsewhere(j *batchv1.Job) bool {
	return j.Spec.ManagedBy != nil && *j.Spec.ManagedBy != batchv1.JobControllerName
}

// reconcile makes one pass over one job.
func (c *Controller) reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	job := &batchv1.Job{} // a copy of our own
	if err := c.env.Cluster.Client().Get(ctx, key, job); err != nil {
		if apierrors.IsNotFound(err) {
			c.forget(key) // no pass over it is under way, which could know it again
			err = nil
		}
		return 0, err
	}
	if managedElsewhere(job) {
		return 0, nil
	}
	if batch.Finished(job) {
		c.forget(key)
		return 0, nil
	}
	if mode := job.Spec.CompletionMode; mode != nil && *mode != batchv1.NonIndexedCompletion && *mode != batchv1.IndexedCompletion {
		c.events.Event(job, corev1.EventTypeWarning, "UnknownCompletionMode", "Skipped Job sync because completion mode is unknown")
		return 0, nil
	}
	selector, err := metav1.LabelSelectorAsSelector(job.Spec.Selector)
	if err != nil || selector.Empty() {
		return 0, nil // validation forbids it; an empty one would adopt every pod there is
	}
	m := c.memoryOf(key, job.UID)
	if stale, err := c.stale(ctx, m, job, selector); stale || err != nil {
		return loop.StaleDelay, err
	}
	defer c.passed(m, c.env.Clock.Now())
	after, err := c.sync(ctx, m, job, selector)
	if apierrors.IsNotFound(err) {
		return 0, nil // deleted meanwhile
	}
	return after, err
}

// sync is reconcile for a job that is to be worked on, and known to be as we
// left it.
func (c *Controller) sync(ctx context.Context, m *memory, job *batchv1.Job, selector labels.Selector) (after time.Duration, err error) {
	begin, action, mode := c.env.Clock.Now(), actionReconciling, batchv1.NonIndexedCompletion
	if job.Spec.CompletionMode != nil {
		mode = *job.Spec.CompletionMode
	}
	defer func() { c.counts.passed(string(mode), action, err, c.env.Clock.Since(begin)) }()
	// Asked before the pods are read: what is seen later cannot be missing.
	settled := c.expect.Satisfied(job.UID)
	expected := c.rel.of(job.UID)
	mine, err := c.podsOf(ctx, job, selector)
	if err != nil {
		return 0, err
	}
	p := newPass(job, mine, expected, m.backoff, c.env.Clock.Now())
	p.evaluate()
	var manageErr error
	switch {
	case p.finished != nil:
		deleted := c.deleteActive(ctx, p)
		action = actionDeleted
		if deleted.total < len(p.active) || !settled {
			// Pods may be left that the finish must count first.
			p.finished = nil
		}
		p.removed(deleted)
		manageErr = deleted.err
	case settled && job.DeletionTimestamp == nil:
		action, manageErr = c.manage(ctx, p)
		if !p.checkComplete() {
			p.change = p.noteSuspension()
		}
	default:
		p.checkComplete()
	}
	if err := c.track(ctx, m, p); err != nil {
		return 0, fmt.Errorf("tracking status: %w", err)
	}
	if !settled {
		p.lookAgain(expect.Recheck)
	}
	return p.again, manageErr
}

// tell records the event of a change of suspension, which is written.
func (c *Controller) tell(p *pass) {
	switch p.change {
	case suspended:
		c.events.Event(p.job, corev1.EventTypeNormal, "Suspended", "Job suspended")
	case resumed:
		c.events.Event(p.job, corev1.EventTypeNormal, "Resumed", "Job resumed")
	case unchanged:
	}
}

// stale reports whether the cache lags behind what is known to have happened.
//
// Our own last write of the status must be in it. And for a job that this
// process has not worked on yet, so must all that others have written: its
// pods may have been counted by a controller that died a moment ago. That is
// looked up once for a job.
func (c *Controller) stale(ctx context.Context, m *memory, job *batchv1.Job, selector labels.Selector) (bool, error) {
	if m.written != "" {
		if loop.Older(job.ResourceVersion, m.written) {
			return true, nil
		}
		m.written = ""
	}
	if m.current {
		return false, nil
	}
	fresh := &batchv1.Job{}
	if err := c.env.Cluster.Reader().Get(ctx, client.ObjectKeyFromObject(job), fresh); err != nil {
		return apierrors.IsNotFound(err), client.IgnoreNotFound(err)
	}
	var now corev1.PodList
	if err := c.env.Cluster.Reader().List(ctx, &now, client.InNamespace(job.Namespace), client.UnsafeDisableDeepCopy,
		client.MatchingLabelsSelector{Selector: selector}); err != nil {
		return false, fmt.Errorf("list pods: %w", err)
	}
	var cached corev1.PodList
	if err := c.env.Cluster.Client().List(ctx, &cached, index.By(job.Namespace, index.Controller, string(job.UID))...); err != nil {
		return false, fmt.Errorf("list pods: %w", err)
	}
	m.current = !loop.Older(job.ResourceVersion, fresh.ResourceVersion) && seen(job.UID, &now, cached.Items)
	return !m.current, nil
}

// seen reports whether the cached pods of an owner are at least as new as a
// list from the API.
func seen(uid types.UID, fresh *corev1.PodList, cached []corev1.Pod) bool {
	versions := map[types.UID]string{}
	for i := range cached {
		versions[cached[i].UID] = cached[i].ResourceVersion
	}
	for i := range fresh.Items {
		p := &fresh.Items[i]
		if ref := metav1.GetControllerOfNoCopy(p); ref == nil || ref.UID != uid {
			continue
		}
		have, found := versions[p.UID]
		if !found || loop.Older(have, p.ResourceVersion) {
			return false
		}
		delete(versions, p.UID)
	}
	for _, version := range versions {
		if !loop.Older(fresh.ResourceVersion, version) {
			return false // gone, which the cache has not seen
		}
	}
	return true
}

// podsOf returns the job's pods, after adopting and releasing.
func (c *Controller) podsOf(ctx context.Context, job *batchv1.Job, selector labels.Selector) ([]*corev1.Pod, error) {
	var candidates []*corev1.Pod
	for _, who := range []string{string(job.UID), index.Orphan} {
		var list corev1.PodList
		if err := c.env.Cluster.Client().List(ctx, &list, index.By(job.Namespace, index.Controller, who)...); err != nil {
			return nil, fmt.Errorf("list pods: %w", err)
		}
		for i := range list.Items {
			if p := &list.Items[i]; who != index.Orphan || selector.Matches(labels.Set(p.Labels)) {
				candidates = append(candidates, p)
			}
		}
	}
	claim := &owner.Claim{
		Cluster: c.env.Cluster, Owner: job, Kind: kind, Selector: selector,
		Fresh: &batchv1.Job{}, Finalizer: batchv1.JobTrackingFinalizer,
	}
	mine, err := owner.Of(ctx, claim, candidates, nil)
	if err != nil {
		return nil, err
	}
	for i, p := range mine {
		// One just adopted has the finalizer by now.
		if metav1.GetControllerOfNoCopy(p) == nil && !tracked(p) {
			mine[i] = p.DeepCopy()
			mine[i].Finalizers = append(mine[i].Finalizers, batchv1.JobTrackingFinalizer)
		}
	}
	return mine, nil
}
