package cronjob

import (
	"errors"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/utils/ptr"
)

const (
	// slack is added to the time until the next job, for clocks that differ.
	slack = 100 * time.Millisecond
	// horizon is how far back a CronJob looks. It keeps sums of durations from
	// overflowing, whatever a status says.
	horizon = 100 * 365 * 24 * time.Hour
	// muchMissed is from how many missed times on there are too many.
	muchMissed = 100
)

// hasZone reports whether the cron line itself names a time zone, which is
// allowed for old objects only.
func hasZone(cj *batchv1.CronJob) bool { return strings.Contains(cj.Spec.Schedule, "TZ") }

// scheduleLine is the cron line with its time zone.
func scheduleLine(cj *batchv1.CronJob) string {
	zone := ptr.Deref(cj.Spec.TimeZone, "")
	if zone == "" || hasZone(cj) {
		return cj.Spec.Schedule
	}
	if _, err := time.LoadLocation(zone); err != nil {
		return cj.Spec.Schedule
	}
	return "TZ=" + zone + " " + cj.Spec.Schedule
}

// amount is how many times were missed, roughly.
type amount int

const (
	none amount = iota
	few
	many
)

// due is what a look back at a schedule finds.
type due struct {
	// since is where it began: the last job's time, or the CronJob's creation.
	since time.Time
	// latest is the last time that is not after now; zero if there is none.
	latest time.Time
	missed amount
}

// errNever is what a schedule like the 31st of February comes to.
var errNever = errors.New("time difference between two schedules is less than 1 second")

// lookBack finds out for which time a job should have been made by now. With
// the starting deadline, what is older than that is passed over.
func lookBack(cj *batchv1.CronJob, schedule cron.Schedule, now time.Time, withDeadline bool) (due, error) {
	d := due{since: cj.CreationTimestamp.Time}
	if last := cj.Status.LastScheduleTime; last != nil {
		d.since = last.Time
	}
	if oldest := now.Add(-horizon); d.since.Before(oldest) {
		d.since = oldest
	}
	if withDeadline && cj.Spec.StartingDeadlineSeconds != nil {
		if oldest := now.Add(-seconds(*cj.Spec.StartingDeadlineSeconds)); oldest.After(d.since) {
			d.since = oldest
		}
	}
	first := schedule.Next(d.since)
	second := schedule.Next(first)
	switch {
	case now.Before(first):
		return d, nil
	case now.Before(second):
		d.latest = first
		return d, nil
	}
	interval := int64(second.Sub(first).Round(time.Second).Seconds())
	if interval < 1 {
		return d, errNever
	}
	// Times need not be evenly spread. Begin two intervals back and let the
	// schedule say: that is exact for the usual ones, and for "@every".
	n := int64(now.Sub(first).Seconds())/interval + 1
	start := first.Add(time.Duration((n-2)*interval) * time.Second)
	for t := schedule.Next(start); !t.IsZero() && !t.After(now); t = schedule.Next(t) {
		d.latest = t
	}
	d.missed = few
	if n > muchMissed {
		d.missed = many
	}
	return d, nil
}

// untilNext is how long to wait for the next time after all that is due; zero
// if there is none.
func untilNext(cj *batchv1.CronJob, schedule cron.Schedule, now time.Time) time.Duration {
	from := now
	if d, err := lookBack(cj, schedule, now, false); err == nil {
		switch {
		case !d.latest.IsZero():
			from = d.latest
		case d.missed == none:
			from = d.since
		}
	}
	next := schedule.Next(from)
	if next.IsZero() {
		return 0
	}
	return max(next.Add(slack).Sub(now), time.Millisecond)
}

// tooLate reports whether the deadline for a job to start is over.
func tooLate(cj *batchv1.CronJob, at, now time.Time) bool {
	deadline := cj.Spec.StartingDeadlineSeconds
	return deadline != nil && at.Add(seconds(*deadline)).Before(now)
}

func seconds(n int64) time.Duration {
	return time.Duration(min(n, int64(horizon/time.Second))) * time.Second
}
