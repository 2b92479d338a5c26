package batch_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/batch"
)

// load makes an object as it is after creation, but for its validation.
func load(t *testing.T, k *api.Kind, manifest string) api.Object {
	t.Helper()
	obj := k.New()
	if err := yaml.UnmarshalStrict([]byte(manifest), obj); err != nil {
		t.Fatalf("%v in\n%s", err, manifest)
	}
	obj.SetUID("u")
	k.Default(obj)
	return obj
}

// created is load and what creation does, but the manifest's status stays.
func created(t *testing.T, k *api.Kind, manifest string) api.Object {
	t.Helper()
	obj := load(t, k, manifest)
	if j, ok := obj.(*batchv1.Job); ok {
		status := j.Status
		k.PrepareCreate(j)
		j.Status = status
		return j
	}
	k.PrepareCreate(obj)
	return obj
}

func texts(errs field.ErrorList) []string {
	var out []string
	for _, e := range errs {
		out = append(out, e.Error())
	}
	return out
}

func check(t *testing.T, errs field.ErrorList, want []string) {
	t.Helper()
	if diff := cmp.Diff(want, texts(errs)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

const template = "template: {spec: {restartPolicy: Never, containers: [{name: c, image: i, imagePullPolicy: Always, terminationMessagePolicy: File}]}}"

func job(spec string) string {
	return "metadata: {name: j}\nspec:\n  " + strings.ReplaceAll(strings.TrimSpace(spec+"\n"+template), "\n", "\n  ")
}

func TestJobDefaults(t *testing.T) {
	k := batch.Job()
	j := created(t, k, job("backoffLimitPerIndex: 1\npodFailurePolicy: {rules: [{action: Ignore, onPodConditions: [{type: DisruptionTarget}]}]}")).(*batchv1.Job)
	s := j.Spec
	if *s.Completions != 1 || *s.Parallelism != 1 || *s.BackoffLimit != 1<<31-1 || *s.CompletionMode != "NonIndexed" || *s.Suspend || *s.ManualSelector ||
		*s.PodReplacementPolicy != "Failed" || s.PodFailurePolicy.Rules[0].OnPodConditions[0].Status != "True" || j.Generation != 1 {
		t.Errorf("%+v", s)
	}
	want := map[string]string{"batch.kubernetes.io/job-name": "j", "job-name": "j", "batch.kubernetes.io/controller-uid": "u", "controller-uid": "u"}
	if diff := cmp.Diff(want, s.Template.Labels) + cmp.Diff(want, j.Labels) + cmp.Diff(map[string]string{"batch.kubernetes.io/controller-uid": "u"}, s.Selector.MatchLabels); diff != "" {
		t.Error(diff)
	}
	j = created(t, k, job("parallelism: 3")).(*batchv1.Job)
	if j.Spec.Completions != nil || *j.Spec.BackoffLimit != 6 || *j.Spec.PodReplacementPolicy != "TerminatingOrFailed" {
		t.Errorf("%+v", j.Spec)
	}
}

func TestJobValidation(t *testing.T) {
	k := batch.Job()
	for _, c := range []struct {
		name, manifest string
		want           []string
	}{
		{"plain", job(""), nil},
		{"restarts", "metadata: {name: j}\nspec: {template: {spec: {containers: [{name: c, image: i}]}}}", []string{
			`spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"`}},
		{"numbers", job("parallelism: -1\ncompletions: -2\nbackoffLimit: -3\nactiveDeadlineSeconds: -4\nttlSecondsAfterFinished: -5"), []string{
			`spec.parallelism: Invalid value: -1: must be greater than or equal to 0`,
			`spec.completions: Invalid value: -2: must be greater than or equal to 0`,
			`spec.activeDeadlineSeconds: Invalid value: -4: must be greater than or equal to 0`,
			`spec.backoffLimit: Invalid value: -3: must be greater than or equal to 0`,
			`spec.ttlSecondsAfterFinished: Invalid value: -5: must be greater than or equal to 0`,
		}},
		{"indexes without indexes", job("backoffLimitPerIndex: 1\nmaxFailedIndexes: 1\nsuccessPolicy: {}"), []string{
			`spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode`,
			`spec.maxFailedIndexes: Invalid value: 1: requires indexed completion mode`,
			`spec.successPolicy: Invalid value: {"rules":null}: requires indexed completion mode`,
		}},
		{"an index too many", job("completionMode: Indexed\nparallelism: 100001\nmaxFailedIndexes: 100001\nsuccessPolicy: {rules: [{succeededIndexes: x}]}"), []string{
			`spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified`,
			`spec.completions: Required value: when completion mode is Indexed`,
			`spec.parallelism: Invalid value: 100001: must be less than or equal to 100000 when completion mode is Indexed`,
			`spec.maxFailedIndexes: Invalid value: 100001: must be less than or equal to 100000`,
		}},
		{"many completions", job("completionMode: Indexed\ncompletions: 100001\nparallelism: 10001\nbackoffLimitPerIndex: 1"), []string{
			`spec.maxFailedIndexes: Required value: must be specified when completions is above 100000`,
			`spec.parallelism: Invalid value: 10001: must be less than or equal to 10000 when completions are above 100000 and used with backoff limit per index`,
		}},
		{"policies", job(`completionMode: Indexed
completions: 5
podReplacementPolicy: TerminatingOrFailed
podFailurePolicy:
  rules:
  - {action: FailIndex, onExitCodes: {operator: In, containerName: x, values: [2, 0, 2]}}
  - {action: Nope, onExitCodes: {values: []}, onPodConditions: [{type: "-", status: x}]}
  - {}
successPolicy:
  rules: [{}, {succeededIndexes: "1-0"}, {succeededIndexes: "1,3-4", succeededCount: 4}, {succeededCount: 6}, {succeededIndexes: "1-2-3"}, {succeededIndexes: "7"}, {succeededIndexes: "a"}]`), []string{
			`spec.podFailurePolicy.rules[0].action: Invalid value: "FailIndex": requires the backoffLimitPerIndex to be set`,
			`spec.podFailurePolicy.rules[0].onExitCodes.containerName: Invalid value: "x": must be one of the container or initContainer names in the pod template`,
			`spec.podFailurePolicy.rules[0].onExitCodes.values[1]: Invalid value: 0: must not be 0 for the In operator`,
			`spec.podFailurePolicy.rules[0].onExitCodes.values[2]: Duplicate value: 2`,
			`spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: [2,0,2]: must be ordered`,
			`spec.podFailurePolicy.rules[1].action: Unsupported value: "Nope": supported values: "Count", "FailIndex", "FailJob", "Ignore"`,
			`spec.podFailurePolicy.rules[1].onExitCodes.operator: Required value: valid values: ["In" "NotIn"]`,
			`spec.podFailurePolicy.rules[1].onExitCodes.values: Invalid value: []: at least one value is required`,
			`spec.podFailurePolicy.rules[1].onPodConditions[0].type: Invalid value: "-": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')`,
			`spec.podFailurePolicy.rules[1].onPodConditions[0].status: Unsupported value: "x": supported values: "False", "True", "Unknown"`,
			`spec.podFailurePolicy.rules[1]: Invalid value: specifying both OnExitCodes and OnPodConditions is not supported`,
			`spec.podFailurePolicy.rules[2].action: Required value: valid values: ["Count" "FailIndex" "FailJob" "Ignore"]`,
			`spec.podFailurePolicy.rules[2]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required`,
			`spec.successPolicy.rules[0]: Required value: at least one of succeededCount or succeededIndexes must be specified`,
			`spec.successPolicy.rules[1].succeededIndexes: Invalid value: "1-0": error parsing succeededIndexes: non-increasing order, previous: 1, current: 0`,
			`spec.successPolicy.rules[2].succeededCount: Invalid value: 4: must be less than or equal to 3 (the number of indexes in the specified succeededIndexes field)`,
			`spec.successPolicy.rules[3].succeededCount: Invalid value: 6: must be less than or equal to 5 (the number of specified completions)`,
			`spec.successPolicy.rules[4].succeededIndexes: Invalid value: "1-2-3": error parsing succeededIndexes: the fragment "1-2-3" violates the requirement that an index interval can have at most two parts separated by '-'`,
			`spec.successPolicy.rules[5].succeededIndexes: Invalid value: "7": error parsing succeededIndexes: too large index: "7"`,
			`spec.successPolicy.rules[6].succeededIndexes: Invalid value: "a": error parsing succeededIndexes: cannot convert string to integer for index: "a"`,
			`spec.podReplacementPolicy: Unsupported value: "TerminatingOrFailed": supported values: "Failed"`,
		}},
		{"manager", job("managedBy: x"), []string{`spec.managedBy: Invalid value: "x": must be a domain-prefixed path (such as "acme.io/foo")`}},
		{"a name too long for hosts", "metadata: {name: " + strings.Repeat("n", 62) + "}\nspec:\n  completionMode: Indexed\n  completions: 11\n  " + template, []string{
			`metadata.name: Invalid value: "` + strings.Repeat("n", 62) + `": will not able to create pod with invalid DNS label: ` + strings.Repeat("n", 62) + "-10"}},
		{"a selector of one's own", job("selector: {matchLabels: {a: b}}"), []string{
			"spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\",\"batch.kubernetes.io/controller-uid\":\"u\"}}: `selector` not auto-generated",
			"spec.template.metadata.labels: Invalid value: {\"batch.kubernetes.io/controller-uid\":\"u\",\"batch.kubernetes.io/job-name\":\"j\",\"controller-uid\":\"u\",\"job-name\":\"j\"}: `selector` does not match template `labels`",
		}},
		{"a manual selector that is missing", job("manualSelector: true"), []string{`spec.selector: Required value`,
			"spec.template.metadata.labels: Invalid value: null: `selector` does not match template `labels`"}},
	} {
		t.Run(c.name, func(t *testing.T) { check(t, k.Validate(created(t, k, c.manifest)), c.want) })
	}
}

func TestJobUpdate(t *testing.T) {
	k := batch.Job()
	const started, halted = "\nstatus: {startTime: '2030-01-01T00:00:00Z', active: 1}",
		"\nstatus: {conditions: [{type: Suspended, status: 'True'}], startTime: '2030-01-01T00:00:00Z'}"
	for _, c := range []struct {
		name, old, now string
		want           []string // their beginnings
	}{
		{"parallelism", job("") + started, job("completions: 1\nparallelism: 5"), nil},
		{"what is fixed", job("completions: 3"), job("completions: 4\ncompletionMode: Indexed\nmanagedBy: a.b/c\nbackoffLimitPerIndex: 1\npodFailurePolicy: {rules: []}\nsuccessPolicy: {rules: [{succeededCount: 1}]}"), []string{
			`spec.completions: Invalid value: 4: can only be modified in tandem with spec.parallelism`,
			`spec.completionMode: Invalid value: "Indexed": field is immutable`, `spec.podFailurePolicy: Invalid value`,
			`spec.backoffLimitPerIndex: Invalid value: 1: field is immutable`, `spec.managedBy: Invalid value: "a.b/c": field is immutable`,
			`spec.successPolicy: Invalid value`}},
		{"completions", job("completions: 3"), job("completions: 4"), []string{`spec.completions: Invalid value: 4: field is immutable`}},
		{"both of an indexed job", job("completionMode: Indexed\ncompletions: 3\nparallelism: 3"), job("completionMode: Indexed\ncompletions: 4\nparallelism: 4"), nil},
		{"the template of one that runs", job("") + started, strings.Replace(job(""), "name: c", "name: d", 1), []string{`spec.template: Invalid value`}},
		{"resources of one that runs", job("") + started, strings.Replace(job(""), "name: c", "name: c, resources: {limits: {cpu: 1}}", 1), []string{`spec.template: Invalid value`}},
		{"of one that is suspended", job("suspend: true"), strings.Replace(job("suspend: true"), "name: c", "name: c, resources: {limits: {cpu: 1}}", 1), nil},
		{"of one that was", job("suspend: true") + halted, strings.Replace(job(""), "name: c", "name: c, resources: {limits: {cpu: 1}}", 1), nil},
		{"whose pods are there still", job("suspend: true") + started, strings.Replace(job("suspend: true"), "name: c", "name: c, resources: {limits: {cpu: 1}}", 1), []string{`spec.template: Invalid value`}},
		{"where it may run", job("suspend: true"), strings.Replace(job("suspend: true"), "restartPolicy", "nodeSelector: {a: b}, tolerations: [{key: k, operator: Exists}], affinity: {nodeAffinity: {}}, restartPolicy", 1), nil},
		{"but not what", job("suspend: true"), strings.Replace(job("suspend: true"), "image: i", "image: j", 1), []string{`spec.template.spec: Invalid value`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			errs := texts(k.ValidateUpdate(created(t, k, c.now), created(t, k, c.old)))
			if len(errs) != len(c.want) {
				t.Fatalf("%d causes: %q", len(errs), errs)
			}
			for i, want := range c.want {
				if !strings.HasPrefix(errs[i], want) {
					t.Errorf("cause %d: %s\nwant %s", i, errs[i], want)
				}
			}
		})
	}
}

func TestJobStatusUpdate(t *testing.T) {
	k := batch.Job()
	const end, begin = "completionTime: '2030-01-01T01:00:00Z'", "startTime: '2030-01-01T00:00:00Z'"
	cond := func(types ...string) string {
		var out []string
		for _, c := range types {
			out = append(out, "{type: "+c+", status: 'True'}")
		}
		return "conditions: [" + strings.Join(out, ", ") + "]"
	}
	for _, c := range []struct {
		name, spec, old, now string
		want                 []string
	}{
		{"complete", "", begin, begin + ", " + end + ", succeeded: 1, " + cond("SuccessCriteriaMet", "Complete"), nil},
		{"complete without all that", "", "", "active: 1, ready: 2, " + cond("Complete"), []string{
			`status.completionTime: Required value: completionTime is required for Complete jobs`,
			`status.conditions: Invalid value: cannot set Complete=True condition without the SuccessCriteriaMet=true condition`,
			`status.active: Invalid value: 1: active>0 is invalid for finished job`,
			`status.startTime: Required value: startTime is required for finished job`,
			`status.ready: Invalid value: 2: cannot set more ready pods than active`,
		}},
		{"both ends", "", begin, begin + ", terminating: 1, uncountedTerminatedPods: {failed: [a, a, ''], succeeded: [a]}, " + end + ", " + cond("Complete", "Failed", "FailureTarget", "SuccessCriteriaMet"), []string{
			`status.uncountedTerminatedPods.failed[0]: Duplicate value: "a"`, `status.uncountedTerminatedPods.failed[1]: Duplicate value: "a"`,
			`status.uncountedTerminatedPods.failed[2]: Invalid value: "": must not be empty`,
			`status.conditions: Invalid value: cannot set Complete=True and Failed=true conditions`,
			`status.conditions: Invalid value: cannot set Complete=True and FailureTarget=true conditions`,
			`status.uncountedTerminatedPods: Invalid value: {"succeeded":["a"],"failed":["a","a",""]}: must be empty for finished job`,
			`status.terminating: Invalid value: 1: terminating>0 is invalid for finished job`,
			`status.conditions: Invalid value: cannot set SuccessCriteriaMet=True and Failed=true conditions`,
			`status.conditions: Invalid value: cannot set SuccessCriteriaMet=True and FailureTarget=true conditions`,
		}},
		{"back from the end", "", begin + ", failed: 2, succeeded: 3, " + cond("FailureTarget", "Failed"), begin + ", failed: 1, succeeded: 2", []string{
			`status.conditions: Invalid value: cannot disable the terminal Failed=True condition`,
			`status.conditions: Invalid value: cannot disable the terminal FailureTarget=True condition`,
			`status.failed: Invalid value: 1: cannot decrease the failed counter`,
			`status.succeeded: Invalid value: 2: cannot decrease the succeeded counter`,
		}},
		{"another begin", "", begin, "startTime: '2030-01-01T05:00:00Z'", []string{
			`status.startTime: Invalid value: "2030-01-01T05:00:00Z": field is immutable for unsuspended job once set`}},
		{"after a suspension", "", begin + ", " + cond("Suspended"), "startTime: '2030-01-01T05:00:00Z', conditions: [{type: Suspended, status: 'False'}]", nil},
		{"indexes of none", "", "", "completedIndexes: '0', failedIndexes: '1'", []string{
			`status.completedIndexes: Invalid value: "0": cannot set non-empty completedIndexes when non-indexed completion mode`,
			`status.failedIndexes: Invalid value: "1": cannot set non-null failedIndexes when backoffLimitPerIndex is null`,
		}},
		{"indexes", "completionMode: Indexed\ncompletions: 9\nparallelism: 9\nbackoffLimitPerIndex: 1", "succeeded: 9", "succeeded: 2, completedIndexes: '0-2,5', failedIndexes: '3,5-9'", []string{
			`status.failedIndexes: Invalid value: "3,5-9": error parsing failedIndexes: too large index: "9"`}},
		{"indexes twice", "completionMode: Indexed\ncompletions: 10\nbackoffLimitPerIndex: 1", "", "completedIndexes: '0-2,5', failedIndexes: '3,5-9'", []string{
			`status.failedIndexes: Invalid value: "3,5-9": failedIndexes and completedIndexes overlap at index: 5`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			with := func(status string) api.Object { return created(t, k, job(c.spec)+"\nstatus: {"+status+"}") }
			check(t, k.Status.ValidateUpdate(with(c.now), with(c.old)), c.want)
		})
	}
}

func cronJob(name, spec string) string {
	return "metadata: {name: " + name + "}\nspec:\n  " + spec + "\n  jobTemplate: {spec: {" + template + "}}"
}

func TestCronJobValidation(t *testing.T) {
	k := batch.CronJob()
	for _, c := range []struct {
		name, manifest string
		want           []string
	}{
		{"plain", cronJob("c", "schedule: '*/5 * * * *'"), nil},
		{"in a zone", cronJob("c", "schedule: '@daily'\n  timeZone: America/Argentina/Buenos_Aires"), nil},
		{"nothing", cronJob("c", "concurrencyPolicy: x"), []string{
			`spec.schedule: Required value`, `spec.concurrencyPolicy: Unsupported value: "x": supported values: "Allow", "Forbid", "Replace"`}},
		{"a wrong line", cronJob("c", "schedule: '* * * *'"), []string{
			`spec.schedule: Invalid value: "* * * *": expected exactly 5 fields, found 4: [* * * *]`}},
		{"a line that makes the parser panic", cronJob("c", "schedule: TZ=0"), []string{
			`spec.schedule: Invalid value: "TZ=0": invalid schedule format: runtime error: slice bounds out of range [:-1]`,
			`spec.schedule: Invalid value: "TZ=0": cannot use TZ or CRON_TZ in schedule, use timeZone field instead`}},
		{"a zone in the line", cronJob("c", "schedule: 'CRON_TZ=UTC * * * * *'"), []string{
			`spec.schedule: Invalid value: "CRON_TZ=UTC * * * * *": cannot use TZ or CRON_TZ in schedule, use timeZone field instead`}},
		{"empty zone", cronJob("c", "schedule: '@hourly'\n  timeZone: ''"), []string{`spec.timeZone: Invalid value: "": timeZone must be nil or non-empty string`}},
		{"local zone", cronJob("c", "schedule: '@hourly'\n  timeZone: LOCAL"), []string{
			`spec.timeZone: Invalid value: "LOCAL": timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones`,
			`spec.timeZone: Invalid value: "LOCAL": unknown time zone LOCAL`}},
		{"a path", cronJob("c", "schedule: '@hourly'\n  timeZone: ../etc/passwd"), []string{`spec.timeZone: Invalid value: "../etc/passwd": unknown time zone ../etc/passwd`}},
		{"numbers", cronJob("c", "schedule: '@hourly'\n  startingDeadlineSeconds: -1\n  failedJobsHistoryLimit: -2\n  successfulJobsHistoryLimit: -3"), []string{
			`spec.startingDeadlineSeconds: Invalid value: -1: must be greater than or equal to 0`,
			`spec.successfulJobsHistoryLimit: Invalid value: -3: must be greater than or equal to 0`,
			`spec.failedJobsHistoryLimit: Invalid value: -2: must be greater than or equal to 0`}},
		{"long name", cronJob(strings.Repeat("n", 53), "schedule: '@hourly'"), []string{
			`metadata.name: Invalid value: "` + strings.Repeat("n", 53) + `": must be no more than 52 characters`}},
		{"selectors", "metadata: {name: c}\nspec: {schedule: '@hourly', jobTemplate: {spec: {selector: {}, manualSelector: true, " + template + "}}}", []string{
			"spec.jobTemplate.spec.selector: Invalid value: {}: `selector` will be auto-generated",
			`spec.jobTemplate.spec.manualSelector: Unsupported value: true: supported values: "nil", "false"`}},
	} {
		t.Run(c.name, func(t *testing.T) { check(t, k.Validate(created(t, k, c.manifest)), c.want) })
	}
	// What was stored before a rule existed may stay.
	zoned := created(t, k, cronJob(strings.Repeat("n", 60), "schedule: 'TZ=UTC @hourly'"))
	check(t, k.ValidateUpdate(zoned, zoned), nil)
}

func TestColumns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // its clock stands at 2000-01-01
		for _, c := range []struct {
			kind           *api.Kind
			manifest, want string
		}{
			{batch.Job(), job("completions: 3") + "\nstatus: {succeeded: 2, startTime: '1999-12-31T23:58:00Z'}", "j Running 2/3 2m 5m c i batch.kubernetes.io/controller-uid=u"},
			{batch.Job(), job("parallelism: 3") + "\nstatus: {succeeded: 1, startTime: '1999-12-31T23:58:00Z', completionTime: '1999-12-31T23:58:30Z', conditions: [{type: SuccessCriteriaMet, status: 'True'}, {type: Complete, status: 'True'}]}",
				"j Complete 1/1 of 3 30s 5m c i batch.kubernetes.io/controller-uid=u"},
			{batch.Job(), job("suspend: true") + "\nstatus: {conditions: [{type: Suspended, status: 'True'}]}", "j Suspended 0/1  5m c i batch.kubernetes.io/controller-uid=u"},
			{batch.CronJob(), cronJob("c", "schedule: '@hourly'"), "c @hourly <none> False 0 <none> 5m c i <none>"},
		} {
			obj := created(t, c.kind, c.manifest)
			obj.SetCreationTimestamp(metav1.NewTime(time.Now().Add(-5 * time.Minute)))
			var cells []string
			for _, col := range c.kind.TableColumns() {
				v := col.Value(obj)
				if n, ok := v.(int64); ok {
					v = string(rune('0' + n))
				}
				cells = append(cells, v.(string))
			}
			if got := strings.Join(cells, " "); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		}
	})
}
