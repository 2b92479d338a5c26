package e2e

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// services are Services of each kind over the pods of web.
const services = `
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None, selector: {app: web}, ports: [{name: http, port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: port}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: elsewhere}
spec: {type: ExternalName, externalName: web.services.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: itself}
spec: {selector: {app: talker}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: empty}
spec: {selector: {app: nobody}, ports: [{port: 80}]}
`

// balanced and rival want the same port of the node.
const balanced = `
apiVersion: v1
kind: Service
metadata: {name: balanced}
spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 8088, targetPort: 8080}]}
`

func TestServices(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.apply(web + "---" + services)
	e.apply(talker)
	e.kubectl("rollout", "status", "deploy/web", "--timeout=60s")
	e.kubectl("wait", "--for=condition=Ready", "pod/talker", "--timeout=60s")
	inside := func(script string) (string, error) {
		return e.try("exec", "talker", "-c", "main", "--", "sh", "-c", script)
	}
	eventually := func(what, script string, ok func(string) bool) {
		t.Helper()
		var out string
		var err error
		if failed := shared.Until(t.Context(), time.Minute, func() bool {
			out, err = inside(script)
			return err == nil && ok(out)
		}); failed != nil {
			t.Fatalf("%s: %v; at last %q, %v", what, failed, out, err)
		}
	}
	fromWeb := func(out string) bool { return strings.HasPrefix(out, "web-") }
	for _, name := range []string{"web", "web.services", "web.services.svc", "web.services.svc.cluster.local", "headless:8080", "elsewhere", "port"} {
		eventually("a pod reaches "+name, "timeout 5 wget -qO- http://"+name, fromWeb)
	}
	eventually("every pod behind a Service is met", "for i in $(seq 40); do timeout 5 wget -qO- http://web; done | sort -u | wc -l",
		func(out string) bool { return strings.TrimSpace(out) == "2" })
	eventually("a Service without pods refuses", "timeout 8 wget -qO- http://empty 2>&1 || true",
		func(out string) bool { return strings.Contains(out, "refused") })
	if out, err := inside("mkdir -p /tmp/w && echo hairpin > /tmp/w/index.html && httpd -p 8080 -h /tmp/w"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	eventually("a pod reaches itself through its Service", "timeout 5 wget -qO- http://itself",
		func(out string) bool { return out == "hairpin\n" })

	nodePort := e.kubectl("get", "svc", "port", "-o", "jsonpath={.spec.ports[0].nodePort}")
	for _, host := range []string{"192.0.2.10", "127.0.0.1", e.kubectl("get", "svc", "web", "-o", "jsonpath={.spec.clusterIP}")} {
		address := "http://" + net.JoinHostPort(host, nodePort)
		if strings.HasPrefix(host, "10.") {
			address = "http://" + host
		}
		e.until("the node reaches "+address, func() bool { got, err := ask(t.Context(), address); return err == nil && fromWeb(got) })
	}

	e.apply(balanced)
	addresses := func(name string) string {
		return e.kubectl("get", "svc", name, "-o", "jsonpath={.status.loadBalancer.ingress[*].ip}")
	}
	e.until("a LoadBalancer Service has the node's address", func() bool { return addresses("balanced") == "192.0.2.10" })
	e.apply(strings.ReplaceAll(balanced, "name: balanced", "name: rival"))
	e.until("the node reaches it there", func() bool {
		got, err := ask(t.Context(), "http://192.0.2.10:8088")
		return err == nil && fromWeb(got)
	})
	eventually("a pod reaches it there", "timeout 5 wget -qO- http://192.0.2.10:8088", fromWeb)
	e.until("another one is told that the port is taken", func() bool {
		return strings.Contains(e.kubectl("get", "events"), "port 8088/TCP of 192.0.2.10 is taken by Service "+e.namespace+"/balanced")
	})
	e.kubectl("patch", "svc", "balanced", "-p", `{"spec":{"loadBalancerSourceRanges":["203.0.113.0/24"]}}`)
	eventually("a pod is none of those that may come in", "timeout 1 wget -qO- http://192.0.2.10:8088 || echo out",
		func(out string) bool { return out == "out\n" })
	if got := addresses("rival"); got != "" {
		t.Errorf("two Services share a port of %s", got)
	}
	e.kubectl("delete", "svc", "balanced")
	e.until("the other one has it next", func() bool { return addresses("rival") == "192.0.2.10" })
	eventually("a pod reaches the other one", "timeout 5 wget -qO- http://192.0.2.10:8088", fromWeb)

	ip := e.pod("talker").Status.PodIP
	for name, want := range map[string]string{
		"web.services.svc.cluster.local":                                   e.kubectl("get", "svc", "web", "-o", "jsonpath={.spec.clusterIP}"),
		"kubernetes.default.svc.cluster.local":                             "10.43.0.1",
		"headless.services.svc.cluster.local":                              e.kubectl("get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].status.podIP}"),
		strings.ReplaceAll(ip, ".", "-") + ".services.pod.cluster.local":   ip,
		"elsewhere.services.svc.cluster.local":                             "web.services.svc.cluster.local",
		"-type=srv _http._tcp.headless.services.svc.cluster.local":         "80 ",
		e.kubectl("get", "svc", "web", "-o", "jsonpath={.spec.clusterIP}"): "web.services.svc.cluster.local",
	} {
		eventually("the name "+name, "nslookup "+name, func(out string) bool {
			_, answer, _ := strings.Cut(out, "\n\n")
			return strings.Contains(answer, want)
		})
	}
	if out, err := inside("nslookup nope.services.svc.cluster.local"); err == nil || !strings.Contains(out, "NXDOMAIN") {
		t.Errorf("a name that does not exist: %v: %s", err, out)
	}

	out, err := inside("cat /etc/resolv.conf")
	if err != nil {
		t.Fatal(err)
	}
	has(t, "resolv.conf", out, "search services.svc.cluster.local svc.cluster.local cluster.local", "nameserver 10.43.0.10", "options ndots:5")
	if out, err = inside("cat /etc/hosts"); err != nil {
		t.Fatal(err)
	}
	has(t, "hosts", out, "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n", fmt.Sprintf("%s\ttalker\n", ip))

	e.kubectl("scale", "deploy/web", "--replicas=0")
	eventually("a Service whose pods are gone refuses", "timeout 8 wget -qO- http://web 2>&1 || true",
		func(out string) bool { return strings.Contains(out, "refused") })
}
