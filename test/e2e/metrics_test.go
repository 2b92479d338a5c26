package e2e

import (
	"fmt"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"
)

// users are a pod that burns CPU up to its limit and one that holds memory.
const users = `
apiVersion: v1
kind: Pod
metadata: {name: burns, labels: {app: users}}
spec:
  containers:
  - name: c
    image: proa.dev/e2e/busybox:1
    command: [sh, -c, "while :; do :; done"]
    resources: {limits: {cpu: 100m, memory: 20Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: holds, labels: {app: users}}
spec:
  containers:
  - name: c
    image: proa.dev/e2e/busybox:1
    command: [sh, -c, "dd if=/dev/zero of=/dev/shm/x bs=1M count=40 && exec sleep 3600"]
`

// top is what kubectl top says of a pod: millicores and mebibytes.
func (e *env) top(name string) (cpu, memory int64, err error) {
	out, err := e.try("top", "pod", name, "--no-headers")
	if err != nil {
		return 0, 0, err
	}
	fields := strings.Fields(out)
	if len(fields) < 3 {
		return 0, 0, fmt.Errorf("%q", out)
	}
	c, err := resource.ParseQuantity(fields[1])
	if err != nil {
		return 0, 0, err
	}
	m, err := resource.ParseQuantity(fields[len(fields)-1])
	return c.MilliValue(), m.Value() >> 20, err
}

func TestTop(t *testing.T) {
	e := newEnv(t)
	e.apply(users)
	e.kubectl("wait", "--for=condition=Ready", "pod", "-l", "app=users", "--timeout=60s")
	var last string
	defer func() {
		if t.Failed() {
			t.Log("kubectl top last said:", last)
		}
	}()
	e.until("what burns shows what it burns", func() bool {
		cpu, memory, err := e.top("burns")
		last = fmt.Sprint(cpu, "m ", memory, "Mi ", err)
		return err == nil && cpu >= 60 && cpu <= 130 && memory < 20
	})
	e.until("what holds memory shows what it holds", func() bool {
		cpu, memory, err := e.top("holds")
		last = fmt.Sprint(cpu, "m ", memory, "Mi ", err)
		return err == nil && cpu < 60 && memory >= 40 && memory < 50
	})
	lines := strings.Split(e.kubectl("top", "pods", "-l", "app=users", "--sort-by=memory", "--containers"), "\n")
	if len(lines) != 3 || strings.Join(strings.Fields(lines[0]), " ") != "POD NAME CPU(cores) MEMORY(bytes)" || !strings.HasPrefix(lines[1], "holds ") {
		t.Errorf("%q", lines)
	}
	if out := e.kubectl("top", "nodes"); !strings.HasPrefix(out, "NAME") || !strings.Contains(out, "%") {
		t.Error(out)
	}
	if out := e.kubectl("get", "podmetrics", "burns"); !strings.HasPrefix(out, "NAME    CPU ") {
		t.Error(out)
	}
	if out, err := e.try("get", "podmetrics", "gone"); err == nil || !strings.Contains(err.Error(), "NotFound") {
		t.Errorf("%s %v", out, err)
	}
	if out := e.kubectl("get", "pods", "burns", "-o", "jsonpath={.apiVersion}"); out != "v1" {
		t.Errorf("a bare name means pods of %s", out)
	}
}

// load burns CPU until it is told to stop.
const load = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: load}
spec:
  selector: {matchLabels: {app: load}}
  template:
    metadata: {labels: {app: load}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: c
        image: proa.dev/e2e/busybox:1
        command: [sh, -c, "until [ -e /stop/now ]; do :; done; exec sleep 3600"]
        resources: {requests: {cpu: 50m}, limits: {cpu: 50m}}
        volumeMounts: [{name: stop, mountPath: /stop}]
      volumes: [{name: stop, configMap: {name: stop, optional: true}}]
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: load}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: load}
  minReplicas: 1
  maxReplicas: 2
  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}]
  behavior: {scaleDown: {stabilizationWindowSeconds: 0}}
`

func TestAutoscaleByLoad(t *testing.T) {
	e := newEnv(t)
	e.apply(load)
	e.kubectl("wait", "--for=jsonpath={.status.readyReplicas}=2", "deploy/load", "--timeout=120s")
	e.kubectl("create", "configmap", "stop", "--from-literal=now=")
	e.kubectl("wait", "--for=jsonpath={.status.replicas}=1", "deploy/load", "--timeout=240s")
}
