package job

import (
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/controllers/internal/pods"
)

// pass is one look at a job and its pods, and what follows of it. It is pure:
// it reads no clock and writes nothing but its own copy of the job's status.
type pass struct {
	job    *batchv1.Job
	pods   []*corev1.Pod // shared with the cache
	active []*corev1.Pod // those that run or will
	now    time.Time
	before batchv1.JobStatus

	// counts of pods: now, or after what this pass does
	running, ready, terminating int32
	// counts of outcomes, those included that the status does not count yet
	succeeded, failed int32

	uncountedSucceeded, uncountedFailed sets.Set[types.UID]
	// expected are pods that have lost the finalizer, which may not be seen yet.
	expected sets.Set[types.UID]

	// of indexed jobs: completed as the status says, with what is new, failed
	completedBefore, completed, failedIndexes intervals
	// successors are failed pods that stay until their replacement has taken
	// over the count of failures, by index.
	successors map[int]*corev1.Pod

	backoff backoff
	// finished is the condition that the job is to end with, or has begun to.
	finished *batchv1.JobCondition
	// change is of whether the job is suspended.
	change suspension
	// again is when to look again without a change; zero is never.
	again time.Duration
	// flush says that the status is to be written.
	flush bool
	// What the metrics were told of the outcomes that the status counts.
	toldSucceeded, toldFailed int32
}

func newPass(job *batchv1.Job, mine []*corev1.Pod, expected sets.Set[types.UID], past backoff, now time.Time) *pass {
	if job.Status.UncountedTerminatedPods == nil {
		job.Status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{}
	}
	p := &pass{
		job: job, pods: mine, now: now, expected: expected, backoff: past,
		before:        *job.Status.DeepCopy(),
		toldSucceeded: job.Status.Succeeded, toldFailed: job.Status.Failed,
		uncountedSucceeded: sets.New(job.Status.UncountedTerminatedPods.Succeeded...),
		uncountedFailed:    sets.New(job.Status.UncountedTerminatedPods.Failed...),
	}
	for _, pod := range mine {
		switch {
		case pods.Active(pod):
			p.active = append(p.active, pod)
			p.running++
			if pods.Ready(pod) {
				p.ready++
			}
		case pods.Terminating(pod):
			p.terminating++
		}
	}
	return p
}

func (p *pass) indexed() bool {
	return ptr.Deref(p.job.Spec.CompletionMode, batchv1.NonIndexedCompletion) == batchv1.IndexedCompletion
}

func (p *pass) perIndex() bool { return p.indexed() && p.job.Spec.BackoffLimitPerIndex != nil }

func (p *pass) suspended() bool { return ptr.Deref(p.job.Spec.Suspend, false) }

func (p *pass) completions() int { return int(ptr.Deref(p.job.Spec.Completions, 0)) }

// lookAgain asks for a pass after some time; the earliest counts.
func (p *pass) lookAgain(after time.Duration) {
	after = max(after, time.Millisecond)
	if p.again == 0 || after < p.again {
		p.again = after
	}
}

// tracked reports whether a pod is yet to be counted.
func tracked(pod *corev1.Pod) bool {
	return slices.Contains(pod.Finalizers, batchv1.JobTrackingFinalizer)
}

// uncounted reports whether a pod is tracked still, as far as is known.
func (p *pass) uncounted(pod *corev1.Pod) bool { return tracked(pod) && !p.expected.Has(pod.UID) }

// onlyFailed reports whether a pod is replaced only after it has failed, and
// not when it begins to terminate.
func (p *pass) onlyFailed() bool {
	return ptr.Deref(p.job.Spec.PodReplacementPolicy, batchv1.TerminatingOrFailed) == batchv1.Failed
}

// hasFailed reports whether a pod counts as failed. One that is deleted does,
// for it may never come to a phase of failure.
func (p *pass) hasFailed(pod *corev1.Pod) bool {
	if pod.Status.Phase == corev1.PodFailed {
		return true
	}
	return !p.onlyFailed() && pod.DeletionTimestamp != nil && pod.Status.Phase != corev1.PodSucceeded
}

// indexOf returns a pod's index if it is one of the job's.
func (p *pass) indexOf(pod *corev1.Pod) (int, bool) {
	ix := completionIndex(pod)
	return ix, ix != noIndex && ix < p.completions()
}

// fresh returns the pods with an outcome that the status does not know of.
func (p *pass) fresh(known sets.Set[types.UID], outcome func(*corev1.Pod) bool) []*corev1.Pod {
	var out []*corev1.Pod
	for _, pod := range p.pods {
		if !p.uncounted(pod) || known.Has(pod.UID) {
			continue
		}
		if p.indexed() {
			if _, ok := p.indexOf(pod); !ok {
				continue
			}
		}
		if outcome(pod) {
			out = append(out, pod)
		}
	}
	return out
}

// evaluate counts outcomes and decides whether the job ends. What an earlier
// pass decided stands; then reasons to fail come before reasons to succeed.
func (p *pass) evaluate() {
	job := p.job
	succeeded := p.fresh(p.uncountedSucceeded, func(pod *corev1.Pod) bool { return pod.Status.Phase == corev1.PodSucceeded })
	failed := p.fresh(p.uncountedFailed, p.hasFailed)
	p.succeeded = job.Status.Succeeded + int32(len(succeeded)+len(p.uncountedSucceeded))
	p.failed = job.Status.Failed + int32(len(p.uncountedFailed))
	for _, pod := range failed {
		if judge(job.Spec.PodFailurePolicy, pod).counts() {
			p.failed++
		}
	}
	if job.Status.StartTime == nil && !p.suspended() {
		job.Status.StartTime = &metav1.Time{Time: p.now}
		p.flush = true
	}
	p.backoff = p.backoff.after(succeeded, failed)

	p.decided()
	if p.finished == nil {
		p.limits()
	}
	if p.indexed() {
		p.indexes()
	}
}

// decided takes up what an earlier pass has decided, or the policy on failures.
func (p *pass) decided() {
	if c := condition(p.job, batchv1.JobSuccessCriteriaMet); c != nil && c.Status == corev1.ConditionTrue {
		p.finished = c
		return
	}
	if c := condition(p.job, batchv1.JobFailureTarget); c != nil && c.Status == corev1.ConditionTrue {
		p.finished = p.newCondition(batchv1.JobFailed, c.Reason, c.Message)
		return
	}
	if p.job.Spec.PodFailurePolicy == nil {
		return
	}
	for _, pod := range p.pods {
		if !p.hasFailed(pod) {
			continue
		}
		if v := judge(p.job.Spec.PodFailurePolicy, pod); v.action == batchv1.PodFailurePolicyActionFailJob {
			p.fail(batchv1.JobReasonPodFailurePolicy, v.message)
			return
		}
	}
}

// limits ends a job that has failed too often or taken too long.
func (p *pass) limits() {
	spec := &p.job.Spec
	limit := ptr.Deref(spec.BackoffLimit, 6)
	switch deadline, left := p.deadline(); {
	case p.failed > limit || p.restartedTooOften(limit):
		p.fail(batchv1.JobReasonBackoffLimitExceeded, "Job has reached the specified backoff limit")
	case deadline && left <= 0:
		p.fail(batchv1.JobReasonDeadlineExceeded, "Job was active longer than specified deadline")
	case deadline:
		p.lookAgain(left)
	}
}

// deadline returns the time that is left to a job with a deadline.
func (p *pass) deadline() (bool, time.Duration) {
	limit, start := p.job.Spec.ActiveDeadlineSeconds, p.job.Status.StartTime
	if limit == nil || start == nil || p.suspended() {
		return false, 0
	}
	allowed := time.Duration(min(*limit, maxSeconds)) * time.Second
	return true, allowed - p.now.Sub(start.Time)
}

// maxSeconds keeps sums of durations from overflowing: a hundred years.
const maxSeconds = 100 * 365 * 24 * 3600

// restartedTooOften counts the restarts of containers in pods that restart
// them by themselves.
func (p *pass) restartedTooOften(limit int32) bool {
	if p.job.Spec.Template.Spec.RestartPolicy != corev1.RestartPolicyOnFailure {
		return false
	}
	var n int32
	for _, pod := range p.pods {
		if pod.Status.Phase == corev1.PodRunning || pod.Status.Phase == corev1.PodPending {
			n += restarts(pod)
		}
	}
	if limit == 0 {
		return n > 0
	}
	return n >= limit
}

func restarts(pod *corev1.Pod) int32 {
	var n int32
	for i := range pod.Status.InitContainerStatuses {
		n += pod.Status.InitContainerStatuses[i].RestartCount
	}
	for i := range pod.Status.ContainerStatuses {
		n += pod.Status.ContainerStatuses[i].RestartCount
	}
	return n
}

// indexes counts an indexed job's outcomes by index, and ends it by them.
func (p *pass) indexes() {
	spec, n := &p.job.Spec, p.completions()
	p.completedBefore = parseIntervals(p.job.Status.CompletedIndexes, n)
	p.completed = p.completedBefore.with(p.indexesOf(p.pods, func(pod *corev1.Pod) bool {
		return pod.Status.Phase == corev1.PodSucceeded && tracked(pod)
	}))
	p.succeeded = int32(p.completed.total())
	if p.perIndex() {
		p.failedIndexes = parseIntervals(ptr.Deref(p.job.Status.FailedIndexes, ""), n).with(p.indexesOf(p.pods, func(pod *corev1.Pod) bool {
			return tracked(pod) && p.indexFailed(pod)
		}))
		if p.finished == nil {
			failed := p.failedIndexes.total()
			switch {
			case spec.MaxFailedIndexes != nil && failed > int(*spec.MaxFailedIndexes):
				p.fail(batchv1.JobReasonMaxFailedIndexesExceeded, "Job has exceeded the specified maximal number of failed indexes")
			case failed > 0 && failed+p.completed.total() >= n:
				p.fail(batchv1.JobReasonFailedIndexes, "Job has failed indexes")
			}
		}
		p.findSuccessors()
	}
	if p.finished == nil {
		if message, met := meets(spec.SuccessPolicy, n, p.completed); met {
			p.finished = p.newCondition(batchv1.JobSuccessCriteriaMet, batchv1.JobReasonSuccessPolicy, message)
		}
	}
}

// indexesOf returns the indexes of some pods, in order.
func (p *pass) indexesOf(list []*corev1.Pod, want func(*corev1.Pod) bool) []int {
	set := sets.New[int]()
	for _, pod := range list {
		if ix, ok := p.indexOf(pod); ok && (want == nil || want(pod)) {
			set.Insert(ix)
		}
	}
	return sets.List(set)
}

// indexFailed reports whether a pod's failure is the end of its index.
func (p *pass) indexFailed(pod *corev1.Pod) bool {
	if !p.hasFailed(pod) {
		return false
	}
	v := judge(p.job.Spec.PodFailurePolicy, pod)
	if v.action == batchv1.PodFailurePolicyActionFailIndex {
		return true
	}
	return v.counts() && failureCount(pod) >= *p.job.Spec.BackoffLimitPerIndex
}

// findSuccessors finds, for each index that will be tried again, the failed pod
// that knows how often the index has failed.
func (p *pass) findSuccessors() {
	busy := sets.New(p.indexesOf(p.active, nil)...)
	p.successors = map[int]*corev1.Pod{}
	for _, pod := range p.fresh(nil, p.hasFailed) {
		ix, _ := p.indexOf(pod)
		if p.completed.has(ix) || p.failedIndexes.has(ix) || busy.Has(ix) {
			continue
		}
		if last := p.successors[ix]; last == nil ||
			allFailures(last) <= allFailures(pod) && !finishTime(pod).Before(finishTime(last)) {
			p.successors[ix] = pod
		}
	}
}

// checkComplete ends a job that has its successes and runs no more, and reports
// whether it does.
func (p *pass) checkComplete() bool {
	want := p.job.Spec.Completions
	enough := p.succeeded > 0 // without a number any success will do
	if want != nil {
		enough = p.succeeded >= *want
	}
	if !enough || p.running > 0 {
		return false
	}
	p.finished = p.newCondition(batchv1.JobSuccessCriteriaMet, batchv1.JobReasonCompletionsReached, "Reached expected number of succeeded pods")
	return true
}

// suspension is a change of whether a job is suspended.
type suspension int

const (
	unchanged suspension = iota
	suspended
	resumed
)

// noteSuspension makes the condition follow the spec. The deadline of a job
// that resumes starts anew.
func (p *pass) noteSuspension() suspension {
	status := &p.job.Status
	if p.suspended() {
		if !p.setCondition(batchv1.JobSuspended, corev1.ConditionTrue, "JobSuspended", "Job suspended") {
			return unchanged
		}
		status.StartTime = nil
		return suspended
	}
	if !p.setCondition(batchv1.JobSuspended, corev1.ConditionFalse, "JobResumed", "Job resumed") {
		return unchanged
	}
	status.StartTime = &metav1.Time{Time: p.now}
	return resumed
}

// fail begins the job's end as a failure.
func (p *pass) fail(reason, message string) {
	p.finished = p.newCondition(batchv1.JobFailureTarget, reason, message)
}

func (p *pass) newCondition(t batchv1.JobConditionType, reason, message string) *batchv1.JobCondition {
	return &batchv1.JobCondition{
		Type: t, Status: corev1.ConditionTrue, Reason: reason, Message: message,
		LastProbeTime: metav1.NewTime(p.now), LastTransitionTime: metav1.NewTime(p.now),
	}
}

// setCondition puts a condition into the status and reports whether that
// changed it. One that is false from the start is left out.
func (p *pass) setCondition(t batchv1.JobConditionType, status corev1.ConditionStatus, reason, message string) bool {
	c := p.newCondition(t, reason, message)
	c.Status = status
	if have := condition(p.job, t); have != nil {
		if have.Status == status && have.Reason == reason && have.Message == message {
			return false
		}
		*have = *c
		p.flush = true
		return true
	}
	if status == corev1.ConditionFalse {
		return false
	}
	p.job.Status.Conditions = append(p.job.Status.Conditions, *c)
	p.flush = true
	return true
}

// condition returns a job's condition of a type, or nil.
func condition(j *batchv1.Job, t batchv1.JobConditionType) *batchv1.JobCondition {
	for i := range j.Status.Conditions {
		if j.Status.Conditions[i].Type == t {
			return &j.Status.Conditions[i]
		}
	}
	return nil
}
