package batch

import (
	"maps"
	"math"
	"strconv"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/core/podspec"
)

// The labels that tell a job's pods, with the prefix and as they were before it.
const (
	legacyNameLabel = "job-name"
	legacyUIDLabel  = "controller-uid"
)

// Job is the kind of jobs.
func Job() *api.Kind {
	return &api.Kind{
		GVK:         gvk("Job"),
		Resource:    "jobs",
		Categories:  []string{"all"},
		Namespaced:  true,
		New:         api.Maker[batchv1.Job](),
		NewList:     api.ListMaker[batchv1.JobList](),
		StoragePath: "jobs",
		Columns:     jobColumns(),

		Default: api.On(defaultJob),
		PrepareCreate: api.On(func(j *batchv1.Job) {
			if !*j.Spec.ManualSelector {
				generateSelector(j)
			}
			j.Status = batchv1.JobStatus{}
			j.Generation = 1
			dropGated(&j.Spec, nil)
		}),
		PrepareUpdate: api.OnUpdate(func(j, old *batchv1.Job) {
			j.Status = old.Status
			dropGated(&j.Spec, &old.Spec)
			api.BumpGeneration(j, old, j.Spec, old.Spec)
		}),
		Validate:       api.Check(validateJob),
		ValidateUpdate: api.CheckUpdate(validateJobUpdate),
		Warnings: api.Warn(func(j, old *batchv1.Job) []string {
			if old == nil {
				return append(podspec.NameWarnings(j.Name, "Pod names and hostnames"), jobWarnings(field.NewPath("spec"), &j.Spec)...)
			}
			if old.Generation == j.Generation {
				return nil
			}
			return jobWarnings(field.NewPath("spec"), &j.Spec)
		}),
		Status: &api.Status{
			ValidateUpdate: api.CheckUpdate(validateJobStatusUpdate),
			PrepareUpdate:  api.OnUpdate(func(j, old *batchv1.Job) { j.Spec = old.Spec }),
		},
		Fields: api.FieldsOf(func(j *batchv1.Job) fields.Set {
			return fields.Set{"status.successful": strconv.Itoa(int(j.Status.Succeeded))}
		}),
		FieldNames:      []string{"status.successful"},
		OrphanByDefault: true, // as the first version did
		ResetFields:     map[string][]string{"": {"status"}, "status": {"spec"}},
	}
}

func defaultJob(j *batchv1.Job) {
	s := &j.Spec
	defaultSpec(s)
	if s.Completions == nil && s.Parallelism == nil {
		setDefault(&s.Completions, 1)
	}
	setDefault(&s.Parallelism, 1)
	if s.BackoffLimitPerIndex != nil {
		setDefault(&s.BackoffLimit, math.MaxInt32)
	}
	setDefault(&s.BackoffLimit, 6)
	setDefault(&s.CompletionMode, batchv1.NonIndexedCompletion)
	setDefault(&s.Suspend, false)
	if s.PodFailurePolicy != nil {
		setDefault(&s.PodReplacementPolicy, batchv1.Failed)
	}
	setDefault(&s.PodReplacementPolicy, batchv1.TerminatingOrFailed)
	setDefault(&s.ManualSelector, false)
	// A job without labels takes those of its template, once these are whole:
	// generateSelector adds to them.
	if len(j.Labels) == 0 && (*s.ManualSelector || s.Selector != nil) {
		j.Labels = maps.Clone(s.Template.Labels)
	}
}

// defaultSpec sets what is default in CronJobs' templates too.
func defaultSpec(s *batchv1.JobSpec) {
	podspec.Default(&s.Template.Spec)
	if s.PodFailurePolicy == nil {
		return
	}
	for i := range s.PodFailurePolicy.Rules {
		patterns := s.PodFailurePolicy.Rules[i].OnPodConditions
		for j := range patterns {
			if patterns[j].Status == "" {
				patterns[j].Status = corev1.ConditionTrue
			}
		}
	}
}

// dropGated clears what belongs to features that are off by default.
func dropGated(s, old *batchv1.JobSpec) {
	if old == nil {
		s.Scheduling = nil
		podspec.DropGatedTemplate(&s.Template, nil)
		return
	}
	if old.Scheduling == nil {
		s.Scheduling = nil
	}
	podspec.DropGatedTemplate(&s.Template, &old.Template)
}

// generateSelector makes the job's UID select its pods. What the client has
// set already stays; if it is wrong, validation says so.
func generateSelector(j *batchv1.Job) {
	t := &j.Spec.Template
	if t.Labels == nil {
		t.Labels = map[string]string{}
	}
	for key, value := range generatedLabels(j) {
		if _, found := t.Labels[key]; !found {
			t.Labels[key] = value
		}
	}
	if len(j.Labels) == 0 {
		j.Labels = maps.Clone(t.Labels)
	}
	if j.Spec.Selector == nil {
		j.Spec.Selector = &metav1.LabelSelector{}
	}
	if j.Spec.Selector.MatchLabels == nil {
		j.Spec.Selector.MatchLabels = map[string]string{}
	}
	if _, found := j.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel]; !found {
		j.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel] = string(j.UID)
	}
}

func generatedLabels(j *batchv1.Job) map[string]string {
	return map[string]string{
		legacyNameLabel: j.Name, batchv1.JobNameLabel: j.Name,
		legacyUIDLabel: string(j.UID), batchv1.ControllerUidLabel: string(j.UID),
	}
}
