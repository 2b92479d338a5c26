package batch

import (
	"fmt"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/api/core/podspec"
	"github.com/proa-dev/proa/api/validate"
)

// These bound the length of the lists of indexes in a status.
const (
	maxIndexedParallelism = 100_000
	maxFailedIndexes      = 100_000
	manyCompletions       = 100_000
	manyParallelism       = 10_000 // with many completions
	manyFailedIndexes     = 10_000 // with many completions

	maxManagedBy = 63
)

func indexed(s *batchv1.JobSpec) bool {
	return ptr.Deref(s.CompletionMode, batchv1.NonIndexedCompletion) == batchv1.IndexedCompletion
}

func validateJob(j *batchv1.Job) field.ErrorList {
	errs := validateGenerated(j)
	errs = append(errs, validateJobSpec(field.NewPath("spec"), &j.Spec, nil)...)
	return append(errs, validateHostnames(j)...)
}

func validateJobUpdate(j, old *batchv1.Job) field.ErrorList {
	path, s, was := field.NewPath("spec"), &j.Spec, &old.Spec
	errs := validateJobSpec(path, s, was)
	errs = append(errs, validateCompletionsUpdate(path, s, was)...)
	errs = append(errs, validate.Unchanged(path.Child("selector"), s.Selector, was.Selector)...)
	errs = append(errs, validateTemplateUpdate(path, j, old)...)
	errs = append(errs, validate.Unchanged(path.Child("completionMode"), s.CompletionMode, was.CompletionMode)...)
	errs = append(errs, validate.Unchanged(path.Child("podFailurePolicy"), s.PodFailurePolicy, was.PodFailurePolicy)...)
	errs = append(errs, validate.Unchanged(path.Child("backoffLimitPerIndex"), s.BackoffLimitPerIndex, was.BackoffLimitPerIndex)...)
	errs = append(errs, validate.Unchanged(path.Child("managedBy"), s.ManagedBy, was.ManagedBy)...)
	errs = append(errs, validate.Unchanged(path.Child("successPolicy"), s.SuccessPolicy, was.SuccessPolicy)...)
	return append(errs, validateHostnames(j)...)
}

// validateGenerated wants the labels and the selector that generateSelector
// makes, unless the client makes its own.
func validateGenerated(j *batchv1.Job) field.ErrorList {
	if ptr.Deref(j.Spec.ManualSelector, false) || j.Spec.Selector == nil {
		return nil
	}
	var errs field.ErrorList
	if j.UID == "" {
		errs = append(errs, field.Required(field.NewPath("metadata", "uid"), ""))
	}
	want := generatedLabels(j)
	path := field.NewPath("spec", "template", "metadata", "labels")
	for _, key := range []string{legacyUIDLabel, legacyNameLabel, batchv1.ControllerUidLabel, batchv1.JobNameLabel} {
		value, found := j.Spec.Template.Labels[key]
		switch {
		case !found:
			errs = append(errs, field.Required(path.Key(key), fmt.Sprintf("must be '%s'", want[key])))
		case value != want[key]:
			errs = append(errs, field.Invalid(path.Key(key), j.Spec.Template.Labels, fmt.Sprintf("must be '%s'", want[key])))
		}
	}
	if selector, err := metav1.LabelSelectorAsSelector(j.Spec.Selector); err == nil && !selector.Matches(labels.Set(want)) {
		errs = append(errs, field.Invalid(field.NewPath("spec", "selector"), j.Spec.Selector, "`selector` not auto-generated"))
	}
	return errs
}

// validateHostnames wants that the pod of the last index has a host name.
func validateHostnames(j *batchv1.Job) field.ErrorList {
	n := ptr.Deref(j.Spec.Completions, 0)
	if !indexed(&j.Spec) || n <= 0 {
		return nil
	}
	last := fmt.Sprintf("%s-%d", j.Name, n-1)
	if len(validation.IsDNS1123Label(last)) == 0 {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("metadata", "name"), j.Name,
		"will not able to create pod with invalid DNS label: "+last)}
}

func validateJobSpec(path *field.Path, s, old *batchv1.JobSpec) field.ErrorList {
	errs := validateSpec(path, s, old)
	if s.Selector == nil {
		errs = append(errs, field.Required(path.Child("selector"), ""))
	} else {
		lenient := old != nil && len(validate.Selector(nil, old.Selector, false)) > 0
		errs = append(errs, validate.Selector(path.Child("selector"), s.Selector, lenient)...)
	}
	if selector, err := metav1.LabelSelectorAsSelector(s.Selector); err == nil && !selector.Matches(labels.Set(s.Template.Labels)) {
		errs = append(errs, field.Invalid(path.Child("template", "metadata", "labels"), s.Template.Labels,
			"`selector` does not match template `labels`"))
	}
	return errs
}

// validateSpec checks what holds for jobs and for the templates of CronJobs.
func validateSpec(path *field.Path, s, old *batchv1.JobSpec) field.ErrorList {
	errs := validateCounts(path, s)
	if s.ManagedBy != nil {
		errs = append(errs, validation.IsDomainPrefixedPath(path.Child("managedBy"), *s.ManagedBy)...)
		if len(*s.ManagedBy) > maxManagedBy {
			errs = append(errs, field.TooLong(path.Child("managedBy"), "", maxManagedBy))
		}
	}
	errs = append(errs, validateCompletionMode(path, s)...)
	if s.PodFailurePolicy != nil {
		errs = append(errs, validatePodFailurePolicy(path.Child("podFailurePolicy"), s)...)
	}
	if s.SuccessPolicy != nil {
		errs = append(errs, validateSuccessPolicy(path.Child("successPolicy"), s)...)
	}
	errs = append(errs, validateReplacementPolicy(path.Child("podReplacementPolicy"), s)...)

	// Only data of another server can hold it, see dropGated.
	if s.Scheduling != nil && (old == nil || !equality.Semantic.DeepEqual(s.Scheduling, old.Scheduling)) {
		errs = append(errs, field.Forbidden(path.Child("scheduling"), ""))
	}
	var opts podspec.Options
	if old != nil {
		opts = podspec.After(&old.Template.Spec, old.Template.Annotations)
	}
	errs = append(errs, podspec.ValidateTemplate(path.Child("template"), &s.Template, opts)...)
	return append(errs, validateRestartPolicy(path.Child("template", "spec", "restartPolicy"), s)...)
}

func validateCounts(path *field.Path, s *batchv1.JobSpec) field.ErrorList {
	var errs field.ErrorList
	count := func(name string, n *int32) {
		if n != nil {
			errs = append(errs, validate.NonNegative(path.Child(name), int64(*n))...)
		}
	}
	count("parallelism", s.Parallelism)
	count("completions", s.Completions)
	if s.ActiveDeadlineSeconds != nil {
		errs = append(errs, validate.NonNegative(path.Child("activeDeadlineSeconds"), *s.ActiveDeadlineSeconds)...)
	}
	count("backoffLimit", s.BackoffLimit)
	count("ttlSecondsAfterFinished", s.TTLSecondsAfterFinished)
	count("backoffLimitPerIndex", s.BackoffLimitPerIndex)
	count("maxFailedIndexes", s.MaxFailedIndexes)
	if s.MaxFailedIndexes != nil && s.BackoffLimitPerIndex == nil {
		errs = append(errs, field.Required(path.Child("backoffLimitPerIndex"), "when maxFailedIndexes is specified"))
	}
	return errs
}

func validateCompletionMode(path *field.Path, s *batchv1.JobSpec) field.ErrorList {
	var errs field.ErrorList
	switch ptr.Deref(s.CompletionMode, batchv1.NonIndexedCompletion) {
	case batchv1.NonIndexedCompletion:
		if s.BackoffLimitPerIndex != nil {
			errs = append(errs, field.Invalid(path.Child("backoffLimitPerIndex"), *s.BackoffLimitPerIndex, "requires indexed completion mode"))
		}
		if s.MaxFailedIndexes != nil {
			errs = append(errs, field.Invalid(path.Child("maxFailedIndexes"), *s.MaxFailedIndexes, "requires indexed completion mode"))
		}
	case batchv1.IndexedCompletion:
		errs = validateIndexed(path, s)
	default:
		errs = append(errs, field.NotSupported(path.Child("completionMode"), s.CompletionMode,
			[]batchv1.CompletionMode{batchv1.NonIndexedCompletion, batchv1.IndexedCompletion}))
	}
	return errs
}

func validateIndexed(path *field.Path, s *batchv1.JobSpec) field.ErrorList {
	var errs field.ErrorList
	if s.Completions == nil {
		errs = append(errs, field.Required(path.Child("completions"), fmt.Sprintf("when completion mode is %s", batchv1.IndexedCompletion)))
	}
	tooMany := func(name string, value *int32, limit int32, why string) {
		if value != nil && *value > limit {
			errs = append(errs, field.Invalid(path.Child(name), *value, fmt.Sprintf("must be less than or equal to %d%s", limit, why)))
		}
	}
	tooMany("parallelism", s.Parallelism, maxIndexedParallelism, fmt.Sprintf(" when completion mode is %s", batchv1.IndexedCompletion))
	if s.Completions != nil && s.MaxFailedIndexes != nil && *s.MaxFailedIndexes > *s.Completions {
		errs = append(errs, field.Invalid(path.Child("maxFailedIndexes"), *s.MaxFailedIndexes, "must be less than or equal to completions"))
	}
	tooMany("maxFailedIndexes", s.MaxFailedIndexes, maxFailedIndexes, "")
	if ptr.Deref(s.Completions, 0) <= manyCompletions || s.BackoffLimitPerIndex == nil {
		return errs
	}
	if s.MaxFailedIndexes == nil {
		errs = append(errs, field.Required(path.Child("maxFailedIndexes"),
			fmt.Sprintf("must be specified when completions is above %d", manyCompletions)))
	}
	why := fmt.Sprintf(" when completions are above %d and used with backoff limit per index", manyCompletions)
	tooMany("parallelism", s.Parallelism, manyParallelism, why)
	tooMany("maxFailedIndexes", s.MaxFailedIndexes, manyFailedIndexes, why)
	return errs
}

func validateReplacementPolicy(path *field.Path, s *batchv1.JobSpec) field.ErrorList {
	switch {
	case s.PodReplacementPolicy == nil:
		return nil
	case s.PodFailurePolicy != nil: // it judges pods that have finished only
		return validate.OneOf(path, *s.PodReplacementPolicy, batchv1.Failed)
	}
	return validate.OneOf(path, *s.PodReplacementPolicy, batchv1.Failed, batchv1.TerminatingOrFailed)
}

func validateRestartPolicy(path *field.Path, s *batchv1.JobSpec) field.ErrorList {
	switch p := s.Template.Spec.RestartPolicy; p {
	case corev1.RestartPolicyAlways, "": // the default of pods, wrong for jobs
		return field.ErrorList{field.Required(path,
			fmt.Sprintf("valid values: %q, %q", corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever))}
	case corev1.RestartPolicyNever:
		return nil
	case corev1.RestartPolicyOnFailure:
		if s.PodFailurePolicy != nil {
			return field.ErrorList{field.Invalid(path, p,
				fmt.Sprintf("only %q is supported when podFailurePolicy is specified", corev1.RestartPolicyNever))}
		}
		return nil
	default:
		return field.ErrorList{field.NotSupported(path, p,
			[]corev1.RestartPolicy{corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever})}
	}
}

// validateCompletionsUpdate lets the completions of indexed jobs change alone,
// and those only together with the parallelism.
func validateCompletionsUpdate(path *field.Path, s, old *batchv1.JobSpec) field.ErrorList {
	at := path.Child("completions")
	if !indexed(s) {
		return validate.Unchanged(at, s.Completions, old.Completions)
	}
	if ptr.Equal(s.Completions, old.Completions) || s.Completions == nil || ptr.Equal(s.Completions, s.Parallelism) {
		return nil
	}
	return field.ErrorList{field.Invalid(at, s.Completions,
		fmt.Sprintf("can only be modified in tandem with %s", path.Root().Child("parallelism")))}
}

// validateTemplateUpdate refuses changes of the template, but where and with
// which resources pods run may change while a job is suspended and has none.
func validateTemplateUpdate(path *field.Path, j, old *batchv1.Job) field.ErrorList {
	now, was := &j.Spec.Template, &old.Spec.Template
	halted := ptr.Deref(old.Spec.Suspend, false) && old.Status.Active == 0 &&
		(old.Status.StartTime == nil || HasCondition(old, batchv1.JobSuspended))
	if !halted {
		return validate.Unchanged(path.Child("template"), *now, *was)
	}
	was = was.DeepCopy()
	allowScheduling(&was.Spec, &now.Spec)
	was.Annotations, was.Labels = now.Annotations, now.Labels
	allowResources(was.Spec.Containers, now.Spec.Containers)
	allowResources(was.Spec.InitContainers, now.Spec.InitContainers)
	return validate.Unchanged(path.Child("template.spec"), now.Spec, was.Spec)
}

// allowScheduling makes was like now in what says on which nodes pods may run.
func allowScheduling(was, now *corev1.PodSpec) {
	switch {
	case now.Affinity == nil && was.Affinity != nil:
		was.Affinity.NodeAffinity = nil
		if *was.Affinity == (corev1.Affinity{}) {
			was.Affinity = nil
		}
	case now.Affinity != nil && was.Affinity == nil:
		was.Affinity = &corev1.Affinity{NodeAffinity: now.Affinity.NodeAffinity}
	case now.Affinity != nil:
		was.Affinity.NodeAffinity = now.Affinity.NodeAffinity
	}
	was.NodeSelector = now.NodeSelector
	was.Tolerations = now.Tolerations
	was.SchedulingGates = now.SchedulingGates
}

// allowResources gives the containers the resources that they have now.
func allowResources(was, now []corev1.Container) {
	if len(was) != len(now) {
		return
	}
	for i := range was {
		if was[i].Name == now[i].Name {
			was[i].Resources = now[i].Resources
		}
	}
}

// jobWarnings says what is legal in a job and yet likely a mistake.
func jobWarnings(path *field.Path, s *batchv1.JobSpec) []string {
	var warnings []string
	if indexed(s) && ptr.Deref(s.Completions, 0) > manyCompletions && ptr.Deref(s.Parallelism, 0) > manyParallelism {
		warnings = append(warnings, path.String()+": In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, "+
			"Kubernetes might not be able to track completedIndexes when a big number of indexes fail")
	}
	return append(warnings, podspec.TemplateWarnings(path.Child("template"), &s.Template)...)
}
