package e2e

import (
	"regexp"
	"strings"
	"testing"
	"time"
)

// jobManifest is a job of one container that runs a script; spec is like
// "completions: 2, parallelism: 2".
func jobManifest(name, spec, script string) string {
	return `
apiVersion: batch/v1
kind: Job
metadata: {name: ` + name + `}
spec:
  ` + strings.ReplaceAll(spec, ", ", "\n  ") + `
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 0
      containers:
      - {name: c, image: ` + busybox + `, command: [sh, -c, '` + script + `']}
`
}

func TestJobs(t *testing.T) {
	e := newEnv(t)
	e.kubectl("create", "job", "hello", "--image="+busybox, "--", "echo", "hello there")
	e.kubectl("wait", "--for=condition=Complete", "job/hello", "--timeout=60s")
	if out := e.kubectl("logs", "job/hello"); out != "hello there" {
		t.Errorf("logs %q", out)
	}
	uid := e.kubectl("get", "job/hello", "-o", "jsonpath={.metadata.uid}")
	for _, c := range []struct{ args, want string }{
		{"get jobs", `(?m)^NAME +STATUS +COMPLETIONS +DURATION +AGE\nhello +Complete +1/1 +\d+s +\d+s$`},
		{"get jobs -o wide", `CONTAINERS +IMAGES +SELECTOR\nhello .* hello +` + busybox + ` +batch.kubernetes.io/controller-uid=` + uid + `$`},
		{"get jobs --field-selector=status.successful=1 -o name", `^job.batch/hello$`},
		{"get pods --show-labels -l job-name=hello", `Completed .*batch.kubernetes.io/controller-uid=` + uid + `,batch.kubernetes.io/job-name=hello,controller-uid=` + uid + `,job-name=hello$`},
		{"describe job hello", `(?s)Pods Statuses: +0 Active \(0 Ready\) / 1 Succeeded / 0 Failed.*SuccessfulCreate .*Created pod: hello-.*Completed .*Job completed`},
		{"get pods -o jsonpath={.items[*].metadata.finalizers}", `^$`},
	} {
		if out := e.kubectl(strings.Fields(c.args)...); !regexp.MustCompile(c.want).MatchString(out) {
			t.Errorf("%s:\n%s\nmatches not %s", c.args, out, c.want)
		}
	}

	// Each index writes what it knows of itself; the third fails.
	e.apply(jobManifest("indexed", "completions: 5, parallelism: 3, completionMode: Indexed, backoffLimitPerIndex: 0",
		`echo $JOB_COMPLETION_INDEX $HOSTNAME; test $JOB_COMPLETION_INDEX != 2`))
	e.kubectl("wait", "--for=condition=Failed", "job/indexed", "--timeout=60s")
	if out := e.kubectl("get", "job/indexed", "-o", "jsonpath={.status.completedIndexes} {.status.failedIndexes} {.status.succeeded} {.status.conditions[*].type} {.status.conditions[1].reason}"); out !=
		"0,1,3,4 2 4 FailureTarget Failed FailedIndexes" {
		t.Error(out)
	}
	if out := e.kubectl("logs", "-l", "batch.kubernetes.io/job-completion-index=3,job-name=indexed"); out != "3 indexed-3" {
		t.Error(out)
	}

	// A suspended job has no pods, and may change where they will run.
	e.apply(jobManifest("idle", "suspend: true, ttlSecondsAfterFinished: 1", "echo ran"))
	e.kubectl("wait", "--for=condition=Suspended", "job/idle", "--timeout=60s")
	e.kubectl("patch", "job/idle", "-p", `{"spec":{"template":{"spec":{"nodeSelector":{"kubernetes.io/os":"linux"}}}}}`)
	if out, err := e.try("patch", "job/idle", "-p", `{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"other"}]}}}}`); err == nil {
		t.Errorf("the image changed: %s", out)
	}
	gone := e.follow(nil, "get", "jobs", "idle", "-w", "--output-watch-events", "--no-headers")
	e.kubectl("patch", "job/idle", "-p", `{"spec":{"suspend":false}}`)
	e.kubectl("wait", "--for=delete", "job/idle", "--timeout=60s")
	e.until("the watch tells of the end", func() bool {
		out := gone.String()
		return strings.Contains(out, "Complete") && strings.Contains(out, "DELETED")
	})
}

func TestJobRunsLongAndEndsByDeadline(t *testing.T) {
	e := newEnv(t)
	e.apply(jobManifest("slow", "completions: 2, parallelism: 2, activeDeadlineSeconds: 3", "sleep 1000"))
	began := time.Now()
	e.kubectl("wait", "--for=condition=Failed", "job/slow", "--timeout=60s")
	if took := time.Since(began); took < 2*time.Second {
		t.Errorf("failed after %s", took)
	}
	if out := e.kubectl("get", "job/slow", "-o", "jsonpath={.status.failed} {.status.conditions[*].reason}"); out != "2 DeadlineExceeded DeadlineExceeded" {
		t.Error(out)
	}
}

func TestCronJobs(t *testing.T) {
	e := newEnv(t)
	e.kubectl("create", "cronjob", "tick", "--image="+busybox, "--schedule=0 0 1 1 *", "--", "date")
	e.kubectl("create", "job", "now", "--from=cronjob/tick")
	e.kubectl("wait", "--for=condition=Complete", "job/now", "--timeout=60s")
	if out := e.kubectl("get", "job/now", "-o", "jsonpath={.metadata.annotations.cronjob\\.kubernetes\\.io/instantiate} {.metadata.ownerReferences[0].kind}"); out != "manual CronJob" {
		t.Error(out)
	}
	for _, c := range []struct{ patch, want string }{
		{`"schedule":"TZ=UTC * * * * *"`, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"},
		{`"schedule":"61 * * * *"`, `spec.schedule: Invalid value: "61 * * * *": end of range (61) above maximum (59): 61`},
		{`"timeZone":"Mars/Olympus"`, `spec.timeZone: Invalid value: "Mars/Olympus": unknown time zone Mars/Olympus`},
	} {
		if out, err := e.try("patch", "cronjob/tick", "-p", `{"spec":{`+c.patch+`}}`); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %s %v", c.patch, out, err)
		}
	}
	e.kubectl("patch", "cronjob/tick", "-p", `{"spec":{"timeZone":"Asia/Tokyo","schedule":"@every 1s"}}`)
	var name string
	e.until("a job starts by itself", func() bool {
		name = regexp.MustCompile(`tick-\d+`).FindString(e.kubectl("get", "jobs", "-o", "name"))
		return name != ""
	})
	e.kubectl("patch", "cronjob/tick", "-p", `{"spec":{"suspend":true}}`)
	e.kubectl("wait", "--for=condition=Complete", "job/"+name, "--timeout=60s")
	e.until("the end is noted", func() bool {
		return regexp.MustCompile(`(?m)^tick +@every 1s +Asia/Tokyo +True +0 +\d+s +`).MatchString(e.kubectl("get", "cronjobs"))
	})
	if out := e.kubectl("describe", "cronjob", "tick"); !strings.Contains(out, "Created job "+name) || !strings.Contains(out, "Saw completed job: "+name+", condition: Complete") {
		t.Error(out)
	}
	e.kubectl("delete", "cronjob", "tick")
	e.until("its jobs and pods go too", func() bool { return e.kubectl("get", "jobs,pods", "-o", "name") == "" })
}
