package cronjob

import (
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/api/batch"
)

func at(t *testing.T, text string) time.Time {
	t.Helper()
	v, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestLookBack(t *testing.T) {
	const berlin, newYork = "Europe/Berlin", "America/New_York"
	for _, c := range []struct {
		name, schedule, zone string
		since, now           string // since is the last job's time
		deadline             int64  // seconds; 0 for none
		latest               string
		missed               amount
		next                 string
	}{
		{"nothing is due", "0 * * * *", "", "2030-01-01T10:00:00Z", "2030-01-01T10:59:59Z", 0, "", none, "2030-01-01T11:00:00Z"},
		{"one is due", "0 * * * *", "", "2030-01-01T10:00:00Z", "2030-01-01T11:00:00Z", 0, "2030-01-01T11:00:00Z", none, "2030-01-01T12:00:00Z"},
		{"a few were missed", "0 * * * *", "", "2030-01-01T10:00:00Z", "2030-01-01T14:30:00Z", 0, "2030-01-01T14:00:00Z", few, "2030-01-01T15:00:00Z"},
		{"many were missed", "* * * * *", "", "2030-01-01T10:00:00Z", "2030-01-01T14:30:20Z", 0, "2030-01-01T14:30:00Z", many, "2030-01-01T14:31:00Z"},
		{"the deadline forgets them", "* * * * *", "", "2030-01-01T10:00:00Z", "2030-01-01T14:30:20Z", 60, "2030-01-01T14:30:00Z", none, "2030-01-01T14:31:00Z"},
		{"an endless deadline", "* * * * *", "", "2030-01-01T10:00:00Z", "2030-01-01T10:02:00Z", 1 << 62, "2030-01-01T10:02:00Z", few, "2030-01-01T10:03:00Z"},
		{"every so often", "@every 90m", "", "2030-01-01T10:00:00Z", "2030-01-01T16:15:00Z", 0, "2030-01-01T16:00:00Z", few, "2030-01-01T17:30:00Z"},
		{"uneven times", "30 6-16/4 * * 1-5", "", "2030-01-04T14:30:00Z", "2030-01-07T09:00:00Z", 0, "2030-01-07T06:30:00Z", none, "2030-01-07T10:30:00Z"},
		{"a status from the year 1", "* * * * *", "", "0001-01-01T00:00:00Z", "2030-01-01T10:00:30Z", 0, "2030-01-01T10:00:00Z", many, "2030-01-01T10:01:00Z"},
		{"a zone", "0 8 * * *", berlin, "2030-01-01T07:00:00Z", "2030-01-02T07:00:00Z", 0, "2030-01-02T07:00:00Z", none, "2030-01-03T07:00:00Z"},

		// 02:30 does not exist on the 10th of March 2030 in New York: the clock
		// goes from 02:00 to 03:00. It is skipped.
		{"spring: the hour that is not", "30 2 * * *", newYork, "2030-03-09T07:30:00Z", "2030-03-10T12:00:00Z", 0, "", none, "2030-03-11T06:30:00Z"},
		{"spring: an hour later in UTC no more", "0 8 * * *", berlin, "2030-03-30T07:00:00Z", "2030-03-31T06:00:00Z", 0, "2030-03-31T06:00:00Z", none, "2030-04-01T06:00:00Z"},
		{"spring: hourly jobs go on", "0 * * * *", newYork, "2030-03-10T06:00:00Z", "2030-03-10T07:00:00Z", 0, "2030-03-10T07:00:00Z", none, "2030-03-10T08:00:00Z"},
		// 01:30 is there twice on the 3rd of November.
		{"autumn: the first of two", "30 1 * * *", newYork, "2030-11-02T05:30:00Z", "2030-11-03T05:30:00Z", 0, "2030-11-03T05:30:00Z", none, "2030-11-03T06:30:00Z"},
		{"autumn: and the second", "30 1 * * *", newYork, "2030-11-03T05:30:00Z", "2030-11-03T06:30:00Z", 0, "2030-11-03T06:30:00Z", none, "2030-11-04T06:30:00Z"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cj := &batchv1.CronJob{Spec: batchv1.CronJobSpec{Schedule: c.schedule}}
			cj.CreationTimestamp = metav1.NewTime(at(t, "2000-01-01T00:00:00Z"))
			cj.Status.LastScheduleTime = &metav1.Time{Time: at(t, c.since)}
			if c.zone != "" {
				cj.Spec.TimeZone = &c.zone
			}
			if c.deadline > 0 {
				cj.Spec.StartingDeadlineSeconds = &c.deadline
			}
			s, err := batch.ParseSchedule(scheduleLine(cj))
			if err != nil {
				t.Fatal(err)
			}
			now := at(t, c.now)
			d, err := lookBack(cj, s, now, true)
			latest := ""
			if !d.latest.IsZero() {
				latest = d.latest.UTC().Format(time.RFC3339)
			}
			next := now.Add(untilNext(cj, s, now) - slack).UTC().Format(time.RFC3339)
			if err != nil || latest != c.latest || d.missed != c.missed || next != c.next {
				t.Errorf("latest %s, missed %d, next %s, %v", latest, d.missed, next, err)
			}
		})
	}
}

// A day that never comes is an error, and nothing to wait for.
func TestNever(t *testing.T) {
	cj := &batchv1.CronJob{Spec: batchv1.CronJobSpec{Schedule: "59 23 31 2 *"}}
	cj.CreationTimestamp = metav1.NewTime(at(t, "2030-01-01T00:00:00Z"))
	s, err := batch.ParseSchedule(cj.Spec.Schedule)
	if err != nil {
		t.Fatal(err)
	}
	now := at(t, "2030-01-02T00:00:00Z")
	if _, err := lookBack(cj, s, now, true); err == nil || untilNext(cj, s, now) != 0 {
		t.Errorf("%v, next in %s", err, untilNext(cj, s, now))
	}
}

func TestNewJob(t *testing.T) {
	cj := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c", UID: "u"}, Spec: batchv1.CronJobSpec{
		TimeZone: ptr.To("Asia/Tokyo"),
		JobTemplate: batchv1.JobTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, Spec: batchv1.JobSpec{Parallelism: ptr.To[int32](3)},
		},
	}}
	j, err := newJob(cj, at(t, "2030-01-01T00:00:00Z"))
	if err != nil {
		t.Fatal(err)
	}
	if j.Name != "c-31557600" || j.Labels["a"] != "b" || *j.Spec.Parallelism != 3 || !metav1.IsControlledBy(j, cj) ||
		!strings.HasPrefix(j.Annotations["batch.kubernetes.io/cronjob-scheduled-timestamp"], "2030-01-01T09:00:00+09:00") {
		t.Errorf("%+v", j)
	}
}
