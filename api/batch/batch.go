// Package batch holds the kinds of the group batch, v1: one file a kind.
package batch

import (
	"fmt"
	"slices"
	// Time zones of CronJobs must not depend on what a machine has installed.
	_ "time/tzdata"

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/proa-dev/proa/api"
)

// Kinds lists the kinds of the group.
func Kinds() []*api.Kind {
	return []*api.Kind{
		CronJob(),
		Job(),
	}
}

func gvk(kind string) schema.GroupVersionKind {
	return batchv1.SchemeGroupVersion.WithKind(kind)
}

func setDefault[T any](p **T, v T) {
	if *p == nil {
		*p = &v
	}
}

// ParseSchedule reads a cron line. Some malformed ones make the parser panic.
func ParseSchedule(line string) (s cron.Schedule, err error) {
	defer func() {
		if r := recover(); r != nil {
			s, err = nil, fmt.Errorf("invalid schedule format: %v", r)
		}
	}()
	return cron.ParseStandard(line)
}

// HasCondition reports whether a job's condition of a type is true.
func HasCondition(j *batchv1.Job, t batchv1.JobConditionType) bool {
	return slices.ContainsFunc(j.Status.Conditions, func(c batchv1.JobCondition) bool {
		return c.Type == t && c.Status == corev1.ConditionTrue
	})
}

// FinishedCondition returns the condition that ended a job, Complete or
// Failed, or nil while it runs.
func FinishedCondition(j *batchv1.Job) *batchv1.JobCondition {
	for i := range j.Status.Conditions {
		c := &j.Status.Conditions[i]
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return c
		}
	}
	return nil
}

// Finished reports whether a job has completed or failed.
func Finished(j *batchv1.Job) bool { return FinishedCondition(j) != nil }
