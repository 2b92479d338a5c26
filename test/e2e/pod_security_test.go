package e2e

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/proa-dev/proa/internal/ociimage"
)

// Who a container runs as and what it may do.
func TestPodSecurity(t *testing.T) {
	const caps = `grep -E "^(CapEff|CapBnd|NoNewPrivs|Seccomp):" /proc/self/status | tr "\t" " "`
	runOneShots(t, []oneShot{{
		name: "pod's user and group",
		spec: `
securityContext: {runAsUser: 1001, runAsGroup: 2002}
containers: [{command: [sh, -c, "id -u; id -g; touch /x 2>&1"]}]
`,
		phase: "Failed",
		want:  "1001\n2002\ntouch: /x: Permission denied",
	}, {
		name: "container's user wins",
		spec: `
securityContext: {runAsUser: 1001, runAsGroup: 2002}
containers: [{command: [sh, -c, "id -u; id -g"], securityContext: {runAsUser: 65534, runAsGroup: 3003}}]
`,
		want: "65534\n3003",
	}, {
		name: "read-only root",
		spec: `
containers: [{command: [sh, -c, "touch /x 2>&1; echo ok >/dev/shm/y && cat /dev/shm/y"], securityContext: {readOnlyRootFilesystem: true}}]
`,
		want: "touch: /x: Read-only file system\nok",
	}, {
		name: "default capabilities",
		spec: `
containers: [{command: [sh, -c, '` + caps + `']}]
`,
		want: "CapEff: 00000000a80425fb\nCapBnd: 00000000a80425fb\nNoNewPrivs: 0\nSeccomp: 0",
	}, {
		name: "restricted",
		spec: `
containers:
- command: [sh, -c, '` + caps + `; unshare -U true 2>&1 | head -1']
  securityContext:
    allowPrivilegeEscalation: false
    seccompProfile: {type: RuntimeDefault}
    capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}
`,
		want: "CapEff: 0000000000000400\nCapBnd: 0000000000000400\nNoNewPrivs: 1\nSeccomp: 2\nunshare: .*Operation not permitted",
	}, {
		name: "unprivileged",
		spec: `
containers: [{command: [sh, -c, 'ip link add v8 type veth peer name v9 2>&1'], securityContext: {privileged: false}}]
`,
		phase: "Failed",
		want:  "ip: RTNETLINK answers: Operation not permitted",
	}, {
		name: "privileged",
		spec: `
containers: [{command: [sh, -c, 'ip link add v8 type veth peer name v9 && test -e /dev/kmsg && mount -t tmpfs none /mnt2 && echo all'], securityContext: {privileged: true}, volumeMounts: [{name: v, mountPath: /mnt2}]}]
volumes: [{name: v, emptyDir: {}}]
`,
		want: "all",
	}, {
		name: "sysctls",
		spec: `
securityContext: {sysctls: [{name: kernel.shm_rmid_forced, value: "1"}, {name: net.ipv4.ip_local_port_range, value: "1024 2000"}]}
containers: [{command: [cat, /proc/sys/kernel/shm_rmid_forced, /proc/sys/net/ipv4/ip_local_port_range]}]
`,
		want: "1\n1024.2000",
	}, {
		name: "host's process namespace",
		spec: `
hostPID: true
containers: [{command: [sh, -c, 'ls /proc/2/comm >/dev/null && test "$(cat /proc/self/comm)" = cat && test $$$$ -gt 1 && echo host']}]
`,
		want: "host",
	}, {
		name: "masked paths",
		spec: `
containers: [{command: [sh, -c, 'ls -A /sys/firmware | wc -l; echo 1 2>&1 >/proc/sys/kernel/panic']}]
`,
		phase: "Failed",
		want:  "0\nsh: can't create /proc/sys/kernel/panic: Read-only file system",
	}})
}

// runAsNonRoot refuses root, whether the image or the pod asks for it, and a
// user by name, which cannot be told; a numeric user of the image runs.
func TestPodNonRoot(t *testing.T) {
	e := newEnv(t)
	for name, user := range map[string]string{"numeric": "1234", "named": "nobody"} {
		importImage(t, ociimage.Spec{Names: []string{"proa.dev/e2e/" + name + ":1"}, User: user, Cmd: []string{"id", "-u"}})
	}
	const non = "securityContext: {runAsNonRoot: true}\ncontainers: [{command: [id, -u], image: %s, securityContext: {%s}}]"
	create := func(name, image, extra string) {
		e.create(podOf(t, name, strings.NewReplacer("%s,", image+",", "{%s}", "{"+extra+"}").Replace(non)))
	}
	create("numeric", "proa.dev/e2e/numeric:1", "")
	e.ended("numeric")
	matchLines(t, e.logs("numeric", "c0"), "1234")

	create("root", busybox, "")
	e.eventMatching("root", "Failed", `^Error: container has runAsNonRoot and image will run as root \(pod: "root_`+e.namespace+`\([0-9a-f-]+\)", container: c0\)$`)
	create("asked", busybox, "runAsUser: 0")
	e.eventMatching("asked", "Failed", `^Error: container's runAsUser breaks non-root policy \(pod: "asked_`+e.namespace+`\([0-9a-f-]+\)", container: c0\)$`)
	create("named", "proa.dev/e2e/named:1", "")
	e.eventMatching("named", "Failed", `^Error: container has runAsNonRoot and image has non-numeric user \(nobody\), cannot verify user is non-root \(pod: "named_`+e.namespace+`\([0-9a-f-]+\)", container: c0\)$`)
}

// importImage gives the node an image on top of the busybox files.
func importImage(t *testing.T, spec ociimage.Spec) {
	t.Helper()
	if spec.Layers == nil {
		spec.Layers = [][]ociimage.File{busyboxFiles(t)}
	}
	if spec.Env == nil {
		spec.Env = []string{"PATH=/bin"}
	}
	var archive bytes.Buffer
	if err := ociimage.Build(&archive, spec); err != nil {
		t.Fatal(err)
	}
	if _, err := shared.Proa(t.Context(), &archive, "image", "import", "-"); err != nil {
		t.Fatal(err)
	}
}

// A pod's requests and limits reach its cgroups, which are gone after it.
func TestPodCgroups(t *testing.T) {
	e := newEnv(t)
	e.create(podOf(t, "guaranteed", "containers: [{command: [sleep, '3600'], resources: {limits: {cpu: 500m, memory: 64Mi}}}]"))
	e.create(podOf(t, "burstable", "containers: [{command: [sleep, '3600'], resources: {requests: {cpu: 250m, memory: 16Mi}, limits: {memory: 32Mi}}}]"))
	e.create(podOf(t, "besteffort", "containers: [{command: [sleep, '3600']}]"))
	for name, want := range map[string]struct{ qos, memory, shares, weight, quota, max string }{
		"guaranteed": {"Guaranteed", "67108864", "512", "59", "50000", "50000 100000"},
		"burstable":  {"Burstable", "33554432", "256", "35", "-1", "max 100000"},
		"besteffort": {"BestEffort", "", "2", "1", "-1", "max 100000"},
	} {
		pod := e.ready(name)
		if string(pod.Status.QOSClass) != want.qos {
			t.Errorf("%s: QoS %s", name, pod.Status.QOSClass)
		}
		dirs := podCgroups(t, string(pod.UID))
		if len(dirs) == 0 {
			t.Errorf("%s has no cgroup", name)
		}
		if q := map[string]string{"Guaranteed": "", "Burstable": "/burstable/", "BestEffort": "/besteffort/"}[want.qos]; q != "" && !strings.Contains(dirs[0], q) {
			t.Errorf("%s is at %s", name, dirs[0])
		}
		for _, dir := range dirs {
			for file, value := range map[string]string{
				"memory.limit_in_bytes": want.memory, "memory.max": want.memory, "cpu.shares": want.shares, "cpu.cfs_quota_us": want.quota, "cpu.max": want.max,
			} {
				got, err := os.ReadFile(filepath.Join(dir, file))
				if err == nil && value != "" && strings.TrimSpace(string(got)) != value {
					t.Errorf("%s: %s/%s is %s, want %s", name, dir, file, got, value)
				}
			}
		}
	}
	for _, name := range []string{"guaranteed", "burstable", "besteffort"} {
		uid := string(e.pod(name).UID)
		e.remove(name)
		e.until("the cgroups of "+name+" are gone", func() bool { return len(podCgroups(t, uid)) == 0 })
	}
}

// podCgroups are a pod's control groups, one in each hierarchy.
func podCgroups(t *testing.T, uid string) []string {
	t.Helper()
	var dirs []string
	for _, depth := range []string{"*", "*/*", "*/*/*", "*/*/*/*"} {
		found, err := filepath.Glob(filepath.Join("/sys/fs/cgroup", depth, "pod"+uid))
		if err != nil {
			t.Fatal(err)
		}
		dirs = append(dirs, found...)
	}
	return dirs
}

// A container over its memory limit is killed, and the status says why.
func TestPodOutOfMemory(t *testing.T) {
	e := newEnv(t)
	e.create(podOf(t, "p", `containers: [{command: [sh, -c, "x=a; while true; do x=$x$x; done"], resources: {limits: {memory: 16Mi}}}]`))
	pod := e.ended("p")
	if s := pod.Status.ContainerStatuses[0].State.Terminated; s == nil || s.Reason != "OOMKilled" || s.ExitCode != 137 {
		t.Errorf("ended as %+v", s)
	}
}

// Ephemeral containers join a pod that runs, and see its processes.
func TestPodEphemeralContainers(t *testing.T) {
	e := newEnv(t)
	e.create(podOf(t, "p", "containers: [{name: main, command: [tail, -f, /dev/null]}]"))
	e.ready("p")
	for _, name := range []string{"one", "two"} {
		e.kubectl("debug", "p", "--image="+busybox, "--image-pull-policy=IfNotPresent", "--target=main", "-c", name, "--profile=general", "--", "sh", "-c", "pidof tail && echo found; sleep 3600")
		e.untilLog("p", name, "found")
	}
	e.untilPod("p", "has both", func(p *corev1.Pod) bool {
		s := p.Status.EphemeralContainerStatuses
		return len(s) == 2 && s[0].State.Running != nil && s[1].State.Running != nil
	})
	if err := e.client.CoreV1().Pods(e.namespace).Delete(context.WithoutCancel(t.Context()), "p", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	e.gone("p")
}
