package nodes

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// keepers are two pods on different nodes, each with a volume of the default
// class, to which every start adds a line.
const keepers = `
apiVersion: v1
kind: Service
metadata: {name: keeper}
spec: {clusterIP: None, selector: {app: keeper}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: keeper}
spec:
  serviceName: keeper
  replicas: 2
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: keeper}}
  template:
    metadata: {labels: {app: keeper}}
    spec:
      terminationGracePeriodSeconds: 0
      affinity:
        podAntiAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
          - {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: keeper}}}
      containers:
      - name: c
        image: proa.dev/nodes/busybox:1
        command: [sh, -c, "hostname >> /data/starts && exec sleep 3600"]
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
`

// volumes of the class local-path are where their pods are, and stay: a pod that
// comes back finds its node and its files, and none of its neighbour's.
func volumes(t *testing.T) {
	apply(t, keepers)
	kubectl(t, "rollout", "status", "statefulset/keeper", "--timeout=90s")
	where := func() string {
		return kubectl(t, "get", "pods", "-l", "app=keeper", "--sort-by=.metadata.name", "-o", "jsonpath={.items[*].spec.nodeName}")
	}
	before := where()
	if nodes := strings.Fields(before); len(nodes) != 2 || nodes[0] == nodes[1] {
		t.Fatalf("the pods are on %q", before)
	}
	kubectl(t, "delete", "pods", "-l", "app=keeper", "--wait=true")
	kubectl(t, "rollout", "status", "statefulset/keeper", "--timeout=90s")
	for _, pod := range []string{"keeper-0", "keeper-1"} {
		eventually(t, pod, "cat /data/starts", is(pod+"\n"+pod))
	}
	if after := where(); after != before {
		t.Errorf("the pods moved from %q to %q", before, after)
	}
	kubectl(t, "delete", "statefulset/keeper", "service/keeper")
	kubectl(t, "delete", "pvc", "data-keeper-0", "data-keeper-1", "--timeout=60s")
	until(t, "the volumes are gone", time.Minute, func() (string, bool) {
		left := kubectl(t, "get", "pv", "-o", "name")
		return left, left == ""
	})
	for _, dir := range []string{shared.Dir, agent.Dir} {
		if left, err := os.ReadDir(filepath.Join(dir, "storage")); err != nil || len(left) > 0 {
			t.Errorf("%s: %v, %v", dir, left, err)
		}
	}
}
