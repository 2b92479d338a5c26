package e2e

import (
	"context"
	"os"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const volumeObjects = `
apiVersion: v1
kind: ConfigMap
metadata: {name: conf}
data: {a: alpha, b: beta}
binaryData: {bin: "AAEC/w=="}
---
apiVersion: v1
kind: Secret
metadata: {name: hush}
stringData: {user: me, password: word}
`

// What each type of volume holds, with which owner and mode.
func TestPodVolumes(t *testing.T) {
	t.Cleanup(func() { _ = os.RemoveAll("/dev/shm/proa-e2e") })
	runOneShots(t, []oneShot{{
		name: "emptyDir on disk",
		spec: `
volumes: [{name: v, emptyDir: {}}]
containers:
- command: [sh, -c, 'stat -c %a:%u:%g /v; echo hi >/v/f; chmod 600 /v/f; stat -c %a /v/f; stat -f -c %T /v; cat /v/i']
  volumeMounts: [{name: v, mountPath: /v}]
initContainers:
- command: [sh, -c, 'echo from init >/v/i']
  volumeMounts: [{name: v, mountPath: /v}]
`,
		want: "777:0:0\n600\next2/ext3\nfrom init",
	}, {
		name: "emptyDir in memory",
		spec: `
volumes: [{name: v, emptyDir: {medium: Memory, sizeLimit: 2Mi}}]
containers:
- command: [sh, -c, 'stat -c %a /v; stat -f -c %T /v; dd if=/dev/zero of=/v/f bs=1M count=4 2>&1 | grep -o "No space left on device"; df -k /v | tail -1 | awk "{print \$2}"']
  volumeMounts: [{name: v, mountPath: /v}]
`,
		want: "777\ntmpfs\nNo space left on device\n2048",
	}, {
		name: "emptyDir as a user with fsGroup",
		spec: `
securityContext: {runAsUser: 1001, runAsGroup: 1002, fsGroup: 123, supplementalGroups: [77]}
volumes: [{name: v, emptyDir: {medium: Memory}}, {name: d, emptyDir: {}}]
containers:
- command: [sh, -c, 'stat -c %a:%g /v /d; touch /v/f /d/f; stat -c %u:%g /v/f /d/f; id -u; id -g; id -G']
  volumeMounts: [{name: v, mountPath: /v}, {name: d, mountPath: /d}]
`,
		want: "2777:123\n2777:123\n1001:123\n1001:123\n1001\n1002\n1002 77 123",
	}, {
		name:    "configMap",
		objects: volumeObjects,
		spec: `
volumes:
- {name: v, configMap: {name: conf}}
- {name: m, configMap: {name: conf, defaultMode: 0400, items: [{key: a, path: deep/er/a.txt}, {key: b, path: b, mode: 0440}]}}
- {name: o, configMap: {name: absent, optional: true}}
- {name: oi, configMap: {name: conf, optional: true, items: [{key: nope, path: nope}, {key: a, path: a}]}}
containers:
- command: [sh, -c, 'cat /v/a; echo; stat -L -c %a /v/a; xxd -p /v/bin; cat /m/deep/er/a.txt; echo; stat -L -c %a /m/deep/er/a.txt /m/b; ls /o; ls /oi; readlink /v/a; touch /v/x 2>&1']
  volumeMounts: [{name: v, mountPath: /v}, {name: m, mountPath: /m}, {name: o, mountPath: /o}, {name: oi, mountPath: /oi}]
`,
		phase: "Failed",
		want:  "alpha\n644\n000102ff\nalpha\n400\n440\na\n\\.\\.data/a\ntouch: /v/x: Read-only file system",
	}, {
		name:    "secret for a user with fsGroup",
		objects: volumeObjects,
		spec: `
securityContext: {runAsUser: 1000, fsGroup: 1001}
volumes: [{name: v, secret: {secretName: hush, defaultMode: 0440}}, {name: w, secret: {secretName: hush, items: [{key: user, path: u, mode: 0400}]}}]
containers:
- command: [sh, -c, 'cat /v/user /v/password; echo; stat -L -c %a:%g /v/user; stat -f -c %T /v; stat -L -c %a:%g /w/u; cat /w/u']
  volumeMounts: [{name: v, mountPath: /v}, {name: w, mountPath: /w}]
`,
		want: "meword\n440:1001\ntmpfs\n440:1001\nme",
	}, {
		name: "downwardAPI",
		spec: `
volumes:
- name: v
  downwardAPI:
    defaultMode: 0404
    items:
    - {path: name, fieldRef: {fieldPath: metadata.name}, mode: 0400}
    - {path: labels, fieldRef: {fieldPath: metadata.labels}}
    - {path: cpu, resourceFieldRef: {containerName: c0, resource: limits.cpu, divisor: 1m}}
    - {path: mem, resourceFieldRef: {containerName: c0, resource: requests.memory}}
    - {path: all, resourceFieldRef: {containerName: c1, resource: limits.memory}}
containers:
- command: [sh, -c, 'for f in name labels cpu mem; do cat /v/$f; echo; done; stat -L -c %a /v/name /v/cpu; test $(cat /v/all) -gt 1000000000 && echo much']
  resources: {limits: {cpu: 1250m}, requests: {memory: 32Mi, cpu: 10m}}
  volumeMounts: [{name: v, mountPath: /v}]
- command: ["true"]
`,
		want: "p\napp=\"p\"\n1250\n33554432\n400\n404\nmuch",
	}, {
		name:    "projected",
		objects: volumeObjects,
		spec: `
securityContext: {runAsUser: 1000, fsGroup: 2000}
volumes:
- name: v
  projected:
    defaultMode: 0440
    sources:
    - configMap: {name: conf, items: [{key: a, path: c/a}]}
    - secret: {name: hush, items: [{key: user, path: s/u}]}
    - downwardAPI: {items: [{path: ns, fieldRef: {fieldPath: metadata.namespace}}]}
    - serviceAccountToken: {path: token, audience: vault, expirationSeconds: 600}
containers:
- command: [sh, -c, 'cd /v; cat c/a s/u ns; echo; stat -L -c %a:%g c/a token; cut -d. -f2 token | tr _- /+ | base64 -d 2>/dev/null | grep -o "\"aud\":\[\"vault\"\]"']
  volumeMounts: [{name: v, mountPath: /v}]
`,
		want: `alphamepodvolumes-projected
440:2000
640:2000
"aud":\["vault"\]`,
	}, {
		name: "service account",
		spec: `
containers:
- command: [sh, -c, 'cd /var/run/secrets/kubernetes.io/serviceaccount; ls; cat namespace; echo; head -1 ca.crt; stat -L -c %a token']
`,
		want: `ca\.crt
namespace
token
podvolumes-service-account
-----BEGIN CERTIFICATE-----
644`,
	}, {
		name: "no service account token",
		spec: `
automountServiceAccountToken: false
containers:
- command: [sh, -c, 'ls /var/run/secrets 2>&1']
`,
		phase: "Failed",
		want:  "ls: /var/run/secrets: No such file or directory",
	}, {
		name:    "subPath",
		objects: volumeObjects,
		spec: `
volumes: [{name: v, emptyDir: {}}, {name: c, configMap: {name: conf}}]
initContainers:
- command: [sh, -c, 'mkdir -p /v/in; echo made >/v/in/f; ln -s /etc /v/out']
  volumeMounts: [{name: v, mountPath: /v}]
containers:
- command: [sh, -c, 'cat /s/f; cat /one; echo; echo x >/new/y; ls /v; ls /v/made-p']
  env: [{name: POD, value: p}]
  volumeMounts:
  - {name: v, mountPath: /s, subPath: in}
  - {name: c, mountPath: /one, subPath: a}
  - {name: v, mountPath: /new, subPathExpr: made-$(POD)}
  - {name: v, mountPath: /v}
`,
		want: "made\nalpha\nin\nmade-p\nout\ny",
	}, {
		name: "hostPath",
		spec: `
volumes: [{name: v, hostPath: {path: /dev/shm/proa-e2e/new, type: DirectoryOrCreate}}, {name: f, hostPath: {path: /dev/shm/proa-e2e/file, type: FileOrCreate}}, {name: s, hostPath: {path: /dev/null, type: CharDevice}}]
containers:
- command: [sh, -c, 'stat -c %a /v; echo hi >/f; test -c /n; cat /f; touch /ro/x 2>&1']
  volumeMounts: [{name: v, mountPath: /v}, {name: f, mountPath: /f}, {name: s, mountPath: /n}, {name: v, mountPath: /ro, readOnly: true}]
`,
		phase: "Failed",
		want:  "755\nhi\ntouch: /ro/x: Read-only file system",
	}, {
		name: "image volume",
		spec: `
volumes: [{name: v, image: {reference: proa.dev/e2e/busybox:1, pullPolicy: IfNotPresent}}]
containers:
- command: [sh, -c, 'ls -d /v/bin/busybox; touch /v/x 2>&1']
  volumeMounts: [{name: v, mountPath: /v}]
`,
		phase: "Failed",
		want:  "/v/bin/busybox\ntouch: /v/x: Read-only file system",
	}})
}

// Volumes follow their objects while the pod runs, all files at once.
func TestPodVolumesLive(t *testing.T) {
	e := newEnv(t)
	e.apply(volumeObjects)
	e.create(podOf(t, "p", `
volumes:
- {name: c, configMap: {name: conf}}
- {name: s, secret: {secretName: hush}}
- {name: o, configMap: {name: later, optional: true}}
- {name: d, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}, {path: notes, fieldRef: {fieldPath: metadata.annotations}}]}}
- {name: p, projected: {sources: [{configMap: {name: conf}}, {secret: {name: hush}}]}}
containers:
- command: [sleep, "3600"]
  volumeMounts: [{name: c, mountPath: /c}, {name: s, mountPath: /s}, {name: o, mountPath: /o}, {name: d, mountPath: /d}, {name: p, mountPath: /p}, {name: c, mountPath: /fixed, subPath: a}]
`))
	e.ready("p")
	sees := func(script, want string) {
		t.Helper()
		var last string
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("%s: %q", script, last)
			}
		})
		e.until(script+" gives "+want, func() bool {
			out, err := e.try("exec", "p", "--", "sh", "-c", script)
			last = strings.TrimSpace(out)
			return err == nil && last == want
		})
	}
	e.kubectl("patch", "configmap", "conf", "-p", `{"data":{"a":"changed","b":null,"c":"new"}}`)
	sees("cat /c/a /c/c /p/a; echo; ls /c", "changednewchanged\na\nbin\nc")
	sees("cat /fixed", "alpha") // a subPath stays as it was
	e.kubectl("patch", "secret", "hush", "-p", `{"stringData":{"user":"you"}}`)
	sees("cat /s/user /p/user", "youyou")
	e.kubectl("create", "configmap", "later", "--from-literal=x=came")
	sees("cat /o/x", "came")
	e.kubectl("delete", "configmap", "later")
	sees("ls /o", "")
	e.kubectl("label", "pod", "p", "color=red")
	e.kubectl("annotate", "pod", "p", "note=hi")
	sees("cat /d/labels", "app=\"p\"\ncolor=\"red\"")
	sees("grep note /d/notes", `note="hi"`)
	if n := e.pod("p").Status.ContainerStatuses[0].RestartCount; n != 0 {
		t.Errorf("%d restarts", n)
	}
}

// A pod waits for a volume's object and tells so, then starts.
func TestPodVolumeMissing(t *testing.T) {
	e := newEnv(t)
	e.create(podOf(t, "p", `
volumes: [{name: v, configMap: {name: later}}]
containers: [{command: [cat, /v/a], volumeMounts: [{name: v, mountPath: /v}]}]
`))
	if got, want := e.event("p", "FailedMount"), `MountVolume.SetUp failed for volume "v" : configmap "later" not found`; got != want {
		t.Errorf("event %q, want %q", got, want)
	}
	e.untilPod("p", "waits", func(p *corev1.Pod) bool {
		s := p.Status.ContainerStatuses
		return len(s) == 1 && s[0].State.Waiting != nil && s[0].State.Waiting.Reason == "ContainerCreating"
	})
	e.kubectl("create", "configmap", "later", "--from-literal=a=came")
	e.ended("p")
	matchLines(t, e.logs("p", "c0"), "came")
	// A pod whose volumes never come can be deleted.
	e.create(podOf(t, "q", `
volumes: [{name: v, secret: {secretName: never}}]
containers: [{command: ["true"], volumeMounts: [{name: v, mountPath: /v}]}]
`))
	e.event("q", "FailedMount")
	if err := e.client.CoreV1().Pods(e.namespace).Delete(context.WithoutCancel(t.Context()), "q", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	e.gone("q")
}
