package e2e

import (
	"regexp"
	"strings"
	"testing"
)

// web is a Deployment and its Service.
const web = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - name: web
        image: ` + busybox + `
        command: [sh, -c, "mkdir -p /www; hostname > /www/index.html; exec httpd -f -p 8080 -h /www"]
        ports: [{containerPort: 8080, name: http}]
        readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1}
        lifecycle: {preStop: {sleep: {seconds: 2}}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: http}]
`

// talker is a pod of two containers that writes a line to each stream, and
// another ten times a second.
const talker = `
apiVersion: v1
kind: Pod
metadata: {name: talker, labels: {app: talker}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: ` + busybox + `
    command: [sh, -c, "trap 'exit 0' TERM; echo first; echo complaint >&2; i=0; while :; do echo line $i; i=$((i+1)); sleep 0.1; done"]
  - name: second
    image: ` + busybox + `
    command: [sh, -c, "echo from the second; trap 'exit 0' TERM; sleep 1000000 & wait"]
`

func TestKubectlGet(t *testing.T) {
	e := newEnv(t)
	watched := e.follow(nil, "get", "pods", "-w", "--output-watch-events")
	e.apply(web + "---" + talker)
	e.kubectl("rollout", "status", "deploy/web", "--timeout=60s")
	e.kubectl("wait", "--for=condition=Ready", "pod/talker", "--timeout=60s")
	e.prints(watched, "ADDED      talker")
	e.prints(watched, "MODIFIED   talker")
	ip := e.pod("talker").Status.PodIP

	for _, c := range []struct{ args, want string }{
		{"get pods -l app=talker", `^NAME +READY +STATUS +RESTARTS +AGE\ntalker +2/2 +Running +0 +\d+s$`},
		{"get pod talker -o wide", `(?m)^talker +2/2 +Running +0 +\d+s +` + regexp.QuoteMeta(ip) + ` +node-1 +<none> +<none>$`},
		{"get pod talker -o name", `^pod/talker$`},
		{"get pod talker -o jsonpath={.status.phase}:{.spec.nodeName}:{.status.qosClass}", `^Running:node-1:BestEffort$`},
		{"get pod talker -o custom-columns=N:.metadata.name,IP:.status.podIP", `^N +IP\ntalker +` + regexp.QuoteMeta(ip) + `$`},
		{"get pod talker -o go-template={{.kind}}", `^Pod$`},
		{"get pod talker -o json", `"kind": "Pod"`},
		{"get pod talker -o yaml", `(?m)^  qosClass: BestEffort$`},
		{"get deploy", `^NAME +READY +UP-TO-DATE +AVAILABLE +AGE\nweb +2/2 +2 +2 +\d+s$`},
		{"get rs -o wide", `(?m)^NAME +DESIRED +CURRENT +READY +AGE +CONTAINERS +IMAGES +SELECTOR\nweb-\S+ +2 +2 +2 +\d+s +web +` + busybox + ` +app=web,pod-template-hash=\S+$`},
		{"get svc", `(?m)^web +ClusterIP +10\.43\.\d+\.\d+ +<none> +80/TCP +\d+s$`},
		{"get endpointslices", `(?m)^web-\S+ +IPv4 +8080 +10\.42\.\d+\.\d+,10\.42\.\d+\.\d+ +\d+s$`},
		{"get all", `(?s)pod/talker.*service/web.*deployment.apps/web.*replicaset.apps/web-`},
		{"get nodes", `^NAME +STATUS +ROLES +AGE +VERSION\nnode-1 +Ready +\S+ +\S+ +v1\.37\.`},
		{"get nodes -o wide", `node-1 .* 192\.0\.2\.10 .* containerd://2\.`},
		{"get ns", `(?m)^kube-system +Active +\S+$`},
		{"get pods --field-selector=status.phase=Running,metadata.name=talker -o name", `^pod/talker$`},
		{"get pods --field-selector=status.phase=Failed", `^$`},
		{"get pods --sort-by=.metadata.name --chunk-size=1 -o name", `^pod/talker\npod/web-\S+\npod/web-\S+$`},
		{"get pods -l app=web -L app --no-headers", `(?m)^web-\S+ .* web$`},
		{"get pods -l app!=web --show-labels", `app=talker$`},
		{"get events --field-selector=involvedObject.name=talker", `(?s)^LAST SEEN +TYPE +REASON +OBJECT +MESSAGE\n.*Scheduled +pod/talker +Successfully assigned kubectlget/talker to node-1.*Started`},
		{"events --for pod/talker", `(?s)Scheduled.*Pulled.*Created.*Started`},
		{"get --raw /api/v1/namespaces/kubectlget/pods/talker", `^\{"kind":"Pod"`},
		{"get --raw /readyz?verbose", `readyz check passed$`},
		{"api-resources --api-group=apps", `(?m)^deployments +deploy +apps/v1 +true +Deployment$`},
		{"api-resources --verbs=list --namespaced -o name", `(?m)^pods$`},
		{"api-versions", `(?m)^apps/v1$`},
		{"cluster-info", `Kubernetes control plane is running at`},
		{"version", `(?s)Client Version: v1\.37.*Server Version: v1\.37`},
		{"explain pods.spec.containers.lifecycle.preStop", `(?s)KIND: +Pod\nVERSION: +v1.*FIELD: preStop <LifecycleHandler>.*httpGet\t<HTTPGetAction>`},
		{"explain deploy --recursive", `(?s)GROUP: +apps\nKIND: +Deployment.*template\t<PodTemplateSpec> -required-`},
		{"explain crd.spec.versions.schema", `(?s)schema describes the schema used for validation.*openAPIV3Schema is the OpenAPI v3 schema`},
		{"config view", `certificate-authority-data: DATA\+OMITTED`},
		{"completion bash", `__start_kubectl`},
		{"auth whoami", `system:admin`},
		{"describe pod talker", `(?s)Name: +talker.*Status: +Running.*Containers:\n  main:.*Started: .*Conditions:.*QoS Class: +BestEffort.*default-scheduler +Successfully assigned.*kubelet +.*Container started`},
		{"describe deploy web", `(?s)Replicas: +2 desired \| 2 updated \| 2 total \| 2 available \| 0 unavailable.*NewReplicaSetAvailable.*ScalingReplicaSet +\S+ +deployment-controller +Scaled up replica set web-\S+ from 0 to 2`},
		{"describe svc web", `(?s)Type: +ClusterIP.*TargetPort: +http/TCP\nEndpoints: +10\.42\.\S+:8080,10\.42\.\S+:8080`},
		{"describe node node-1", `(?s)Ready +True .*KubeletReady.*PodCIDR: +10\.42\.0\.0/24.*Non-terminated Pods:.*kubectlget +talker.*Allocated resources:`},
		{"describe ns kubectlget", `Status: +Active`},
	} {
		out, err := e.try(strings.Split(c.args, " ")...)
		if err != nil {
			t.Errorf("kubectl %s: %v", c.args, err)
		} else if out = strings.TrimSpace(out); !regexp.MustCompile(c.want).MatchString(out) {
			t.Errorf("kubectl %s: does not match %q:\n%s", c.args, c.want, out)
		}
	}
	for _, c := range []struct{ args, want string }{
		{"get nope", `the server doesn't have a resource type "nope"`},
		{"get pod nope", `Error from server (NotFound): pods "nope" not found`},
		{"get pods --field-selector=nope=1", "field label not supported: nope"},
		{"top pod nope", `pods "nope" not found`},
		{"wait --for=delete pod/talker --timeout=0", "condition not met for pods/talker"},
		{"get pods --as=nobody", `(Forbidden): pods is forbidden: User "nobody" cannot list resource "pods" in API group "" in the namespace "kubectlget"`},
	} {
		e.fails(c.want, strings.Split(c.args, " ")...)
	}
}

func TestKubectlWaitAndDelete(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	waiting := e.follow(nil, "wait", "--for=create", "pod/talker", "--timeout=60s")
	e.apply(talker + "---" + web)
	e.prints(waiting, "pod/talker condition met")
	e.kubectl("wait", "--for=condition=Ready", "pod", "-l", "app=talker", "--timeout=60s")
	e.kubectl("wait", "--for=jsonpath={.status.phase}=Running", "pod/talker", "--timeout=60s")
	gone := e.follow(nil, "wait", "--for=delete", "pod/talker", "--timeout=60s")
	e.kubectl("delete", "pod", "talker", "--wait=false", "--grace-period=2")
	if err := gone.cmd.Wait(); err != nil {
		t.Errorf("wait --for=delete: %v: %s", err, gone)
	}

	e.kubectl("rollout", "status", "deploy/web", "--timeout=60s")
	e.kubectl("delete", "deploy", "web", "--cascade=orphan")
	if got := e.kubectl("get", "rs,pods", "-o", "name"); strings.Count(got, "/web-") != 3 {
		t.Errorf("delete --cascade=orphan leaves %q", got)
	}
	e.kubectl("delete", "rs", "--all", "--cascade=foreground", "--timeout=60s")
	if got := e.kubectl("get", "rs,pods", "-o", "name"); got != "" {
		t.Errorf("delete --cascade=foreground leaves %q", got)
	}
	e.apply(talker)
	e.kubectl("wait", "--for=condition=Ready", "pod/talker", "--timeout=60s")
	e.kubectl("delete", "pod", "-l", "app=talker", "--grace-period=0", "--force")
	e.fails("(NotFound)", "get", "pod", "talker")
	e.kubectl("delete", "all", "--all")
	if got := e.kubectl("get", "all", "-o", "name"); got != "" {
		t.Errorf("delete all --all leaves %q", got)
	}
}
