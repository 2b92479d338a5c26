package batch

import (
	"fmt"
	"regexp"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/core/podspec"
	"github.com/proa-dev/proa/api/validate"
)

// CronJob is the kind of jobs that run by a calendar.
func CronJob() *api.Kind {
	return &api.Kind{
		GVK:         gvk("CronJob"),
		Resource:    "cronjobs",
		ShortNames:  []string{"cj"},
		Categories:  []string{"all"},
		Namespaced:  true,
		New:         api.Maker[batchv1.CronJob](),
		NewList:     api.ListMaker[batchv1.CronJobList](),
		StoragePath: "cronjobs",
		Columns:     cronJobColumns(),

		Default: api.On(func(c *batchv1.CronJob) {
			defaultSpec(&c.Spec.JobTemplate.Spec)
			if c.Spec.ConcurrencyPolicy == "" {
				c.Spec.ConcurrencyPolicy = batchv1.AllowConcurrent
			}
			setDefault(&c.Spec.Suspend, false)
			setDefault(&c.Spec.SuccessfulJobsHistoryLimit, 3)
			setDefault(&c.Spec.FailedJobsHistoryLimit, 1)
		}),
		PrepareCreate: api.On(func(c *batchv1.CronJob) {
			c.Status = batchv1.CronJobStatus{}
			c.Generation = 1
			dropGated(&c.Spec.JobTemplate.Spec, nil)
		}),
		PrepareUpdate: api.OnUpdate(func(c, old *batchv1.CronJob) {
			c.Status = old.Status
			dropGated(&c.Spec.JobTemplate.Spec, &old.Spec.JobTemplate.Spec)
			api.BumpGeneration(c, old, c.Spec, old.Spec)
		}),
		Validate: api.Check(func(c *batchv1.CronJob) field.ErrorList {
			errs := validateCronJobSpec(field.NewPath("spec"), &c.Spec, nil)
			// Its jobs' names are 11 characters longer, and become labels.
			if len(c.Name) > validation.DNS1035LabelMaxLength-11 {
				errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), c.Name, "must be no more than 52 characters"))
			}
			return errs
		}),
		ValidateUpdate: api.CheckUpdate(func(c, old *batchv1.CronJob) field.ErrorList {
			return validateCronJobSpec(field.NewPath("spec"), &c.Spec, &old.Spec)
		}),
		Warnings: api.Warn(cronJobWarnings),
		Status: &api.Status{
			PrepareUpdate: api.OnUpdate(func(c, old *batchv1.CronJob) { c.Spec = old.Spec }),
		},
		ResetFields: map[string][]string{"": {"status"}, "status": {"spec"}},
	}
}

func cronJobWarnings(c, old *batchv1.CronJob) []string {
	path := field.NewPath("spec", "jobTemplate", "spec")
	if old == nil {
		return append(podspec.NameWarnings(c.Name, "Pod names and hostnames"), jobWarnings(path, &c.Spec.JobTemplate.Spec)...)
	}
	var warnings []string
	if old.Generation != c.Generation {
		warnings = jobWarnings(path, &c.Spec.JobTemplate.Spec)
	}
	if strings.Contains(c.Spec.Schedule, "TZ") {
		warnings = append(warnings, fmt.Sprintf("cannot use TZ or CRON_TZ in %s, use timeZone instead, see "+
			"https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details", field.NewPath("spec", "spec", "schedule")))
	}
	return warnings
}

func validateCronJobSpec(path *field.Path, s, old *batchv1.CronJobSpec) field.ErrorList {
	var errs field.ErrorList
	if s.Schedule == "" {
		errs = append(errs, field.Required(path.Child("schedule"), ""))
	} else {
		hadZone := old != nil && strings.Contains(old.Schedule, "TZ")
		errs = append(errs, validateSchedule(path.Child("schedule"), s, hadZone)...)
	}
	nonNegative := func(name string, n *int32) {
		if n != nil {
			errs = append(errs, validate.NonNegative(path.Child(name), int64(*n))...)
		}
	}
	if s.StartingDeadlineSeconds != nil {
		errs = append(errs, validate.NonNegative(path.Child("startingDeadlineSeconds"), *s.StartingDeadlineSeconds)...)
	}
	if s.TimeZone != nil && (old == nil || !ptr.Equal(old.TimeZone, s.TimeZone)) {
		errs = append(errs, validateTimeZone(path.Child("timeZone"), *s.TimeZone)...)
	}
	errs = append(errs, validate.RequiredOneOf(path.Child("concurrencyPolicy"), s.ConcurrencyPolicy,
		batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent)...)
	var oldTemplate *batchv1.JobTemplateSpec
	if old != nil {
		oldTemplate = &old.JobTemplate
	}
	errs = append(errs, validateJobTemplate(path.Child("jobTemplate", "spec"), &s.JobTemplate, oldTemplate)...)
	nonNegative("successfulJobsHistoryLimit", s.SuccessfulJobsHistoryLimit)
	nonNegative("failedJobsHistoryLimit", s.FailedJobsHistoryLimit)
	return errs
}

// validateSchedule lets a cron line name a zone only where it always did.
func validateSchedule(path *field.Path, s *batchv1.CronJobSpec, hadZone bool) field.ErrorList {
	var errs field.ErrorList
	if _, err := ParseSchedule(s.Schedule); err != nil {
		errs = append(errs, field.Invalid(path, s.Schedule, err.Error()))
	}
	switch hasZone := strings.Contains(s.Schedule, "TZ"); {
	case hasZone && !hadZone:
		errs = append(errs, field.Invalid(path, s.Schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"))
	case hasZone && s.TimeZone != nil:
		errs = append(errs, field.Invalid(path, s.Schedule, "cannot use both timeZone field and TZ or CRON_TZ in schedule"))
	}
	return errs
}

// zonePart is a part of a time zone's name, as the IANA database names them.
var zonePart = regexp.MustCompile(`^[A-Za-z\.\-_0-9+]{1,14}$`)

func validateTimeZone(path *field.Path, zone string) field.ErrorList {
	if zone == "" {
		return field.ErrorList{field.Invalid(path, zone, "timeZone must be nil or non-empty string")}
	}
	for part := range strings.SplitSeq(zone, "/") {
		if part == "." || part == ".." || strings.HasPrefix(part, "-") || !zonePart.MatchString(part) {
			return field.ErrorList{field.Invalid(path, zone, "unknown time zone "+zone)}
		}
	}
	var errs field.ErrorList
	if strings.EqualFold(zone, "Local") {
		errs = append(errs, field.Invalid(path, zone, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"))
	}
	if _, err := time.LoadLocation(zone); err != nil {
		errs = append(errs, field.Invalid(path, zone, err.Error()))
	}
	return errs
}

func validateJobTemplate(path *field.Path, t, old *batchv1.JobTemplateSpec) field.ErrorList {
	var oldSpec *batchv1.JobSpec
	if old != nil {
		oldSpec = &old.Spec
	}
	errs := validateSpec(path, &t.Spec, oldSpec)
	if t.Spec.Selector != nil {
		errs = append(errs, field.Invalid(path.Child("selector"), t.Spec.Selector, "`selector` will be auto-generated"))
	}
	if ptr.Deref(t.Spec.ManualSelector, false) {
		errs = append(errs, field.NotSupported(path.Child("manualSelector"), t.Spec.ManualSelector, []string{"nil", "false"}))
	}
	return errs
}
