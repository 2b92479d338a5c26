package e2e

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// What a container's environment, command and arguments are made of.
func TestPodEnvironment(t *testing.T) {
	const config = `
apiVersion: v1
kind: ConfigMap
metadata: {name: conf}
data: {one: "1", two: "2", "is.valid-key": "3", UPPER: up}
---
apiVersion: v1
kind: Secret
metadata: {name: hush}
stringData: {user: me, password: "p$w"}
`
	runOneShots(t, []oneShot{{
		name: "fields",
		spec: `
containers:
- command: [sh, -c, 'echo "$NAME/$NS"; echo $UID_; echo $IP; echo $IPS; echo $HOST; echo $HOSTS; echo $NODE; echo $SA; echo $LABEL; hostname']
  env:
  - {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
  - {name: NS, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
  - {name: UID_, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}
  - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
  - {name: IPS, valueFrom: {fieldRef: {fieldPath: status.podIPs}}}
  - {name: HOST, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}
  - {name: HOSTS, valueFrom: {fieldRef: {fieldPath: status.hostIPs}}}
  - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
  - {name: SA, valueFrom: {fieldRef: {fieldPath: spec.serviceAccountName}}}
  - {name: LABEL, valueFrom: {fieldRef: {fieldPath: "metadata.labels['app']"}}}
`,
		want: `
p/podenvironment-fields
[0-9a-f-]{36}
10\.42\.\d+\.\d+
10\.42\.\d+\.\d+
192\.0\.2\.10
192\.0\.2\.10
node-1
default
p
p
`,
	}, {
		name: "resources",
		spec: `
containers:
- command: [sh, -c, 'echo $CL $CR $ML $MR $MEGA $MILLI']
  resources: {requests: {cpu: 250m, memory: 32Mi}, limits: {cpu: 1250m, memory: 64Mi}}
  env:
  - {name: CL, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}
  - {name: CR, valueFrom: {resourceFieldRef: {resource: requests.cpu}}}
  - {name: ML, valueFrom: {resourceFieldRef: {resource: limits.memory}}}
  - {name: MR, valueFrom: {resourceFieldRef: {resource: requests.memory}}}
  - {name: MEGA, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}
  - {name: MILLI, valueFrom: {resourceFieldRef: {resource: limits.cpu, divisor: 1m}}}
`,
		want: "2 1 67108864 33554432 64 1250",
	}, {
		name: "default limits are the node's",
		spec: `
containers:
- command: [sh, -c, 'echo $CL; test $ML -gt 1000000000 && echo much']
  env:
  - {name: CL, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}
  - {name: ML, valueFrom: {resourceFieldRef: {resource: limits.memory}}}
`,
		want: "[1-9][0-9]*\nmuch",
	}, {
		name:    "config",
		objects: config,
		spec: `
containers:
- command: [sh, -c, 'echo $one $two $UPPER; echo $C_one; echo $PASS $user $password; echo "[$MISSING]"; tr "\0" "\n" </proc/1/environ | grep -c valid']
  envFrom:
  - configMapRef: {name: conf}
  - prefix: C_
    configMapRef: {name: conf}
  - secretRef: {name: hush}
  - configMapRef: {name: absent, optional: true}
  env:
  - {name: PASS, valueFrom: {secretKeyRef: {name: hush, key: password}}}
  - {name: two, valueFrom: {configMapKeyRef: {name: conf, key: one}}}
  - {name: MISSING, valueFrom: {configMapKeyRef: {name: conf, key: nowhere, optional: true}}}
`,
		want: "1 1 up\n1\np\\$w me p\\$w\n\\[\\]\n2",
	}, {
		name: "expansion",
		spec: `
containers:
- command: [sh, -c, 'echo "$0" "$1"; echo "$ALL"; echo "$ESC"; echo "$EARLY"', "$(A)-$(B)"]
  args: ["$$(A) $(NOPE)"]
  env:
  - {name: EARLY, value: "$(A)"}
  - {name: A, value: a}
  - {name: B, value: "$(A)b"}
  - {name: ALL, value: "$(A) $(B) $(NOPE)"}
  - {name: ESC, value: "$$(A) $$$(A)"}
`,
		want: `
a-ab \$\(A\) \$\(NOPE\)
a ab \$\(NOPE\)
\$\(A\) \$a
\$\(A\)
`,
	}, {
		name: "services",
		objects: `
apiVersion: v1
kind: Service
metadata: {name: my-svc}
spec: {ports: [{name: web, port: 80}], selector: {app: none}}
`,
		spec: `
containers:
- command: [sh, -c, 'echo $MY_SVC_SERVICE_PORT $MY_SVC_SERVICE_PORT_WEB ${MY_SVC_PORT#tcp://}; echo $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT']
`,
		want: `80 80 10\.43\.\d+\.\d+:80
10\.43\.0\.1 443`,
	}, {
		name: "no service links",
		objects: `
apiVersion: v1
kind: Service
metadata: {name: my-svc}
spec: {ports: [{port: 80}], selector: {app: none}}
`,
		spec: `
enableServiceLinks: false
containers:
- command: [sh, -c, 'echo "[$MY_SVC_SERVICE_PORT]" $KUBERNETES_SERVICE_PORT']
`,
		want: `\[\] 443`,
	}, {
		name: "hosts and dns",
		spec: `
hostname: named
subdomain: sub
hostAliases: [{ip: 192.0.2.77, hostnames: [foo.local, bar.local]}]
dnsPolicy: None
dnsConfig: {nameservers: [192.0.2.5], searches: [my.search], options: [{name: ndots, value: "2"}, {name: edns0}]}
containers:
- command: [sh, -c, 'hostname; grep foo.local /etc/hosts; grep -c "# Kubernetes-managed hosts file" /etc/hosts; grep named /etc/hosts; cat /etc/resolv.conf']
`,
		want: `named
192\.0\.2\.77\tfoo\.local\tbar\.local
1
10\.42\.\d+\.\d+\tnamed\.sub\.podenvironment-hosts-and-dns\.svc\.cluster\.local\tnamed
search my\.search
nameserver 192\.0\.2\.5
options ndots:2 edns0`,
	}, {
		name: "cluster dns",
		spec: `
containers:
- command: [sh, -c, 'grep -E "^(search|nameserver|options)" /etc/resolv.conf; nslookup kubernetes.default.svc.cluster.local. | grep -c 10.43.0.1$']
`,
		want: `search podenvironment-cluster-dns\.svc\.cluster\.local svc\.cluster\.local cluster\.local.*
nameserver 10\.43\.0\.10
options ndots:5
1`,
	}, {
		name: "host network",
		spec: `
hostNetwork: true
containers:
- command: [sh, -c, 'hostname; ip -4 -o addr show eth0 | grep -o 192.0.2.10/24; grep -c Kubernetes-managed /etc/hosts']
`,
		// Upstream gives pods on the host's network the host's entries, under a heading.
		want: "node-1\n192.0.2.10/24\n1",
	}, {
		name: "shared process and ipc namespaces",
		spec: `
shareProcessNamespace: true
containers:
- command: [sh, -c, 'until pidof tail >/dev/null; do :; done; ps -o args | grep -c "[/]pause"; echo seen']
- command: [tail, -f, /dev/null]
restartPolicy: Never
activeDeadlineSeconds: 8
`,
		want:  "1\nseen",
		phase: "Failed",
	}})
}

// A container waits, with upstream's words, for what its environment names.
func TestPodEnvironmentMissing(t *testing.T) {
	e := newEnv(t)
	e.create(podOf(t, "p", `
containers:
- command: [sh, -c, 'echo $X']
  env: [{name: X, valueFrom: {configMapKeyRef: {name: later, key: x}}}]
`))
	if got, want := e.event("p", "Failed"), `Error: configmap "later" not found`; got != want {
		t.Errorf("event %q, want %q", got, want)
	}
	e.untilPod("p", "waits for its configuration", func(p *corev1.Pod) bool {
		w := p.Status.ContainerStatuses[0].State.Waiting
		return w != nil && w.Reason == "CreateContainerConfigError" && w.Message == `configmap "later" not found`
	})
	e.kubectl("create", "configmap", "later", "--from-literal=y=1")
	e.eventMatching("p", "Failed", `^Error: couldn't find key x in ConfigMap `+e.namespace+`/later$`)
	e.kubectl("patch", "configmap", "later", "-p", `{"data":{"x":"here"}}`)
	e.ended("p")
	matchLines(t, e.logs("p", "c0"), "here")
}
