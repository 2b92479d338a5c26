// Package cronjob is the CronJob controller: it makes a Job whenever a
// calendar says so.
//
// A job's name tells the minute it was due, so that none is made twice,
// whatever the controller has forgotten.
package cronjob

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/api/batch"
	"github.com/proa-dev/proa/controllers/internal/index"
	"github.com/proa-dev/proa/controllers/internal/loop"
)

// Name is the controller's name in logs and events.
const Name = "cronjob-controller"

const workers = 5

var kind = batchv1.SchemeGroupVersion.WithKind("CronJob")

type controller struct {
	env    loop.Env
	events record.EventRecorder
	// skew is how late jobs are made.
	skew prometheus.Histogram
}

// New makes the controller.
func New(env loop.Env) (loop.Loop, error) {
	env = env.Named(Name)
	c := &controller{env: env, events: env.Cluster.Recorder(Name), skew: prometheus.NewHistogram(prometheus.HistogramOpts{
		Subsystem: "cronjob_controller", Name: "job_creation_skew_duration_seconds",
		Help: "Time between when a cronjob is scheduled to be run, and when the corresponding job is created", Buckets: prometheus.ExponentialBuckets(1, 2, 10),
	})}
	if err := env.Register(c.skew); err != nil {
		return loop.Loop{}, err
	}
	add := func(_ context.Context, q loop.Queue, o *batchv1.CronJob) { q.Add(loop.Key(o.Namespace, o.Name)) }
	owner := func(_ context.Context, q loop.Queue, j *batchv1.Job) {
		if ref := metav1.GetControllerOfNoCopy(j); ref != nil && ref.Kind == kind.Kind {
			q.Add(loop.Key(j.Namespace, ref.Name))
		}
	}
	return loop.New(env, Name, workers, c.reconcile,
		loop.Watch(env.Cluster, &batchv1.CronJob{}, loop.On[*batchv1.CronJob]{Created: add, Updated: c.updated}),
		loop.Watch(env.Cluster, &batchv1.Job{}, loop.On[*batchv1.Job]{
			Created: owner,
			Updated: func(ctx context.Context, q loop.Queue, old, j *batchv1.Job) {
				if old.ResourceVersion == j.ResourceVersion {
					return
				}
				owner(ctx, q, old) // it may have been set free
				owner(ctx, q, j)
			},
			Deleted: owner,
		}),
	)
}

// updated queues a CronJob that changed: one with another schedule when that is
// next due, for what the new one would have been due for has not been missed.
func (c *controller) updated(_ context.Context, q loop.Queue, old, cj *batchv1.CronJob) {
	key := loop.Key(cj.Namespace, cj.Name)
	if old.Spec.Schedule == cj.Spec.Schedule && ptr.Equal(old.Spec.TimeZone, cj.Spec.TimeZone) {
		q.Add(key)
		return
	}
	schedule, err := batch.ParseSchedule(scheduleLine(cj))
	if err != nil {
		c.events.Eventf(cj, corev1.EventTypeWarning, "UnParseableCronJobSchedule", "unparseable schedule for cronjob: %s", cj.Spec.Schedule)
		return
	}
	if wait := untilNext(cj, schedule, c.env.Clock.Now()); wait > 0 {
		q.AddAfter(key, wait)
	}
}

// visit is one look at a CronJob.
type visit struct {
	*controller
	cj   *batchv1.CronJob // our own copy
	jobs []*batchv1.Job   // those it controls, shared with the cache
	now  time.Time
	// changed says that the status is to be written.
	changed bool
}

func (c *controller) reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	v := &visit{controller: c, cj: &batchv1.CronJob{}, now: c.env.Clock.Now()}
	if err := c.env.Cluster.Client().Get(ctx, key, v.cj); err != nil {
		return 0, client.IgnoreNotFound(err)
	}
	var list batchv1.JobList
	if err := c.env.Cluster.Client().List(ctx, &list, index.By(key.Namespace, index.Controller, string(v.cj.UID))...); err != nil {
		return 0, fmt.Errorf("list jobs: %w", err)
	}
	for i := range list.Items {
		v.jobs = append(v.jobs, &list.Items[i])
	}
	v.trimHistory(ctx)
	stale, err := v.updateActive(ctx)
	if stale {
		return loop.StaleDelay, err
	}
	var after time.Duration
	if err == nil && v.cj.DeletionTimestamp == nil {
		after, err = v.run(ctx)
	}
	if v.changed {
		if err := c.env.Cluster.Client().Status().Update(ctx, v.cj); err != nil {
			return 0, client.IgnoreNotFound(err)
		}
	}
	return after, err
}

// run makes the job that is due, if there is one, and returns when to look
// again: never while it is suspended or its schedule is wrong.
func (v *visit) run(ctx context.Context) (time.Duration, error) {
	cj := v.cj
	if cj.Spec.TimeZone != nil {
		if _, err := time.LoadLocation(*cj.Spec.TimeZone); err != nil {
			v.warn("UnknownTimeZone", "invalid timeZone: %q: %s", *cj.Spec.TimeZone, err)
			return 0, nil
		}
	}
	if ptr.Deref(cj.Spec.Suspend, false) {
		return 0, nil
	}
	if hasZone(cj) {
		v.warn("UnsupportedSchedule", "CRON_TZ or TZ used in schedule %q is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details", cj.Spec.Schedule)
	}
	schedule, err := batch.ParseSchedule(scheduleLine(cj))
	if err != nil {
		v.warn("UnparseableSchedule", "unparseable schedule: %q : %s", cj.Spec.Schedule, err)
		return 0, nil //nolint:nilerr // until the spec changes
	}
	d, err := lookBack(cj, schedule, v.now, true)
	if err != nil {
		v.warn("InvalidSchedule", "invalid schedule: %s : %s", cj.Spec.Schedule, err)
		return 0, nil //nolint:nilerr // until the spec changes
	}
	next := untilNext(cj, schedule, v.now)
	if d.latest.IsZero() {
		return next, nil
	}
	if d.missed == many {
		v.warn("TooManyMissedTimes", "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew")
	}
	switch {
	case tooLate(cj, d.latest, v.now):
		v.warn("MissSchedule", "Missed scheduled time to start a job: %s", d.latest.UTC().Format(time.RFC1123Z))
		return next, nil
	case v.activeNamed(jobName(cj, d.latest)) || cj.Status.LastScheduleTime.Equal(&metav1.Time{Time: d.latest}):
		return next, nil // done already
	case cj.Spec.ConcurrencyPolicy == batchv1.ForbidConcurrent && len(cj.Status.Active) > 0:
		v.tell("JobAlreadyActive", "Not starting job because prior execution is running and concurrency policy is Forbid")
		return next, nil
	}
	if cj.Spec.ConcurrencyPolicy == batchv1.ReplaceConcurrent {
		if err := v.deleteActive(ctx); err != nil {
			return 0, err
		}
	}
	if err := v.start(ctx, d.latest); err != nil {
		return 0, err
	}
	return untilNext(cj, schedule, v.now), nil
}

// start makes the job for a time, unless its name is taken.
func (v *visit) start(ctx context.Context, at time.Time) error {
	job, err := newJob(v.cj, at)
	if err != nil {
		return err
	}
	err = v.env.Cluster.Client().Create(ctx, job)
	switch {
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil // not worth an event: the CronJob will go too
	case apierrors.IsAlreadyExists(err):
		// Ours, if we died before we could say so in the status.
		if err := v.env.Cluster.Reader().Get(ctx, client.ObjectKey{Namespace: v.cj.Namespace, Name: jobName(v.cj, at)}, job); err != nil {
			return fmt.Errorf("get job: %w", err)
		}
		if !metav1.IsControlledBy(job, v.cj) || v.active(job.UID) {
			return nil
		}
	case err != nil:
		v.warn("FailedCreate", "Error creating job: %v", err)
		return fmt.Errorf("create job: %w", err)
	default:
		v.tell("SuccessfulCreate", "Created job %v", job.Name)
		v.skew.Observe(job.CreationTimestamp.Sub(at).Seconds())
	}
	v.cj.Status.Active = append(v.cj.Status.Active, corev1.ObjectReference{
		APIVersion: batchv1.SchemeGroupVersion.String(), Kind: "Job",
		Namespace: job.Namespace, Name: job.Name, UID: job.UID, ResourceVersion: job.ResourceVersion,
	})
	v.cj.Status.LastScheduleTime = &metav1.Time{Time: at}
	v.changed = true
	return nil
}

func (v *visit) warn(reason, format string, args ...any) {
	v.events.Eventf(v.cj, corev1.EventTypeWarning, reason, format, args...)
}

func (v *visit) tell(reason, format string, args ...any) {
	v.events.Eventf(v.cj, corev1.EventTypeNormal, reason, format, args...)
}
