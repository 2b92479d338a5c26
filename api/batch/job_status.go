package batch

import (
	"fmt"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/api/validate"
)

// validateJobStatusUpdate keeps statuses consistent, whichever controller
// writes them. Most rules look at a field only when it changes: what is wrong
// already must not block other updates, and right after a change of the spec
// the controller needs time to make the status follow.
func validateJobStatusUpdate(j, old *batchv1.Job) field.ErrorList {
	c := statusCheck{j: j, old: old, path: field.NewPath("status")}
	c.counters()
	c.completion()
	c.ends()
	c.indexes()
	c.criteria()
	c.transitions()
	return c.errs
}

type statusCheck struct {
	j, old *batchv1.Job
	path   *field.Path
	errs   field.ErrorList
}

// has and changed are of a condition being true.
func (c *statusCheck) has(t batchv1.JobConditionType) bool { return HasCondition(c.j, t) }

func (c *statusCheck) changed(t batchv1.JobConditionType) bool {
	return HasCondition(c.j, t) != HasCondition(c.old, t)
}

func (c *statusCheck) startChanged() bool {
	return !timesEqual(c.j, c.old, func(s *batchv1.JobStatus) any { return s.StartTime })
}

func (c *statusCheck) completionChanged() bool {
	return !timesEqual(c.j, c.old, func(s *batchv1.JobStatus) any { return s.CompletionTime })
}

func timesEqual(a, b *batchv1.Job, of func(*batchv1.JobStatus) any) bool {
	return equality.Semantic.DeepEqual(of(&a.Status), of(&b.Status))
}

func (c *statusCheck) invalid(name string, value any, detail string) {
	c.errs = append(c.errs, field.Invalid(c.path.Child(name), value, detail))
}

func (c *statusCheck) conditions(detail string) {
	c.invalid("conditions", field.OmitValueType{}, detail)
}

func (c *statusCheck) counters() {
	s := &c.j.Status
	nonNegative := func(name string, n *int32) {
		if n != nil {
			c.errs = append(c.errs, validate.NonNegative(c.path.Child(name), int64(*n))...)
		}
	}
	nonNegative("active", &s.Active)
	nonNegative("succeeded", &s.Succeeded)
	nonNegative("failed", &s.Failed)
	nonNegative("ready", s.Ready)
	nonNegative("terminating", s.Terminating)
	if u := s.UncountedTerminatedPods; u != nil {
		path := c.path.Child("uncountedTerminatedPods")
		seen := sets.New[types.UID]()
		c.uids(path.Child("succeeded"), u.Succeeded, seen)
		c.uids(path.Child("failed"), u.Failed, seen)
	}
}

func (c *statusCheck) uids(path *field.Path, uids []types.UID, seen sets.Set[types.UID]) {
	for i, uid := range uids {
		switch {
		case uid == "":
			c.errs = append(c.errs, field.Invalid(path.Index(i), uid, "must not be empty"))
		case seen.Has(uid):
			c.errs = append(c.errs, field.Duplicate(path.Index(i), uid))
		}
		seen.Insert(uid)
	}
}

// completion relates the conditions of an end and the time of it.
func (c *statusCheck) completion() {
	s := &c.j.Status
	complete, failed := c.has(batchv1.JobComplete), c.has(batchv1.JobFailed)
	completeChanged, failedChanged := c.changed(batchv1.JobComplete), c.changed(batchv1.JobFailed)
	timeChanged := c.completionChanged()
	if (completeChanged || failedChanged) && complete && failed {
		c.conditions("cannot set Complete=True and Failed=true conditions")
	}
	if (completeChanged || c.changed(batchv1.JobFailureTarget)) && complete && c.has(batchv1.JobFailureTarget) {
		c.conditions("cannot set Complete=True and FailureTarget=true conditions")
	}
	if completeChanged || timeChanged {
		if s.CompletionTime != nil && !complete {
			c.invalid("completionTime", s.CompletionTime, "cannot set completionTime when there is no Complete=True condition")
		}
		if s.CompletionTime == nil && complete {
			c.errs = append(c.errs, field.Required(c.path.Child("completionTime"), "completionTime is required for Complete jobs"))
		}
	}
	if (c.startChanged() || timeChanged) && s.StartTime != nil && s.CompletionTime != nil && s.CompletionTime.Before(s.StartTime) {
		c.invalid("completionTime", s.CompletionTime, "must be equal to or after `startTime`")
	}
	failedIndexesChanged := !ptr.Equal(c.old.Status.FailedIndexes, s.FailedIndexes)
	if (failedChanged || failedIndexesChanged) && failed && !c.has(batchv1.JobFailureTarget) {
		c.conditions("cannot set Failed=True condition without the FailureTarget=true condition")
	}
	if (completeChanged || c.changed(batchv1.JobSuccessCriteriaMet)) && complete && !c.has(batchv1.JobSuccessCriteriaMet) {
		c.conditions("cannot set Complete=True condition without the SuccessCriteriaMet=true condition")
	}
}

// ends are the rules on finished jobs.
func (c *statusCheck) ends() {
	s, was := &c.j.Status, &c.old.Status
	if !Finished(c.j) {
		return
	}
	changed := !Finished(c.old)
	if (changed || was.Active != s.Active) && s.Active > 0 {
		c.invalid("active", s.Active, "active>0 is invalid for finished job")
	}
	neverRan := ptr.Deref(c.j.Spec.Suspend, false) && ptr.Equal(c.j.Spec.Completions, ptr.To[int32](0))
	if (changed || c.startChanged()) && !neverRan && s.StartTime == nil {
		c.errs = append(c.errs, field.Required(c.path.Child("startTime"), "startTime is required for finished job"))
	}
	u := s.UncountedTerminatedPods
	if (changed || !equality.Semantic.DeepEqual(was.UncountedTerminatedPods, u)) && u != nil && len(u.Failed)+len(u.Succeeded) > 0 {
		c.invalid("uncountedTerminatedPods", u, "must be empty for finished job")
	}
	if (changed || !ptr.Equal(was.Terminating, s.Terminating)) && ptr.Deref(s.Terminating, 0) > 0 {
		c.invalid("terminating", s.Terminating, "terminating>0 is invalid for finished job")
	}
}

func (c *statusCheck) indexes() {
	s, was, spec := &c.j.Status, &c.old.Status, &c.j.Spec
	completedChanged := was.CompletedIndexes != s.CompletedIndexes
	failedChanged := !ptr.Equal(was.FailedIndexes, s.FailedIndexes)
	if completedChanged && spec.Completions != nil {
		if _, err := checkIndexes(s.CompletedIndexes, *spec.Completions); err != nil {
			c.invalid("completedIndexes", s.CompletedIndexes, fmt.Sprintf("error parsing completedIndexes: %s", err))
		}
	}
	if failedChanged && spec.Completions != nil && spec.BackoffLimitPerIndex != nil && s.FailedIndexes != nil {
		if _, err := checkIndexes(*s.FailedIndexes, *spec.Completions); err != nil {
			c.invalid("failedIndexes", s.FailedIndexes, fmt.Sprintf("error parsing failedIndexes: %s", err))
		}
	}
	if completedChanged && s.CompletedIndexes != "" && !indexed(spec) {
		c.invalid("completedIndexes", s.CompletedIndexes, "cannot set non-empty completedIndexes when non-indexed completion mode")
	}
	if failedChanged && spec.BackoffLimitPerIndex == nil && s.FailedIndexes != nil {
		c.invalid("failedIndexes", *s.FailedIndexes, "cannot set non-null failedIndexes when backoffLimitPerIndex is null")
	}
	if (failedChanged || completedChanged) && spec.Completions != nil && s.FailedIndexes != nil {
		if err := checkDisjoint(s.CompletedIndexes, *s.FailedIndexes, *spec.Completions); err != nil {
			c.invalid("failedIndexes", *s.FailedIndexes, err.Error())
		}
	}
	if (!ptr.Equal(was.Ready, s.Ready) || was.Active != s.Active) && s.Ready != nil && *s.Ready > s.Active {
		c.invalid("ready", *s.Ready, "cannot set more ready pods than active")
	}
}

func (c *statusCheck) criteria() {
	met := c.has(batchv1.JobSuccessCriteriaMet)
	if met && c.has(batchv1.JobFailed) {
		c.conditions("cannot set SuccessCriteriaMet=True and Failed=true conditions")
	}
	if met && c.has(batchv1.JobFailureTarget) {
		c.conditions("cannot set SuccessCriteriaMet=True and FailureTarget=true conditions")
	}
	if c.j.Spec.SuccessPolicy != nil && !met && c.has(batchv1.JobComplete) {
		c.conditions("cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True")
	}
}

// transitions are the rules on what may follow what.
func (c *statusCheck) transitions() {
	s, was := &c.j.Status, &c.old.Status
	for _, t := range []batchv1.JobConditionType{batchv1.JobFailed, batchv1.JobComplete, batchv1.JobFailureTarget} {
		if HasCondition(c.old, t) && !c.has(t) {
			c.conditions(fmt.Sprintf("cannot disable the terminal %s=True condition", t))
		}
	}
	if s.Failed < was.Failed {
		c.invalid("failed", s.Failed, "cannot decrease the failed counter")
	}
	// An indexed job may be scaled down, if both numbers are equal.
	scalable := indexed(&c.j.Spec) && ptr.Equal(c.j.Spec.Completions, c.j.Spec.Parallelism)
	if !scalable && s.Succeeded < was.Succeeded {
		c.invalid("succeeded", s.Succeeded, "cannot decrease the succeeded counter")
	}
	if s.CompletionTime != nil && was.CompletionTime != nil && !s.CompletionTime.Equal(was.CompletionTime) {
		c.invalid("completionTime", s.CompletionTime, "field is immutable")
	}
	resumes := HasCondition(c.old, batchv1.JobSuspended) && suspendedIs(c.j, corev1.ConditionFalse)
	if c.startChanged() && !resumes && was.StartTime != nil && !ptr.Deref(c.j.Spec.Suspend, false) {
		c.invalid("startTime", s.StartTime, "field is immutable for unsuspended job once set")
	}
	met, wasMet := c.has(batchv1.JobSuccessCriteriaMet), HasCondition(c.old, batchv1.JobSuccessCriteriaMet)
	if wasMet && !met {
		c.conditions("cannot disable the SuccessCriteriaMet=True condition")
	}
	if HasCondition(c.old, batchv1.JobComplete) && !wasMet && met {
		c.conditions("cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions")
	}
}

func suspendedIs(j *batchv1.Job, status corev1.ConditionStatus) bool {
	for _, c := range j.Status.Conditions {
		if c.Type == batchv1.JobSuspended && c.Status == status {
			return true
		}
	}
	return false
}
