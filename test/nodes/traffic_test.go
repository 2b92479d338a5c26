package nodes

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/proa-dev/proa/test/isolate"
)

// webOn is a web server on each node: it says who it is and who asks.
func webOn(node string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: web-%[1]s, labels: {app: web, on: %[1]s}}
spec:
  nodeSelector: {kubernetes.io/hostname: %[1]s}
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: %[2]s
    command: [sh, -c]
    args:
    - |
      mkdir -p /www/cgi-bin
      printf '#!/bin/sh\necho "Content-Type: text/plain"\necho\necho $HOSTNAME $(echo $REMOTE_ADDR | tr -d "[]" | sed "s,.*:,,")' > /www/cgi-bin/who
      chmod +x /www/cgi-bin/who
      dd if=/dev/zero of=/www/big bs=1M count=8 2>/dev/null
      echo started
      exec httpd -f -p 8080 -h /www
    envFrom: [{secretRef: {name: known}}, {configMapRef: {name: known}}]
    readinessProbe: {httpGet: {path: /cgi-bin/who, port: 8080}, periodSeconds: 1}
---
`, node, busybox)
}

const webServices = `
apiVersion: v1
kind: Secret
metadata: {name: known}
stringData: {SECRET: s}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: known}
data: {SETTING: c}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: anywhere}
spec: {type: NodePort, selector: {on: node-2}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}
---
apiVersion: v1
kind: Service
metadata: {name: local}
spec: {type: NodePort, externalTrafficPolicy: Local, selector: {on: node-2}, ports: [{port: 80, targetPort: 8080, nodePort: 30081}]}
---
apiVersion: v1
kind: Service
metadata: {name: balanced}
spec: {type: LoadBalancer, selector: {on: node-2}, ports: [{port: 8088, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: balanced-local}
spec: {type: LoadBalancer, externalTrafficPolicy: Local, selector: {on: node-2}, ports: [{port: 8089, targetPort: 8080}]}
`

// traffic is first: later parts use its pods.
func traffic(t *testing.T) {
	apply(t, webOn(first)+webOn(second)+webServices)
	kubectl(t, "wait", "--for=condition=Ready", "pod/web-node-1", "pod/web-node-2", "--timeout=60s")
	ip := map[string]string{}
	for _, n := range []string{first, second} {
		ip[n] = kubectl(t, "get", "pod", "web-"+n, "-o", "jsonpath={.status.podIP}")
	}
	for _, from := range []string{first, second} {
		to := map[string]string{first: second, second: first}[from]
		pod := "web-" + from
		eventually(t, pod, fmt.Sprintf("timeout 5 wget -qO- http://%s:8080/cgi-bin/who", ip[to]), is("web-"+to+" "+ip[from]))
		eventually(t, pod, fmt.Sprintf("timeout 20 wget -qO- http://%s:8080/big | wc -c", ip[to]), is("8388608"))
		eventually(t, pod, "for i in $(seq 30); do timeout 5 wget -qO- http://web/cgi-bin/who | cut -d' ' -f1; done | sort -u | xargs", is("web-node-1 web-node-2"))
		eventually(t, pod, "timeout 5 nc -w 5 kubernetes.default.svc.cluster.local 443 </dev/null && echo open", is("open"))
		eventually(t, pod, "timeout 5 nslookup web.default.svc.cluster.local >/dev/null && echo found", is("found"))
		eventually(t, pod, "echo $SECRET $SETTING", is("s c"))
		// The node itself, as the kubelet and the API server do.
		eventually(t, pod, fmt.Sprintf("ping -c1 -W2 %s >/dev/null && echo there", map[string]string{first: isolate.Address, second: agent.Address}[to]), is("there"))
	}
	fromHosts(t, ip)
}

// fromHosts asks from the nodes themselves and from outside.
func fromHosts(t *testing.T, ip map[string]string) {
	service := kubectl(t, "get", "svc", "web", "-o", "jsonpath={.spec.clusterIP}")
	for _, address := range []string{ip[second] + ":8080", service + ":80", "127.0.0.1:30080"} {
		until(t, first+" reaches "+address, time.Minute, func() (string, bool) {
			out, err := ask(t.Context(), address)
			return fmt.Sprint(out, err), err == nil && strings.HasPrefix(out, "web-")
		})
	}
	for _, address := range []string{ip[first] + ":8080", service + ":80"} {
		until(t, second+" reaches "+address, time.Minute, func() (string, bool) {
			var out string
			err := agent.Do(func() (err error) {
				out, err = ask(t.Context(), address)
				return err
			})
			return fmt.Sprint(out, err), err == nil && strings.HasPrefix(out, "web-")
		})
	}
	outside := func(address string) (out string, err error) {
		failed := shared.Outside(func() error {
			out, err = ask(t.Context(), address)
			return nil
		})
		if failed != nil {
			t.Fatal(failed)
		}
		return out, err
	}
	for _, address := range []string{isolate.Address + ":30080", agent.Address + ":30080", isolate.Address + ":8088", agent.Address + ":8088"} {
		until(t, "outside reaches "+address, time.Minute, func() (string, bool) {
			out, err := outside(address)
			return fmt.Sprint(out, err), err == nil && strings.HasPrefix(out, "web-node-2 ")
		})
	}
	for name, want := range map[string]string{"balanced": isolate.Address + " " + agent.Address, "balanced-local": agent.Address} {
		if got := kubectl(t, "get", "svc", name, "-o", "jsonpath={.status.loadBalancer.ingress[*].ip}"); got != want {
			t.Errorf("the addresses of %s: %q, want %q", name, got, want)
		}
	}
	if out, err := outside(agent.Address + ":8089"); err != nil || out != "web-node-2 "+isolate.Gateway {
		t.Errorf("a balanced local Service on the node of its pod: %q, %v", out, err)
	}
	if out, err := outside(agent.Address + ":30081"); err != nil || out != "web-node-2 "+isolate.Gateway {
		t.Errorf("a local Service on the node of its pod: %q, %v", out, err)
	}
	if out, err := outside(isolate.Address + ":30081"); err == nil {
		t.Errorf("a local Service on a node without a pod of it: %q", out)
	}
}

// ask connects from the thread's namespace: no connection is kept for others.
func ask(ctx context.Context, address string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	// A dialer with a fallback uses other threads; a plain one does not.
	conn, err := (&net.Dialer{FallbackDelay: -1}).DialContext(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil },
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/cgi-bin/who", nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	return strings.TrimSpace(string(out)), err
}

// nodeAPI reaches the second node's kubelet through the API server.
func nodeAPI(t *testing.T) {
	if out := kubectl(t, "logs", "web-node-2"); out != "started" {
		t.Errorf("logs: %q", out)
	}
	if out := kubectl(t, "exec", "web-node-2", "--", "hostname"); out != "web-node-2" {
		t.Errorf("exec: %q", out)
	}
	if out := kubectl(t, "get", "--raw", "/api/v1/nodes/node-2/proxy/healthz"); out != "ok" {
		t.Errorf("node proxy: %q", out)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	forward := shared.KubectlCommand(ctx, "port-forward", "pod/web-node-2", "18080:8080")
	if err := forward.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, "port-forward", 30*time.Second, func() (string, bool) {
		out, err := ask(t.Context(), "127.0.0.1:18080")
		return fmt.Sprint(out, err), err == nil && strings.HasPrefix(out, "web-node-2 ")
	})
	cancel()
	_ = forward.Wait() // it was killed

	out := kubectl(t, "get", "csr", "-o", `jsonpath={range .items[*]}{.spec.signerName} {.status.conditions[*].type}{"\n"}{end}`)
	lines := strings.Split(out, "\n")
	slices.Sort(lines)
	if want := "kubernetes.io/kube-apiserver-client-kubelet Approved\nkubernetes.io/kubelet-serving Approved"; strings.Join(lines, "\n") != want {
		t.Errorf("certificate requests:\n%s\nwant\n%s", out, want)
	}
	n := node(t, second)
	if n.Labels["test"] != "second" || n.Spec.PodCIDR == "" || n.Spec.PodCIDR == node(t, first).Spec.PodCIDR {
		t.Errorf("node: labels %v, pods' network %s", n.Labels, n.Spec.PodCIDR)
	}
}

// tokens are made, shown, signed with, deleted and forgotten in time.
func tokens(t *testing.T) {
	proa := func(args ...string) string {
		t.Helper()
		out, err := shared.Token(t.Context(), args...)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(out)
	}
	full := proa("create", "--ttl=1h", "--description=for a test")
	id, _, _ := strings.Cut(full[strings.Index(full, "::")+2:], ".")
	if out := proa("list"); !strings.Contains(out, id+"   59m") || !strings.Contains(out, "for a test") || strings.Contains(out, full[len(full)-16:]) {
		t.Errorf("list:\n%s", out)
	}
	signatures := func() string {
		return kubectl(t, "get", "cm", "cluster-info", "-n", "kube-public", "-o", "jsonpath={.data}")
	}
	until(t, "cluster-info is signed", 10*time.Second, func() (string, bool) { out := signatures(); return out, strings.Contains(out, "jws-kubeconfig-"+id) })
	if out := proa("delete", full); out != "token "+id+" deleted" {
		t.Errorf("delete: %q", out)
	}
	until(t, "the signature is gone", 10*time.Second, func() (string, bool) { out := signatures(); return out, !strings.Contains(out, id) })
	soon := proa("create", "--ttl=2s")
	id, _, _ = strings.Cut(soon[strings.Index(soon, "::")+2:], ".")
	until(t, "a token is removed when its time is over", 20*time.Second, func() (string, bool) {
		out := proa("list")
		return out, !strings.Contains(out, id)
	})
	if out, err := shared.Token(t.Context(), "create", "--groups=system:masters"); err == nil || !strings.Contains(err.Error(), `bootstrap group "system:masters" is invalid`) {
		t.Errorf("a token of masters: %q, %v", out, err)
	}
	if out, err := agent.Run(t.Context(), nil, shared.Program("proa"), "agent", "--data-dir", t.TempDir(), "--node-name", "third", "--server", "https://"+isolate.Address+":6443", "--token", full); err == nil ||
		!strings.Contains(err.Error(), "does not accept this node's credentials") {
		t.Errorf("a deleted token: %q, %v", out, err)
	}
}
