package e2e

import (
	"context"
	"strings"
	"testing"
)

// TestNodes takes the only node out of service, so no other test runs beside it.
func TestNodes(t *testing.T) {
	e := newEnv(t)
	t.Cleanup(func() {
		for _, args := range [][]string{{"uncordon", "node-1"}, {"taint", "node", "node-1", "e2e-"}} {
			if out, err := shared.Kubectl(context.WithoutCancel(t.Context()), nil, args...); err != nil && !strings.Contains(err.Error(), "not found") {
				t.Errorf("%v: %s", err, out)
			}
		}
	})
	e.apply(strings.Replace(web, "lifecycle: {preStop: {sleep: {seconds: 2}}}", "", 1) + "---" + talker)
	e.kubectl("rollout", "status", "deploy/web", "--timeout=60s")

	has(t, "cordon", e.kubectl("cordon", "node-1"), "node/node-1 cordoned")
	has(t, "cordon again", e.kubectl("cordon", "node-1"), "node/node-1 already cordoned")
	has(t, "get nodes", e.kubectl("get", "nodes"), "Ready,SchedulingDisabled")
	e.kubectl("run", "waits", "--image="+busybox, "--", "sh", "-c", "trap 'exit 0' TERM; sleep 86400 & wait")
	e.until("a pod waits for a node", func() bool {
		return strings.Contains(e.kubectl("events", "--for", "pod/waits"), "FailedScheduling   Pod/waits   0/1 nodes are available: 1 node(s) were unschedulable.")
	})
	e.kubectl("uncordon", "node-1")
	e.kubectl("wait", "--for=condition=Ready", "pod/waits", "--timeout=60s")

	e.fails("cannot delete Pods that declare no controller (use --force to override)", "drain", "node-1", "--ignore-daemonsets")
	has(t, "drain", e.kubectl("drain", "node-1", "--force", "--delete-emptydir-data", "--ignore-daemonsets", "--timeout=60s"),
		"node/node-1 drained", "pod/talker evicted")
	if got := e.kubectl("get", "pods", "-o", "jsonpath={.items[*].status.phase}"); got != "Pending Pending" {
		t.Errorf("after the drain: %q", got)
	}
	e.kubectl("uncordon", "node-1")
	e.kubectl("rollout", "status", "deploy/web", "--timeout=60s")

	e.kubectl("taint", "node", "node-1", "e2e=v:NoExecute")
	e.until("the taint drives the pods away", func() bool {
		return e.kubectl("get", "pods", "--field-selector=spec.nodeName=node-1", "-o", "name") == ""
	})
	e.until("and says why no other comes", func() bool {
		return strings.Contains(e.kubectl("events", "--types=Warning"), "0/1 nodes are available: 1 node(s) had untolerated taint")
	})
	e.kubectl("taint", "node", "node-1", "e2e:NoExecute-")
	e.kubectl("rollout", "status", "deploy/web", "--timeout=60s")
}
