package cronjob

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/api/batch"
)

// jobName names the job for a time, to the minute: that of a schedule.
func jobName(cj *batchv1.CronJob, at time.Time) string {
	return fmt.Sprintf("%s-%d", cj.Name, at.Unix()/60)
}

func newJob(cj *batchv1.CronJob, at time.Time) (*batchv1.Job, error) {
	zone, err := time.LoadLocation(ptr.Deref(cj.Spec.TimeZone, ""))
	if err != nil {
		return nil, fmt.Errorf("time zone of CronJob %s/%s: %w", cj.Namespace, cj.Name, err)
	}
	t := &cj.Spec.JobTemplate
	job := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: cj.Namespace, Name: jobName(cj, at),
			Labels: maps.Clone(t.Labels), Annotations: maps.Clone(t.Annotations),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(cj, kind)},
		},
		Spec: *t.Spec.DeepCopy(),
	}
	if job.Annotations == nil {
		job.Annotations = map[string]string{}
	}
	job.Annotations[batchv1.CronJobScheduledTimestampAnnotation] = at.In(zone).Format(time.RFC3339)
	return job, nil
}

// active reports whether the status knows a job.
func (v *visit) active(uid types.UID) bool {
	return slices.ContainsFunc(v.cj.Status.Active, func(r corev1.ObjectReference) bool { return r.UID == uid })
}

func (v *visit) activeNamed(name string) bool {
	return slices.ContainsFunc(v.cj.Status.Active, func(r corev1.ObjectReference) bool { return r.Name == name })
}

func (v *visit) dropActive(uid types.UID) {
	v.cj.Status.Active = slices.DeleteFunc(v.cj.Status.Active, func(r corev1.ObjectReference) bool { return r.UID == uid })
	v.changed = true
}

// updateActive makes the status follow the jobs. stale says that the cached
// CronJob lags behind what we wrote.
func (v *visit) updateActive(ctx context.Context) (stale bool, err error) {
	known := map[types.UID]bool{}
	for _, j := range v.jobs {
		known[j.UID] = true
		if end := batch.FinishedCondition(j); end != nil {
			v.noteEnd(j, end)
			continue
		}
		if v.active(j.UID) {
			continue
		}
		// Made by hand, or by us a moment ago.
		var fresh batchv1.CronJob
		if err := v.env.Cluster.Reader().Get(ctx, client.ObjectKeyFromObject(v.cj), &fresh); err != nil {
			return false, client.IgnoreNotFound(err)
		}
		if slices.ContainsFunc(fresh.Status.Active, func(r corev1.ObjectReference) bool { return r.UID == j.UID }) {
			return true, nil
		}
		v.warn("UnexpectedJob", "Saw a job that the controller did not create or forgot: %s", j.Name)
	}
	for _, r := range slices.Clone(v.cj.Status.Active) {
		if known[r.UID] {
			continue
		}
		// The cache may not have it yet.
		err := v.env.Cluster.Reader().Get(ctx, types.NamespacedName{Namespace: r.Namespace, Name: r.Name}, &batchv1.Job{})
		if apierrors.IsNotFound(err) {
			v.tell("MissingJob", "Active job went missing: %v", r.Name)
			v.dropActive(r.UID)
		} else if err != nil {
			return false, fmt.Errorf("get job: %w", err)
		}
	}
	return false, nil
}

func (v *visit) noteEnd(j *batchv1.Job, end *batchv1.JobCondition) {
	if v.active(j.UID) {
		v.dropActive(j.UID)
		v.tell("SawCompletedJob", "Saw completed job: %s, condition: %v", j.Name, end.Type)
	}
	if done := j.Status.CompletionTime; end.Type == batchv1.JobComplete && done != nil {
		if last := v.cj.Status.LastSuccessfulTime; last == nil || done.After(last.Time) {
			v.cj.Status.LastSuccessfulTime = done.DeepCopy()
			v.changed = true
		}
	}
}

// deleteActive stops the jobs that run, for the next one to take their place.
func (v *visit) deleteActive(ctx context.Context) error {
	for _, r := range slices.Clone(v.cj.Status.Active) {
		job := &batchv1.Job{}
		if err := v.env.Cluster.Reader().Get(ctx, types.NamespacedName{Namespace: r.Namespace, Name: r.Name}, job); err != nil {
			v.warn("FailedGet", "Get job: %v", err)
			return fmt.Errorf("get job: %w", err)
		}
		if err := v.delete(ctx, job); err != nil {
			return fmt.Errorf("could not replace job %s/%s: %w", job.Namespace, job.Name, err)
		}
	}
	return nil
}

// delete removes a job with its pods.
func (v *visit) delete(ctx context.Context, j *batchv1.Job) error {
	target := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: j.Namespace, Name: j.Name}}
	err := v.env.Cluster.Client().Delete(ctx, target, client.PropagationPolicy(metav1.DeletePropagationBackground), client.Preconditions{UID: &j.UID})
	if apierrors.IsNotFound(err) {
		return nil // which the cache has not seen
	}
	if err != nil {
		v.warn("FailedDelete", "Deleted job: %v", err)
		return err
	}
	if v.active(j.UID) {
		v.dropActive(j.UID)
	}
	v.tell("SuccessfulDelete", "Deleted job %v", j.Name)
	return nil
}

// trimHistory deletes the oldest of the finished jobs that are too many.
func (v *visit) trimHistory(ctx context.Context) {
	for end, limit := range map[batchv1.JobConditionType]*int32{
		batchv1.JobComplete: v.cj.Spec.SuccessfulJobsHistoryLimit,
		batchv1.JobFailed:   v.cj.Spec.FailedJobsHistoryLimit,
	} {
		if limit == nil {
			continue
		}
		var finished []*batchv1.Job
		for _, j := range v.jobs {
			if c := batch.FinishedCondition(j); c != nil && c.Type == end && j.DeletionTimestamp == nil {
				finished = append(finished, j)
			}
		}
		slices.SortFunc(finished, byStart)
		for _, j := range finished[:max(0, len(finished)-int(*limit))] {
			// Its event tells of a failure; the next pass tries again.
			if err := v.delete(ctx, j); err != nil {
				v.env.Logger.Warn("deleting an old job", "job", j.Namespace+"/"+j.Name, "err", err)
			}
		}
	}
}

// byStart puts jobs that never started last.
func byStart(a, b *batchv1.Job) int {
	sa, sb := a.Status.StartTime, b.Status.StartTime
	if sa != nil && sb != nil {
		return cmp.Or(sa.Compare(sb.Time), cmp.Compare(a.Name, b.Name))
	}
	order := 0
	if sa == nil && sb != nil {
		order = 1
	} else if sa != nil {
		order = -1
	}
	return cmp.Or(order, cmp.Compare(a.Name, b.Name))
}
