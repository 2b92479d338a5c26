package job

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/controllers/internal/owner"
	"github.com/proa-dev/proa/controllers/internal/pods"
)

// burst bounds how many pods one pass creates, deletes or counts. It also keeps
// the UIDs in a status below 20 kB.
const burst = 500

// plan is what is to be done about the number of pods: one of both.
type plan struct {
	remove []*corev1.Pod
	create int
	// indexes of the pods to create, if the job has any.
	indexes []int
}

// plan decides how many pods there should be, in view of the backoff.
func (p *pass) plan() plan {
	if p.suspended() {
		return plan{remove: p.victims(len(p.active))}
	}
	want := p.wanted()
	if victims := p.victims(max(0, int(p.running)-want)); len(victims) > 0 {
		return plan{remove: victims[:min(len(victims), burst)]}
	}
	missing := want - int(p.running)
	if p.onlyFailed() {
		missing -= int(p.terminating)
	}
	if missing <= 0 {
		return plan{}
	}
	if !p.perIndex() {
		if wait := p.backoff.wait(p.now); wait > 0 {
			p.lookAgain(wait)
			return plan{}
		}
	}
	missing = min(missing, burst)
	if !p.indexed() {
		return plan{create: missing}
	}
	indexes := p.pending(missing)
	return plan{create: len(indexes), indexes: indexes}
}

// wanted is how many pods should run.
func (p *pass) wanted() int {
	parallelism := int(ptr.Deref(p.job.Spec.Parallelism, 1))
	if p.job.Spec.Completions == nil {
		// One success tells the others that the work is done; none is replaced.
		if p.succeeded > 0 {
			return int(p.running)
		}
		return parallelism
	}
	return max(0, min(p.completions()-int(p.succeeded), parallelism))
}

// pending returns the first indexes without a pod whose backoff, if they have
// one of their own, is over.
func (p *pass) pending(count int) []int {
	taken := p.completed.with(p.indexesOf(p.active, nil)).union(p.failedIndexes)
	if p.onlyFailed() {
		taken = taken.with(p.indexesOf(slices.DeleteFunc(slices.Clone(p.pods), func(pod *corev1.Pod) bool { return !pods.Terminating(pod) }), nil))
	}
	indexes := taken.missing(count, p.completions())
	if !p.perIndex() {
		return indexes
	}
	var now []int
	for _, ix := range indexes {
		if wait := indexBackoff(p.successors[ix]).wait(p.now); wait > 0 {
			p.lookAgain(wait)
		} else {
			now = append(now, ix)
		}
	}
	return now
}

// victims returns the active pods to remove: at least n, and those that have no
// index, or one that is not the job's, or that another pod has too.
func (p *pass) victims(n int) []*corev1.Pod {
	ranked := slices.SortedStableFunc(slices.Values(p.active), pods.CompareStage)
	var remove, keep []*corev1.Pod
	if p.indexed() {
		// From the most valuable pod down: the first of an index stays.
		seen := map[int]bool{}
		for _, pod := range slices.Backward(ranked) {
			ix, ok := p.indexOf(pod)
			if !ok || seen[ix] {
				remove = append(remove, pod)
				continue
			}
			seen[ix] = true
			keep = append(keep, pod)
		}
		slices.Reverse(keep)
	} else {
		keep = ranked
	}
	if more := n - len(remove); more > 0 {
		remove = append(remove, keep[:min(more, len(keep))]...)
	}
	return remove
}

// removal is what became of pods that were to be deleted.
type removal struct {
	total, ready int
	err          error
}

// removed corrects the numbers by pods that are on their way out now.
func (p *pass) removed(r removal) {
	p.running -= int32(r.total)
	p.terminating += int32(r.total)
	p.ready -= int32(r.ready)
}

// manage carries out the plan, and says what that was.
func (c *Controller) manage(ctx context.Context, p *pass) (action string, err error) {
	todo := p.plan()
	if len(todo.remove) > 0 {
		r := c.remove(ctx, p, todo.remove)
		p.removed(r)
		return actionDeleted, r.err
	}
	if todo.create > 0 {
		return actionCreated, c.create(ctx, p, todo)
	}
	return actionTracking, nil
}

// deleteActive deletes all active pods of a job that ends. They keep their
// finalizers until they are counted.
func (c *Controller) deleteActive(ctx context.Context, p *pass) removal {
	return remove(p.active, func(pod *corev1.Pod) error { return c.pods.Delete(ctx, p.job, pod) })
}

// remove deletes pods that are too many. They do not count as failures, so the
// finalizer goes first.
func (c *Controller) remove(ctx context.Context, p *pass, victims []*corev1.Pod) removal {
	uids := make([]types.UID, len(victims))
	for i, pod := range victims {
		uids[i] = pod.UID
	}
	c.expect.ExpectDeletions(p.job.UID, uids)
	return remove(victims, func(pod *corev1.Pod) error {
		err := c.dropFinalizer(ctx, pod)
		if err == nil {
			err = c.pods.Delete(ctx, p.job, pod)
		}
		if err != nil {
			c.expect.Deleted(p.job.UID, pod.UID) // no event will come of it
		}
		return err
	})
}

// remove calls fn for each pod. One that is gone already is removed.
func remove(list []*corev1.Pod, fn func(*corev1.Pod) error) removal {
	var r removal
	var errs []error
	for i, err := range each(list, fn) {
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, err)
			continue
		}
		r.total++
		if pods.Ready(list[i]) {
			r.ready++
		}
	}
	r.err = errors.Join(errs...)
	return r
}

// create adds pods. A template that cannot work costs a request, not hundreds.
func (c *Controller) create(ctx context.Context, p *pass, todo plan) error {
	uid := p.job.UID
	c.expect.ExpectCreations(uid, todo.create)
	created, err := pods.SlowStart(todo.create, func(i int) error {
		ix := noIndex
		if todo.indexes != nil {
			ix = todo.indexes[i]
		}
		return c.pods.Create(ctx, p.job, p.newPod(ix))
	})
	if missing := todo.create - created; missing > 0 {
		c.expect.Created(uid, missing)
	}
	p.running += int32(created)
	if pods.NamespaceTerminating(err) {
		return nil // never going to work: stay quiet until the job goes too
	}
	return err
}

// indexVariable tells the containers of an indexed job their index.
const indexVariable = "JOB_COMPLETION_INDEX"

// newPod makes a pod of the job's template, for an index or none.
func (p *pass) newPod(ix int) *corev1.Pod {
	pod := pods.FromTemplate(&p.job.Spec.Template, p.job, owner.Ref(p.job, kind))
	if !tracked(pod) {
		pod.Finalizers = append(pod.Finalizers, batchv1.JobTrackingFinalizer)
	}
	if ix == noIndex {
		return pod
	}
	text := strconv.Itoa(ix)
	set(&pod.Annotations, batchv1.JobCompletionIndexAnnotation, text)
	set(&pod.Labels, batchv1.JobCompletionIndexAnnotation, text)
	pod.Spec.Hostname = p.job.Name + "-" + text
	pod.GenerateName = indexedPrefix(p.job.Name, text)
	for i := range pod.Spec.InitContainers {
		tellIndex(&pod.Spec.InitContainers[i])
	}
	for i := range pod.Spec.Containers {
		tellIndex(&pod.Spec.Containers[i])
	}
	if p.perIndex() {
		counted, ignored := p.failuresBefore(p.successors[ix])
		set(&pod.Annotations, batchv1.JobIndexFailureCountAnnotation, strconv.Itoa(int(counted)))
		if ignored > 0 {
			set(&pod.Annotations, batchv1.JobIndexIgnoredFailureCountAnnotation, strconv.Itoa(int(ignored)))
		}
	}
	return pod
}

func set(m *map[string]string, key, value string) {
	if *m == nil {
		*m = map[string]string{}
	}
	(*m)[key] = value
}

// failuresBefore is how often an index has failed when the pod of its last
// failure, nil for none, is replaced.
func (p *pass) failuresBefore(last *corev1.Pod) (counted, ignored int32) {
	if last == nil {
		return 0, 0
	}
	counted, ignored = failureCount(last), ignoredCount(last)
	if judge(p.job.Spec.PodFailurePolicy, last).counts() {
		return counted + 1, ignored
	}
	return counted, ignored + 1
}

// maxPrefix is how much of a prefix the API server keeps when it makes a name.
const maxPrefix = 58

// indexedPrefix begins the name of an index's pods.
func indexedPrefix(job, ix string) string {
	suffix := "-" + ix + "-"
	return job[:min(len(job), maxPrefix-len(suffix))] + suffix
}

func tellIndex(c *corev1.Container) {
	if slices.ContainsFunc(c.Env, func(v corev1.EnvVar) bool { return v.Name == indexVariable }) {
		return
	}
	c.Env = append(c.Env, corev1.EnvVar{Name: indexVariable, ValueFrom: &corev1.EnvVarSource{
		FieldRef: &corev1.ObjectFieldSelector{FieldPath: fmt.Sprintf("metadata.labels['%s']", batchv1.JobCompletionIndexAnnotation)},
	}})
}
