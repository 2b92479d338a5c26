package job

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/utils/ptr"
)

var noon = time.Date(2030, 1, 1, 12, 0, 0, 0, time.UTC)

// a pod of a job, written as "phase" and marks: "@3" its index, "x7" the exit
// code, "f2" failures of the index before, "-" no finalizer, "d" being deleted,
// "r5" restarts, "c" a condition DisruptionTarget, "~40" seconds since it ended.
func podOf(i int, text string) *corev1.Pod {
	words := strings.Fields(text)
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprintf("p%d", i), Namespace: "ns", UID: types.UID(fmt.Sprintf("u%d", i)),
			CreationTimestamp: metav1.NewTime(noon.Add(-time.Hour)), Annotations: map[string]string{},
			Finalizers: []string{batchv1.JobTrackingFinalizer},
		},
		Status: corev1.PodStatus{Phase: corev1.PodPhase(words[0])},
	}
	ended := noon.Add(-time.Minute)
	status := corev1.ContainerStatus{Name: "c"}
	for _, w := range words[1:] {
		n := 0
		if len(w) > 1 {
			fmt.Sscan(w[1:], &n)
		}
		switch w[0] {
		case '@':
			p.Annotations[batchv1.JobCompletionIndexAnnotation] = w[1:]
		case 'f':
			p.Annotations[batchv1.JobIndexFailureCountAnnotation] = w[1:]
		case 'x':
			status.State.Terminated = &corev1.ContainerStateTerminated{ExitCode: int32(n)}
		case 'r':
			status.RestartCount = int32(n)
		case '-':
			p.Finalizers = nil
		case 'd':
			p.DeletionTimestamp = &metav1.Time{Time: ended}
		case 'c':
			p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue})
		case '~':
			ended = noon.Add(-time.Duration(n) * time.Second)
		}
	}
	if p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded {
		if status.State.Terminated == nil {
			status.State.Terminated = &corev1.ContainerStateTerminated{}
		}
		status.State.Terminated.FinishedAt = metav1.NewTime(ended)
	}
	p.Status.ContainerStatuses = []corev1.ContainerStatus{status}
	return p
}

func passOf(job *batchv1.Job, texts []string) *pass {
	var list []*corev1.Pod
	for i, t := range texts {
		list = append(list, podOf(i, t))
	}
	return newPass(job, list, nil, backoff{}, noon)
}

func indexedJob(completions, parallelism int32) *batchv1.Job {
	j := plainJob(completions, parallelism)
	j.Spec.CompletionMode = ptr.To(batchv1.IndexedCompletion)
	return j
}

func plainJob(completions, parallelism int32) *batchv1.Job {
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: "j", Namespace: "ns", UID: "job"},
		Spec: batchv1.JobSpec{
			Completions: &completions, Parallelism: &parallelism, BackoffLimit: ptr.To[int32](6),
			Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever}},
		},
		Status: batchv1.JobStatus{StartTime: &metav1.Time{Time: noon.Add(-time.Hour)}},
	}
}

func with(j *batchv1.Job, fn func(*batchv1.Job)) *batchv1.Job {
	fn(j)
	return j
}

// Each case says what one look at a job leads to: how it ends, how many pods
// are made (with which indexes) or removed, when to look again.
func TestDecisions(t *testing.T) {
	policy := func(rules ...batchv1.PodFailurePolicyRule) func(*batchv1.Job) {
		return func(j *batchv1.Job) {
			j.Spec.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: rules}
			j.Spec.PodReplacementPolicy = ptr.To(batchv1.Failed)
		}
	}
	onCode := func(a batchv1.PodFailurePolicyAction, codes ...int32) batchv1.PodFailurePolicyRule {
		return batchv1.PodFailurePolicyRule{Action: a, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{
			Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: codes,
		}}
	}
	perIndex := func(limit int32) func(*batchv1.Job) {
		return func(j *batchv1.Job) {
			j.Spec.BackoffLimitPerIndex = &limit
			j.Spec.BackoffLimit = ptr.To[int32](1 << 30)
		}
	}
	for _, c := range []struct {
		name string
		job  *batchv1.Job
		pods []string
		want string
	}{
		{"a new job", plainJob(3, 2), nil, "create 2"},
		{"no more than is left", plainJob(3, 3), []string{"Succeeded", "Running"}, "create 1"},
		{"all have succeeded", plainJob(2, 2), []string{"Succeeded", "Succeeded"}, "end SuccessCriteriaMet CompletionsReached"},
		{"one still runs", plainJob(1, 2), []string{"Succeeded", "Running"}, "remove p1"},
		{"the younger stages go first", plainJob(9, 1), []string{"Running", "Pending"}, "remove p1"},
		{"without a number any success will do", with(plainJob(0, 2), func(j *batchv1.Job) { j.Spec.Completions = nil }),
			[]string{"Succeeded", "Running"}, ""},
		{"what was counted counts once", with(plainJob(5, 5), func(j *batchv1.Job) {
			j.Status.Succeeded = 2
			j.Status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{Succeeded: []types.UID{"u0"}}
		}), []string{"Succeeded", "Succeeded", "Succeeded -"}, "create 1"},
		{"backoff after a failure", plainJob(1, 1), []string{"Failed ~4"}, "wait 6s"},
		{"backoff is over", plainJob(1, 1), []string{"Failed ~11"}, "create 1"},
		{"backoff doubles", plainJob(1, 1), []string{"Failed ~30", "Failed ~15", "Failed ~10"}, "wait 30s"},
		{"a success resets the backoff", plainJob(2, 1), []string{"Failed ~5", "Succeeded ~4"}, "create 1"},
		{"a deleted pod is replaced", plainJob(1, 1), []string{"Running d ~60"}, "create 1"},
		{"or not until it has ended", with(plainJob(1, 1), func(j *batchv1.Job) { j.Spec.PodReplacementPolicy = ptr.To(batchv1.Failed) }),
			[]string{"Running d ~60"}, ""},
		{"too many failures", with(plainJob(1, 1), func(j *batchv1.Job) { j.Spec.BackoffLimit = ptr.To[int32](1) }),
			[]string{"Failed", "Failed"}, "end FailureTarget BackoffLimitExceeded"},
		{"too many restarts", with(plainJob(1, 1), func(j *batchv1.Job) {
			j.Spec.BackoffLimit = ptr.To[int32](3)
			j.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
		}), []string{"Running r3"}, "end FailureTarget BackoffLimitExceeded"},
		{"too late", with(plainJob(1, 1), func(j *batchv1.Job) { j.Spec.ActiveDeadlineSeconds = ptr.To[int64](3600) }),
			[]string{"Running"}, "end FailureTarget DeadlineExceeded"},
		{"soon too late", with(plainJob(1, 1), func(j *batchv1.Job) { j.Spec.ActiveDeadlineSeconds = ptr.To[int64](3605) }),
			[]string{"Running"}, "wait 5s"},
		{"an endless deadline", with(plainJob(1, 1), func(j *batchv1.Job) { j.Spec.ActiveDeadlineSeconds = ptr.To[int64](1 << 62) }),
			[]string{"Running"}, "wait 875999h0m0s"},
		{"suspended", with(plainJob(3, 3), func(j *batchv1.Job) { j.Spec.Suspend = ptr.To(true) }), []string{"Running", "Pending"}, "remove p1 p0"},
		{"scaled to nothing", plainJob(3, 0), []string{"Running"}, "remove p0"},
		{"decided before", with(plainJob(3, 3), func(j *batchv1.Job) {
			j.Status.Conditions = []batchv1.JobCondition{{Type: batchv1.JobFailureTarget, Status: corev1.ConditionTrue, Reason: "Why"}}
		}), nil, "end Failed Why"},

		{"indexes", indexedJob(5, 4), []string{"Running @1", "Succeeded @0"}, "create 3 [2 3 4]"},
		{"indexes counted before", with(indexedJob(6, 6), func(j *batchv1.Job) { j.Status.CompletedIndexes = "0,2-3" }), []string{"Running @1"}, "create 2 [4 5]"},
		{"doubled and wrong indexes", indexedJob(3, 3), []string{"Running @1", "Pending @1", "Running", "Running @7", "Running @x"}, "remove p4 p3 p2 p1"},
		{"an index that is deleted runs again", indexedJob(1, 1), []string{"Running @0 d ~60"}, "create 1 [0]"},
		{"all indexes", indexedJob(2, 2), []string{"Succeeded @0", "Succeeded @1"}, "end SuccessCriteriaMet CompletionsReached"},
		{"an index that succeeds twice is one", indexedJob(2, 2), []string{"Succeeded @0", "Succeeded @0"}, "create 1 [1]"},

		{"an index fails", with(indexedJob(2, 2), perIndex(0)), []string{"Failed @0", "Running @1"}, ""},
		{"an index is tried again", with(indexedJob(2, 2), perIndex(1)), []string{"Failed @0", "Running @1"}, "create 1 [0] failures 1"},
		{"after its backoff", with(indexedJob(2, 2), perIndex(3)), []string{"Failed @0 f1 ~15", "Running @1"}, "wait 5s"},
		{"the others need not wait", with(indexedJob(3, 3), perIndex(3)), []string{"Failed @0 ~1", "Running @1"}, "create 1 [2] wait 9s"},
		{"failed indexes", with(indexedJob(2, 2), perIndex(0)), []string{"Failed @0", "Succeeded @1"}, "end FailureTarget FailedIndexes"},
		{"too many failed indexes", with(with(indexedJob(9, 2), perIndex(0)), func(j *batchv1.Job) { j.Spec.MaxFailedIndexes = ptr.To[int32](1) }),
			[]string{"Failed @0", "Failed @1", "Running @2"}, "end FailureTarget MaxFailedIndexesExceeded"},

		{"policy: fail the job", with(plainJob(1, 1), policy(onCode(batchv1.PodFailurePolicyActionFailJob, 3, 4))), []string{"Failed x4"},
			"end FailureTarget PodFailurePolicy: Container c for pod ns/p0 failed with exit code 4 matching FailJob rule at index 0"},
		{"policy: another code", with(plainJob(1, 1), policy(onCode(batchv1.PodFailurePolicyActionFailJob, 3))), []string{"Failed x4"}, "create 1"},
		{"policy: ignore", with(with(plainJob(1, 1), policy(batchv1.PodFailurePolicyRule{
			Action:          batchv1.PodFailurePolicyActionIgnore,
			OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}},
		})), func(j *batchv1.Job) { j.Spec.BackoffLimit = ptr.To[int32](0) }), []string{"Failed x4 c"}, "create 1"},
		{"policy: fail the index", with(with(indexedJob(2, 2), perIndex(5)), policy(onCode(batchv1.PodFailurePolicyActionFailIndex, 9))),
			[]string{"Failed @0 x9", "Succeeded @1"}, "end FailureTarget FailedIndexes"},

		{"success policy: indexes", with(indexedJob(5, 2), func(j *batchv1.Job) {
			j.Spec.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{
				{SucceededCount: ptr.To[int32](4)}, {SucceededIndexes: ptr.To("0,2-4"), SucceededCount: ptr.To[int32](2)}}}
		}), []string{"Succeeded @3", "Succeeded @0", "Succeeded @1"}, "end SuccessCriteriaMet SuccessPolicy: Matched rules at index 1"},
		{"success policy: not yet", with(indexedJob(5, 2), func(j *batchv1.Job) {
			j.Spec.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{{SucceededIndexes: ptr.To("0-1")}}}
		}), []string{"Succeeded @0", "Running @1"}, "create 1 [2]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := passOf(c.job, c.pods)
			if got := outcome(p); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func outcome(p *pass) string {
	var out []string
	p.evaluate()
	if p.finished == nil {
		todo := p.plan()
		if len(todo.remove) > 0 {
			out = append(out, "remove")
			for _, pod := range todo.remove {
				out = append(out, pod.Name)
			}
		}
		if todo.create > 0 {
			out = append(out, fmt.Sprint("create ", todo.create))
		}
		if len(todo.indexes) > 0 {
			out = append(out, fmt.Sprint(todo.indexes))
			if n := p.newPod(todo.indexes[0]).Annotations[batchv1.JobIndexFailureCountAnnotation]; n > "0" {
				out = append(out, "failures "+n)
			}
		}
		if todo.create == 0 && todo.remove == nil {
			p.checkComplete()
		}
	}
	if f := p.finished; f != nil {
		end := fmt.Sprintf("end %s %s", f.Type, f.Reason)
		if strings.HasSuffix(f.Reason, "Policy") {
			end += ": " + f.Message
		}
		return end
	}
	if p.again > 0 {
		out = append(out, "wait "+p.again.String())
	}
	return strings.Join(out, " ")
}

// What a status tells of pods, over the three writes that count them.
func TestAccounts(t *testing.T) {
	job := plainJob(5, 5)
	job.Status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{Failed: []types.UID{"gone", "u2"}}
	p := passOf(job, []string{"Succeeded", "Running", "Failed", "Running d", "Succeeded -"})
	held := map[types.UID]bool{"u0": true, "u1": true, "u2": true, "u3": true}
	p.evaluate()
	p.settle(setOf(held))
	release, more := p.account()
	names := func() (out []string) {
		for _, pod := range release {
			out = append(out, pod.Name)
		}
		return out
	}()
	if s := job.Status; s.Failed != 1 || !slices.Equal(s.UncountedTerminatedPods.Failed, []types.UID{"u2", "u3"}) ||
		!slices.Equal(s.UncountedTerminatedPods.Succeeded, []types.UID{"u0"}) || !slices.Equal(names, []string{"p0", "p2", "p3"}) || more || !p.flush {
		t.Fatalf("status %+v, released %v", s, names)
	}
	p.settle(setOf(map[types.UID]bool{"u1": true}))
	if s := job.Status; s.Failed != 3 || s.Succeeded != 1 || len(s.UncountedTerminatedPods.Failed)+len(s.UncountedTerminatedPods.Succeeded) != 0 {
		t.Fatalf("status %+v", s)
	}
}

func TestIntervals(t *testing.T) {
	s := parseIntervals("0,1,3-5,9-20,x,7,30", 13)
	if got := s.String(); got != "0,1,3-5,9-12" || s.total() != 9 {
		t.Errorf("%s, %d", got, s.total())
	}
	for ix, want := range map[int]bool{0: true, 1: true, 2: false, 3: true, 5: true, 6: false, 12: true, 13: false} {
		if s.has(ix) != want {
			t.Errorf("has %d", ix)
		}
	}
	if got := s.with([]int{2, 7, 7, 13}).String(); got != "0-5,7,9-13" {
		t.Error(got)
	}
	if got := s.missing(3, 13); !slices.Equal(got, []int{2, 6, 7}) {
		t.Error(got)
	}
	if got := s.common(parseIntervals("1-4,11,12", 13)); got != 5 {
		t.Error(got)
	}
	if got := indexedPrefix(strings.Repeat("n", 63), "12"); len(got) != maxPrefix || !strings.HasSuffix(got, "n-12-") {
		t.Error(got)
	}
}

func setOf(uids map[types.UID]bool) sets.Set[types.UID] { return sets.KeySet(uids) }
