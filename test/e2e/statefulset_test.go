package e2e

import (
	"strings"
	"testing"
)

// numbered is a StatefulSet whose pods end at once when asked to.
const numbered = `
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, selector: {app: db}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 3
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      containers:
      - name: c
        image: ` + busybox + `
        env: [{name: VERSION, value: "1"}]
        command: [sh, -c, "trap 'exit 0' TERM; sleep 86400 & wait"]
`

func TestStatefulSet(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.apply(numbered)
	versions := func() string {
		return e.kubectl("get", "pods", "--sort-by=.metadata.name", "-o",
			`jsonpath={range .items[*]}{.metadata.name}={.spec.containers[0].env[0].value} {end}`)
	}
	done := func() { e.kubectl("rollout", "status", "sts/db", "--timeout=60s") }
	done()
	has(t, "get", e.kubectl("get", "sts", "db"), "READY", "3/3")
	has(t, "events", e.kubectl("events", "--for", "sts/db"), "SuccessfulCreate", "Pod db-2 in StatefulSet db successful")

	// Names that stay.
	if got := e.kubectl("exec", "db-1", "--", "hostname"); got != "db-1" {
		t.Errorf("host name %q", got)
	}
	e.until("the pods find one another", func() bool {
		out, err := e.try("exec", "db-0", "--", "nslookup", "db-2.db."+e.namespace+".svc.cluster.local")
		return err == nil && strings.Contains(out, e.pod("db-2").Status.PodIP)
	})

	e.kubectl("scale", "sts/db", "--replicas=5")
	done()
	e.kubectl("scale", "sts/db", "--replicas=3")
	e.until("two pods go", func() bool { return versions() == "db-0=1 db-1=1 db-2=1" })

	// A canary, then all.
	e.kubectl("patch", "sts/db", "-p", `{"spec":{"updateStrategy":{"rollingUpdate":{"partition":2}}}}`)
	e.kubectl("set", "env", "sts/db", "VERSION=2")
	has(t, "a partitioned rollout", e.kubectl("rollout", "status", "sts/db", "--timeout=60s"), "partitioned roll out complete: 1 new pods have been updated")
	if got := versions(); got != "db-0=1 db-1=1 db-2=2" {
		t.Errorf("with a partition of 2: %s", got)
	}
	e.kubectl("patch", "sts/db", "-p", `{"spec":{"updateStrategy":{"rollingUpdate":{"partition":0}}}}`)
	done()
	e.until("all are new", func() bool { return versions() == "db-0=2 db-1=2 db-2=2" })
	e.kubectl("rollout", "undo", "sts/db")
	done()
	e.until("all are as before", func() bool { return versions() == "db-0=1 db-1=1 db-2=1" })
	has(t, "history", e.kubectl("rollout", "history", "sts/db"), "2         <none>", "3         <none>")
	has(t, "revisions", e.kubectl("get", "controllerrevisions"), "statefulset.apps/db")

	e.kubectl("delete", "sts", "db", "--cascade=orphan")
	if got := versions(); got != "db-0=1 db-1=1 db-2=1" {
		t.Errorf("orphans: %s", got)
	}
	before := e.pod("db-0").UID
	e.apply(numbered)
	done()
	if e.pod("db-0").UID != before {
		t.Error("an orphan was replaced instead of adopted")
	}
}

const everywhere = `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      containers:
      - name: c
        image: ` + busybox + `
        env: [{name: VERSION, value: "1"}]
        command: [sh, -c, "trap 'exit 0' TERM; sleep 86400 & wait"]
`

func TestDaemonSet(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.apply(everywhere)
	version := func() string {
		return e.kubectl("get", "pods", "-o", `jsonpath={.items[*].spec.containers[0].env[0].value}`)
	}
	done := func() { e.kubectl("rollout", "status", "ds/agent", "--timeout=60s") }
	done()
	has(t, "get", e.kubectl("get", "ds", "agent"), "DESIRED", "agent   1         1         1       1            1           <none>")
	e.kubectl("set", "env", "ds/agent", "VERSION=2")
	done()
	if got := version(); got != "2" {
		t.Errorf("version %s", got)
	}
	e.kubectl("rollout", "undo", "ds/agent")
	done()
	if got := version(); got != "1" {
		t.Errorf("version %s", got)
	}
	e.kubectl("patch", "ds/agent", "--type=merge", "-p", `{"spec":{"updateStrategy":{"rollingUpdate":{"maxSurge":1,"maxUnavailable":0}}}}`)
	e.kubectl("set", "env", "ds/agent", "VERSION=3")
	done()
	e.until("the old pod is gone", func() bool { return version() == "3" })
	// A node that is not meant.
	e.kubectl("patch", "ds/agent", "-p", `{"spec":{"template":{"spec":{"nodeSelector":{"disk":"none"}}}}}`)
	e.until("no pod is left", func() bool { return version() == "" })
	has(t, "get", e.kubectl("get", "ds", "agent"), "agent   0         0         0       0            0           disk=none")
}
