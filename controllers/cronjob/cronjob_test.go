package cronjob_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/controllers/cronjob"
	"github.com/proa-dev/proa/controllers/internal/clustertest"
)

func newCronJob(change func(*batchv1.CronJobSpec)) *batchv1.CronJob {
	cj := &batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cron"},
		Spec: batchv1.CronJobSpec{
			Schedule: "*/10 * * * *", ConcurrencyPolicy: batchv1.AllowConcurrent, Suspend: ptr.To(false),
			SuccessfulJobsHistoryLimit: ptr.To[int32](2), FailedJobsHistoryLimit: ptr.To[int32](1),
		},
	}
	if change != nil {
		change(&cj.Spec)
	}
	return cj
}

func start(t *testing.T, objs ...client.Object) *clustertest.Cluster {
	t.Helper()
	c := clustertest.New(t, objs...)
	l, err := cronjob.New(c.Env(nil))
	c.Do(err)
	c.Run(l)
	time.Sleep(time.Second) // its cache is polled for being ready
	return c
}

func jobs(t *testing.T, c *clustertest.Cluster) []batchv1.Job {
	t.Helper()
	synctest.Wait()
	var list batchv1.JobList
	c.Do(c.API.List(t.Context(), &list))
	slices.SortFunc(list.Items, func(a, b batchv1.Job) int { return strings.Compare(a.Name, b.Name) })
	return list.Items
}

func finish(t *testing.T, c *clustertest.Cluster, j *batchv1.Job, how batchv1.JobConditionType) {
	t.Helper()
	now := metav1.Now()
	j.Status.StartTime = ptr.To(j.CreationTimestamp)
	if how == batchv1.JobComplete {
		j.Status.CompletionTime = &now
	}
	j.Status.Conditions = []batchv1.JobCondition{{Type: how, Status: corev1.ConditionTrue, LastTransitionTime: now}}
	c.Do(c.API.Status().Update(t.Context(), j))
	synctest.Wait()
}

func get(c *clustertest.Cluster) *batchv1.CronJob {
	synctest.Wait()
	cj := &batchv1.CronJob{}
	c.Get(cj, "ns", "cron")
	return cj
}

// bubble runs a test in a bubble, whose clock begins at 2000-01-01 00:00 UTC.
func bubble(t *testing.T, f func(*testing.T)) { synctest.Test(t, f) }

func TestRunsBySchedule(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := start(t, newCronJob(nil))
		time.Sleep(9 * time.Minute)
		if n := len(jobs(t, c)); n != 0 {
			t.Fatalf("%d jobs too early", n)
		}
		time.Sleep(2 * time.Minute)
		list := jobs(t, c)
		if len(list) != 1 || list[0].Name != "cron-15778090" || list[0].Annotations[batchv1.CronJobScheduledTimestampAnnotation] != "2000-01-01T00:10:00Z" {
			t.Fatalf("%+v", list)
		}
		s := get(c).Status
		if len(s.Active) != 1 || s.Active[0].Name != "cron-15778090" || s.Active[0].Kind != "Job" || s.Active[0].APIVersion != "batch/v1" || !s.LastScheduleTime.Equal(&metav1.Time{Time: time.Date(2000, 1, 1, 0, 10, 0, 0, time.UTC)}) {
			t.Fatalf("status %+v", s)
		}
		finish(t, c, &list[0], batchv1.JobComplete)
		if s = get(c).Status; len(s.Active) != 0 || s.LastSuccessfulTime == nil {
			t.Fatalf("status %+v", s)
		}
		// Jobs that run on do not hinder the next.
		time.Sleep(20 * time.Minute)
		if s = get(c).Status; len(s.Active) != 2 || len(jobs(t, c)) != 3 {
			t.Fatalf("status %+v", s)
		}
		for range 4 {
			time.Sleep(10 * time.Minute)
			for _, j := range jobs(t, c) {
				if len(j.Status.Conditions) == 0 {
					finish(t, c, &j, batchv1.JobComplete)
				}
			}
		}
		if list := jobs(t, c); len(list) != 2 {
			t.Errorf("history of %d jobs", len(list))
		}
		events := c.Events()
		for _, want := range []string{"Normal SuccessfulCreate Created job cron-15778090", "Normal SawCompletedJob Saw completed job: cron-15778090, condition: Complete", "Normal SuccessfulDelete Deleted job cron-15778090"} {
			if !slices.Contains(events, want) {
				t.Errorf("no event %q", want)
			}
		}
		if slices.ContainsFunc(events, func(e string) bool { return strings.HasPrefix(e, "Warning") }) {
			t.Errorf("events %q", events)
		}
	})
}

// A job of somebody else that has the name of one that is due costs that one,
// not those that follow.
func TestNameTaken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		other := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cron-15778090"}}
		c := start(t, newCronJob(nil), other)
		time.Sleep(21 * time.Minute)
		list := jobs(t, c)
		if len(list) != 2 || list[1].Name != "cron-15778100" || len(get(c).Status.Active) != 1 {
			t.Errorf("%d jobs, status %+v", len(list), get(c).Status)
		}
	})
}

func TestConcurrency(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := start(t, newCronJob(func(s *batchv1.CronJobSpec) { s.ConcurrencyPolicy = batchv1.ForbidConcurrent }))
		time.Sleep(35 * time.Minute)
		list := jobs(t, c)
		if len(list) != 1 || !slices.Contains(c.Events(), "Normal JobAlreadyActive Not starting job because prior execution is running and concurrency policy is Forbid") {
			t.Fatalf("%d jobs, %q", len(list), c.Events())
		}
		// What was missed last runs as soon as it may.
		finish(t, c, &list[0], batchv1.JobFailed)
		if list = jobs(t, c); len(list) != 2 || list[1].Annotations[batchv1.CronJobScheduledTimestampAnnotation] != "2000-01-01T00:30:00Z" {
			t.Fatalf("%d jobs", len(list))
		}
	})
	bubble(t, func(t *testing.T) {
		c := start(t, newCronJob(func(s *batchv1.CronJobSpec) { s.ConcurrencyPolicy = batchv1.ReplaceConcurrent }))
		for i := range 3 {
			time.Sleep(10*time.Minute + time.Second)
			if list := jobs(t, c); len(list) != 1 || list[0].Name != fmt.Sprintf("cron-%d", 15778090+10*i) || len(get(c).Status.Active) != 1 {
				t.Fatalf("round %d: %+v", i, list)
			}
		}
	})
}

func TestSuspendAndDeadline(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := start(t, newCronJob(func(s *batchv1.CronJobSpec) {
			s.Suspend, s.StartingDeadlineSeconds = ptr.To(true), ptr.To[int64](30)
		}))
		time.Sleep(24*time.Hour + time.Minute)
		cj := get(c)
		cj.Spec.Suspend = ptr.To(false)
		c.Do(c.API.Update(t.Context(), cj))
		if n := len(jobs(t, c)); n != 0 {
			t.Fatalf("%d jobs for times whose deadline is over", n)
		}
		time.Sleep(10 * time.Minute)
		if n := len(jobs(t, c)); n != 1 {
			t.Fatalf("%d jobs", n)
		}
	})
}

// After a long sleep one job makes up for all, with a warning.
func TestMissed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cj := newCronJob(nil)
		time.Sleep(48 * time.Hour)
		cj.CreationTimestamp = metav1.NewTime(time.Now().Add(-47 * time.Hour))
		manual := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "by-hand",
			Annotations: map[string]string{"cronjob.kubernetes.io/instantiate": "manual"}}}
		cj.UID = "u"
		manual.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(cj, batchv1.SchemeGroupVersion.WithKind("CronJob"))}
		c := start(t, cj, manual)
		if n := len(jobs(t, c)); n != 2 {
			t.Fatalf("%d jobs", n)
		}
		for _, want := range []string{
			"Warning TooManyMissedTimes too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew",
			"Warning UnexpectedJob Saw a job that the controller did not create or forgot: by-hand",
		} {
			if !slices.Contains(c.Events(), want) {
				t.Errorf("events %q", c.Events())
			}
		}
		if s := get(c).Status; len(s.Active) != 1 {
			t.Errorf("status %+v", s)
		}
	})
}

// The job that a dead controller made and could not note is found.
func TestForgotten(t *testing.T) {
	bubble(t, func(t *testing.T) {
		cj := newCronJob(nil)
		cj.UID = "u"
		cj.CreationTimestamp = metav1.NewTime(time.Now())
		time.Sleep(11 * time.Minute)
		made := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "cron-15778090"}}
		made.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(cj, batchv1.SchemeGroupVersion.WithKind("CronJob"))}
		c := start(t, cj, made)
		if s := get(c).Status; len(jobs(t, c)) != 1 || len(s.Active) != 1 || s.LastScheduleTime == nil {
			t.Errorf("status %+v", s)
		}
		c.Do(c.API.Delete(t.Context(), made))
		if s := get(c).Status; len(s.Active) != 0 || !slices.Contains(c.Events(), "Normal MissingJob Active job went missing: cron-15778090") {
			t.Errorf("status %+v, %q", s, c.Events())
		}
	})
}

// In New York the 2nd of April 2000 has no 02:30, the 29th of October has
// 01:30 twice. A job runs each time the clock says so.
func TestDaylightSaving(t *testing.T) {
	for _, c := range []struct{ name, schedule, begin, want string }{
		{"spring", "30 2 * * *", "2000-03-31", "2000-03-31T02:30:00-05:00 2000-04-01T02:30:00-05:00 2000-04-03T02:30:00-04:00 2000-04-04T02:30:00-04:00"},
		{"autumn", "30 1 * * *", "2000-10-28", "2000-10-28T01:30:00-04:00 2000-10-29T01:30:00-04:00 2000-10-29T01:30:00-05:00 2000-10-30T01:30:00-05:00 2000-10-31T01:30:00-05:00 2000-11-01T01:30:00-05:00"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				begin, err := time.Parse(time.DateOnly, c.begin)
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Until(begin))
				cluster := start(t, newCronJob(func(s *batchv1.CronJobSpec) { s.Schedule, s.TimeZone = c.schedule, ptr.To("America/New_York") }))
				time.Sleep(4*24*time.Hour + 12*time.Hour)
				var got []string
				for _, j := range jobs(t, cluster) {
					got = append(got, j.Annotations[batchv1.CronJobScheduledTimestampAnnotation])
				}
				if strings.Join(got, " ") != c.want {
					t.Errorf("ran at %v", got)
				}
			})
		})
	}
}

// Schedules that validation would not have let in are told once for each time
// that they are written, and cost nothing after that.
func TestBadSchedules(t *testing.T) {
	for _, c := range []struct{ schedule, zone, want string }{
		{"every day", "", `Warning UnparseableSchedule unparseable schedule: "every day" : `},
		{"61 * * * *", "", `Warning UnparseableSchedule unparseable schedule: "61 * * * *" : `},
		{"0 0 31 2 *", "", `Warning InvalidSchedule invalid schedule: 0 0 31 2 * : `},
		{"@every 1h", "Nowhere/City", `Warning UnknownTimeZone invalid timeZone: "Nowhere/City": `},
	} {
		t.Run(c.schedule, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				cluster := start(t, newCronJob(func(s *batchv1.CronJobSpec) {
					s.Schedule = c.schedule
					if c.zone != "" {
						s.TimeZone = ptr.To(c.zone)
					}
				}))
				time.Sleep(8 * time.Hour)
				if n := len(jobs(t, cluster)); n != 0 {
					t.Errorf("%d jobs", n)
				}
				events := cluster.Events()
				if len(events) != 1 || !strings.HasPrefix(events[0], c.want) {
					t.Errorf("%d events %.200q, want %q", len(events), events, c.want)
				}
				if n := cluster.Gets(&batchv1.CronJob{}); n > 2 {
					t.Errorf("looked %d times in eight hours", n)
				}
			})
		})
	}
}
