package e2e

import (
	"os"
	"strings"
	"testing"
)

// keeping is a StatefulSet whose pods note their starts in a volume.
const keeping = `
apiVersion: v1
kind: Service
metadata: {name: keep}
spec: {clusterIP: None, selector: {app: keep}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: keep}
spec:
  serviceName: keep
  replicas: 2
  selector: {matchLabels: {app: keep}}
  persistentVolumeClaimRetentionPolicy: {whenDeleted: Delete, whenScaled: Retain}
  template:
    metadata: {labels: {app: keep}}
    spec:
      securityContext: {runAsUser: 1000, runAsGroup: 1000, fsGroup: 2000}
      containers:
      - name: c
        image: ` + busybox + `
        command: [sh, -c, "echo start >> /data/log; trap 'exit 0' TERM; sleep 86400 & wait"]
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
`

func TestVolumesOfStatefulSet(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.apply(keeping)
	done := func() { e.kubectl("rollout", "status", "sts/keep", "--timeout=60s") }
	log := func(pod string) string {
		return strings.Join(strings.Fields(e.kubectl("exec", pod, "--", "cat", "/data/log")), " ")
	}
	done()
	has(t, "claims", e.kubectl("get", "pvc"), "data-keep-0   Bound    pvc-", "1Mi        RWO            local-path")
	has(t, "class", e.kubectl("get", "sc"), "local-path (default)   rancher.io/local-path   Delete          WaitForFirstConsumer   false")
	has(t, "the group", e.kubectl("exec", "keep-0", "--", "stat", "-c", "%g %A", "/data/log", "/data"), "2000 -rw-r--r--", "2000 drwxrwsrwx")
	volume := e.kubectl("get", "pvc", "data-keep-0", "-o", "jsonpath={.spec.volumeName}")
	path := e.kubectl("get", "pv", volume, "-o", "jsonpath={.spec.local.path}")
	if !strings.HasSuffix(path, "/storage/"+volume+"_"+e.namespace+"_data-keep-0") {
		t.Errorf("directory %s", path)
	}

	// Data stays over a pod's death and while there is no pod.
	e.kubectl("delete", "pod", "keep-0")
	e.until("a new pod writes", func() bool {
		out, err := e.try("exec", "keep-0", "--", "cat", "/data/log")
		return err == nil && strings.Count(out, "start") == 2
	})
	e.kubectl("scale", "sts/keep", "--replicas=0")
	e.until("no pods", func() bool { return e.kubectl("get", "pods", "-o", "name") == "" })
	e.kubectl("scale", "sts/keep", "--replicas=2")
	done()
	if got := log("keep-0"); got != "start start start" {
		t.Errorf("keep-0 has %q", got)
	}
	if got := log("keep-1"); got != "start start" {
		t.Errorf("keep-1 has %q", got)
	}

	// A claim in use stays until its pod is gone, and the directory with it.
	e.kubectl("delete", "pvc", "data-keep-0", "--wait=false")
	has(t, "a protected claim", e.kubectl("get", "pvc", "data-keep-0"), "Terminating")
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the directory of a claim in use: %v", err)
	}
	e.kubectl("delete", "sts", "keep")
	e.until("claims go with their set", func() bool { return e.kubectl("get", "pvc", "-o", "name") == "" })
	e.until("the volume goes", func() bool { _, err := e.try("get", "pv", volume); return err != nil })
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the directory of a volume that is gone: %v", err)
	}
}

func TestStaticAndEphemeralVolumes(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	dir := t.TempDir()
	e.apply(`
apiVersion: v1
kind: PersistentVolume
metadata: {name: static-` + e.namespace + `}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteMany]
  persistentVolumeReclaimPolicy: Retain
  storageClassName: manual
  hostPath: {path: ` + dir + `}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: big}
spec: {accessModes: [ReadWriteMany], storageClassName: manual, resources: {requests: {storage: 2Gi}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: fits}
spec: {accessModes: [ReadWriteMany], storageClassName: manual, volumeName: static-` + e.namespace + `, resources: {requests: {storage: 1Mi}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: waits}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: user}
spec:
  restartPolicy: Never
  containers:
  - name: c
    image: ` + busybox + `
    command: [sh, -c, "echo hi > /sub/file && echo hi > /scratch/file && ! touch /ro/x && sleep 86400"]
    volumeMounts:
    - {name: static, mountPath: /sub, subPath: a/b}
    - {name: ro, mountPath: /ro}
    - {name: scratch, mountPath: /scratch}
  volumes:
  - {name: static, persistentVolumeClaim: {claimName: fits}}
  - {name: ro, persistentVolumeClaim: {claimName: fits, readOnly: true}}
  - name: scratch
    ephemeral: {volumeClaimTemplate: {spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}}}
`)
	e.kubectl("wait", "pod/user", "--for=condition=Ready", "--timeout=60s")
	e.until("the file is there", func() bool { _, err := os.Stat(dir + "/a/b/file"); return err == nil })
	has(t, "claims", e.kubectl("get", "pvc"), "big            Pending", "fits           Bound", "user-scratch   Bound", "waits          Pending")
	e.until("the event", func() bool {
		return strings.Contains(e.kubectl("events", "--for", "pvc/waits"), "waiting for first consumer to be created before binding")
	})
	e.kubectl("delete", "pod", "user", "--grace-period=1")
	e.until("the ephemeral claim goes", func() bool { _, err := e.try("get", "pvc", "user-scratch"); return err != nil })
	e.kubectl("delete", "pvc", "fits")
	e.until("the volume is released", func() bool {
		return e.kubectl("get", "pv", "static-"+e.namespace, "-o", "jsonpath={.status.phase}") == "Released"
	})
	e.kubectl("delete", "pv", "static-"+e.namespace)
}
