package job

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// account names finished pods in the status, and returns those that may lose
// their finalizer once it is written. more says that there are further ones.
func (p *pass) account() (release []*corev1.Pod, more bool) {
	status := &p.job.Status
	uncounted := status.UncountedTerminatedPods
	list := p.pods
	if p.indexed() {
		list = slices.SortedStableFunc(slices.Values(list), func(a, b *corev1.Pod) int {
			return cmp.Compare(completionIndex(a), completionIndex(b))
		})
	}
	var completed []int
	for _, pod := range list {
		if !p.uncounted(pod) || !p.releasable(pod) {
			continue
		}
		release = append(release, pod)
		ix, valid := p.indexOf(pod)
		switch {
		case pod.Status.Phase == corev1.PodSucceeded && p.indexed():
			if valid && !p.completedBefore.has(ix) {
				completed = append(completed, ix)
				p.flush = true
			}
		case pod.Status.Phase == corev1.PodSucceeded:
			if !p.uncountedSucceeded.Has(pod.UID) && !p.uncountedFailed.Has(pod.UID) {
				uncounted.Succeeded = append(uncounted.Succeeded, pod.UID)
				p.flush = true
			}
		case p.hasFailed(pod) || p.finished != nil && p.finished.Type != batchv1.JobSuccessCriteriaMet:
			// A job that fails takes every pod with it that has not finished.
			if !p.uncountedFailed.Has(pod.UID) && (valid || !p.indexed()) && judge(p.job.Spec.PodFailurePolicy, pod).counts() {
				uncounted.Failed = append(uncounted.Failed, pod.UID)
				p.flush = true
			}
		}
		if len(completed)+len(uncounted.Succeeded)+len(uncounted.Failed) >= burst {
			more = true
			break
		}
	}
	if p.indexed() {
		p.noteIndexes(completed)
	}
	return release, more
}

// releasable reports whether a pod can be counted: it has finished, or the job
// has, or it goes. A failed pod whose index is tried again waits for its
// replacement, which takes over its count of failures.
func (p *pass) releasable(pod *corev1.Pod) bool {
	if p.job.DeletionTimestamp != nil || p.finished != nil || pod.Status.Phase == corev1.PodSucceeded {
		return true
	}
	if !p.hasFailed(pod) {
		return false
	}
	if ix := completionIndex(pod); p.perIndex() && ix != noIndex {
		last := p.successors[ix]
		return last == nil || last.UID != pod.UID
	}
	return true
}

// noteIndexes writes an indexed job's outcomes. Completed indexes that are not
// among those of pods accounted for by now are left for the next pass.
func (p *pass) noteIndexes(completed []int) {
	status := &p.job.Status
	done := p.completedBefore.with(completed)
	text := done.String()
	if text != status.CompletedIndexes || status.Succeeded != int32(done.total()) {
		status.CompletedIndexes, status.Succeeded = text, int32(done.total())
		p.flush = true
	}
	var failed *string
	if p.perIndex() {
		failed = ptr.To(p.failedIndexes.String())
	}
	if !ptr.Equal(status.FailedIndexes, failed) {
		status.FailedIndexes = failed
		p.flush = true
	}
}

// settle counts the pods that the status names and that have lost their
// finalizer; held are those that have it.
func (p *pass) settle(held sets.Set[types.UID]) {
	status := &p.job.Status
	uncounted := status.UncountedTerminatedPods
	count := func(uids *[]types.UID, n *int32) {
		left := slices.DeleteFunc(slices.Clone(*uids), func(uid types.UID) bool { return !held.Has(uid) })
		if len(left) == len(*uids) {
			return
		}
		*n += int32(len(*uids) - len(left))
		*uids = left
		p.flush = true
	}
	count(&uncounted.Succeeded, &status.Succeeded)
	count(&uncounted.Failed, &status.Failed)
}

// announce puts the condition into the status that tells how the job will end,
// before its last pods are let go.
func (p *pass) announce() {
	if p.finished == nil {
		return
	}
	switch c := p.finished; c.Type {
	case batchv1.JobFailureTarget:
		p.setCondition(c.Type, c.Status, c.Reason, c.Message)
		p.finished = p.newCondition(batchv1.JobFailed, c.Reason, c.Message)
	case batchv1.JobSuccessCriteriaMet:
		p.setCondition(c.Type, c.Status, c.Reason, c.Message)
		p.finished = p.newCondition(batchv1.JobComplete, c.Reason, c.Message)
	}
}

// end puts the last condition into the status, if all pods are counted and
// gone, and reports whether it did.
func (p *pass) end() bool {
	uncounted := p.job.Status.UncountedTerminatedPods
	if p.finished == nil || len(uncounted.Succeeded)+len(uncounted.Failed) > 0 || p.terminating > 0 {
		return false
	}
	c := p.finished
	p.setCondition(c.Type, c.Status, c.Reason, c.Message)
	if c.Type == batchv1.JobComplete {
		p.job.Status.CompletionTime = &metav1.Time{Time: p.now}
	}
	p.flush = true
	return true
}

// numbers puts the counts of pods into the status.
func (p *pass) numbers() {
	s := &p.job.Status
	if s.Active != p.running || !ptr.Equal(s.Ready, &p.ready) || !ptr.Equal(s.Terminating, &p.terminating) {
		p.flush = true
	}
	s.Active, s.Ready, s.Terminating = p.running, ptr.To(p.ready), ptr.To(p.terminating)
}

// track counts what has finished, see the package's comment, and ends the job
// when all is counted.
func (c *Controller) track(ctx context.Context, m *memory, p *pass) error {
	held := sets.New[types.UID]()
	for _, pod := range p.pods {
		if p.uncounted(pod) {
			held.Insert(pod.UID)
		}
	}
	p.numbers()
	p.settle(held)
	release, more := p.account()
	p.announce()
	if p.flush {
		if err := c.write(ctx, m, p); err != nil {
			return fmt.Errorf("adding uncounted pods to status: %w", err)
		}
		m.backoff = p.backoff
		c.tell(p)
	}
	gone, releaseErr := c.release(ctx, p.job.UID, release)
	held = held.Difference(gone)
	p.settle(held)
	ended := releaseErr == nil && !more && p.end()
	if p.flush {
		if err := c.write(ctx, m, p); err != nil {
			return fmt.Errorf("removing uncounted pods from status: %w", err)
		}
	}
	if ended {
		c.tellEnd(p)
	}
	return releaseErr
}

// write writes the status.
func (c *Controller) write(ctx context.Context, m *memory, p *pass) error {
	if err := c.env.Cluster.Client().Status().Update(ctx, p.job); err != nil {
		return err
	}
	m.written = p.job.ResourceVersion
	c.counts.written(p)
	if p.job.Status.UncountedTerminatedPods == nil {
		p.job.Status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{}
	}
	p.flush = false
	return nil
}

func (c *Controller) tellEnd(p *pass) {
	c.counts.ended(p)
	if p.finished.Type != batchv1.JobComplete {
		c.events.Event(p.job, corev1.EventTypeWarning, p.finished.Reason, p.finished.Message)
		return
	}
	if n := p.job.Spec.Completions; n != nil && p.job.Status.Succeeded > *n {
		c.events.Event(p.job, corev1.EventTypeWarning, "TooManySucceededPods", "Too many succeeded pods running after completion count reached")
	}
	c.events.Event(p.job, corev1.EventTypeNormal, "Completed", "Job completed")
}

// release takes the finalizers off pods, and returns those without one.
func (c *Controller) release(ctx context.Context, job types.UID, list []*corev1.Pod) (sets.Set[types.UID], error) {
	gone := sets.New[types.UID]()
	if len(list) == 0 {
		return gone, nil
	}
	uids := make([]types.UID, len(list))
	for i, pod := range list {
		uids[i] = pod.UID
	}
	c.rel.expect(job, uids)
	var errs []error
	for i, err := range each(list, func(pod *corev1.Pod) error { return c.dropFinalizer(ctx, pod) }) {
		switch {
		case err == nil:
			gone.Insert(uids[i])
		case apierrors.IsNotFound(err):
			gone.Insert(uids[i])
			c.rel.seen(job, uids[i])
		default:
			errs = append(errs, err)
			c.rel.seen(job, uids[i]) // no event will come of it
		}
	}
	return gone, errors.Join(errs...)
}

// dropFinalizer takes the finalizer off a pod, but no other pod of its name.
func (c *Controller) dropFinalizer(ctx context.Context, pod *corev1.Pod) error {
	if !tracked(pod) {
		return nil
	}
	data, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid":                                 pod.UID,
		"$deleteFromPrimitiveList/finalizers": []string{batchv1.JobTrackingFinalizer},
	}})
	if err != nil {
		return fmt.Errorf("encode finalizers: %w", err)
	}
	target := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name}} // Patch writes the answer into it
	err = c.env.Cluster.Client().Patch(ctx, target, client.RawPatch(types.StrategicMergePatchType, data))
	if apierrors.IsConflict(err) { // another pod has the name
		return apierrors.NewNotFound(corev1.Resource("pods"), pod.Name)
	}
	return err
}

// parallel bounds how many requests of one pass are under way.
const parallel = 64

// each calls fn for every pod, many at a time, and returns what came of each.
func each(list []*corev1.Pod, fn func(*corev1.Pod) error) []error {
	errs := make([]error, len(list))
	var wg sync.WaitGroup
	slots := make(chan struct{}, parallel)
	for i, pod := range list {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			errs[i] = fn(pod)
		})
	}
	wg.Wait()
	return errs
}

// released remembers, by job, the pods whose finalizer was taken off and that
// were not seen without it yet. Safe for concurrent use.
type released struct {
	mu   sync.Mutex
	pods map[types.UID]sets.Set[types.UID]
}

func (r *released) expect(job types.UID, pods []types.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pods == nil {
		r.pods = map[types.UID]sets.Set[types.UID]{}
	}
	if r.pods[job] == nil {
		r.pods[job] = sets.New[types.UID]()
	}
	r.pods[job].Insert(pods...)
}

// of returns the pods of a job.
func (r *released) of(job types.UID) sets.Set[types.UID] {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pods[job].Clone()
}

// seen reports whether a pod was expected to lose its finalizer, which it has.
func (r *released) seen(job, pod types.UID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	set := r.pods[job]
	if !set.Has(pod) {
		return false
	}
	set.Delete(pod)
	if set.Len() == 0 {
		delete(r.pods, job)
	}
	return true
}

func (r *released) forget(job types.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.pods, job)
}
