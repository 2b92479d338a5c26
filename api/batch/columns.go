package batch

import (
	"fmt"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/core/podspec"
)

func jobColumns() []api.Column {
	type J = *batchv1.Job
	cols := []api.Column{
		api.Col("Status", "string", "Status of the job.", func(j J) any { return jobStatusText(j) }),
		api.Col("Completions", "string", "Pods that have succeeded, of those wanted.", func(j J) any { return completionsText(j) }),
		api.Col("Duration", "string", "Time that the job takes or has taken.", func(j J) any {
			switch {
			case j.Status.StartTime == nil:
				return ""
			case j.Status.CompletionTime == nil:
				return api.HumanAge(*j.Status.StartTime)
			}
			return duration.HumanDuration(j.Status.CompletionTime.Sub(j.Status.StartTime.Time))
		}),
		api.AgeColumn(),
	}
	cols = append(cols, podspec.Columns(func(j J) *corev1.PodTemplateSpec { return &j.Spec.Template })...)
	return append(cols, api.WideCol("Selector", "string", "Labels of the pods.", func(j J) any {
		return metav1.FormatLabelSelector(j.Spec.Selector)
	}))
}

func jobStatusText(j *batchv1.Job) string {
	switch {
	case HasCondition(j, batchv1.JobComplete):
		return "Complete"
	case HasCondition(j, batchv1.JobFailed):
		return "Failed"
	case j.DeletionTimestamp != nil:
		return "Terminating"
	}
	for _, t := range []batchv1.JobConditionType{batchv1.JobSuspended, batchv1.JobFailureTarget, batchv1.JobSuccessCriteriaMet} {
		if HasCondition(j, t) {
			return string(t)
		}
	}
	return "Running"
}

func completionsText(j *batchv1.Job) string {
	if j.Spec.Completions != nil {
		return fmt.Sprintf("%d/%d", j.Status.Succeeded, *j.Spec.Completions)
	}
	if p := ptr.Deref(j.Spec.Parallelism, 0); p > 1 {
		return fmt.Sprintf("%d/1 of %d", j.Status.Succeeded, p)
	}
	return fmt.Sprintf("%d/1", j.Status.Succeeded)
}

func cronJobColumns() []api.Column {
	type C = *batchv1.CronJob
	cols := []api.Column{
		api.Col("Schedule", "string", "When jobs start, as a cron line.", func(c C) any { return c.Spec.Schedule }),
		api.Col("Timezone", "string", "Time zone of the schedule.", func(c C) any { return ptr.Deref(c.Spec.TimeZone, "<none>") }),
		api.Col("Suspend", "boolean", "Whether no jobs start.", func(c C) any {
			switch {
			case c.Spec.Suspend == nil:
				return "<unset>"
			case *c.Spec.Suspend:
				return "True"
			}
			return "False"
		}),
		api.Col("Active", "integer", "Jobs that run.", func(c C) any { return int64(len(c.Status.Active)) }),
		api.Col("Last Schedule", "string", "Time since a job was last due.", func(c C) any {
			if c.Status.LastScheduleTime == nil {
				return "<none>"
			}
			return api.HumanAge(*c.Status.LastScheduleTime)
		}),
		api.AgeColumn(),
	}
	cols = append(cols, podspec.Columns(func(c C) *corev1.PodTemplateSpec { return &c.Spec.JobTemplate.Spec.Template })...)
	return append(cols, api.WideCol("Selector", "string", "Labels of the pods.", func(c C) any {
		return metav1.FormatLabelSelector(c.Spec.JobTemplate.Spec.Selector)
	}))
}
