package nodes

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// containers are those of the second node's web server, by id and restarts.
func containers(t *testing.T) string {
	t.Helper()
	return kubectl(t, "get", "pod", "web-node-2", "-o", "jsonpath={.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}")
}

// agentRestarts ends the agent in both ways: its pods run on and are
// reached meanwhile, and the next run takes them up.
func agentRestarts(t *testing.T) {
	before := containers(t)
	for _, end := range []struct {
		how string
		do  func() error
	}{{"stopped", agent.Stop}, {"killed", agent.Kill}} {
		if err := end.do(); err != nil {
			t.Fatal(end.how, err)
		}
		ip := kubectl(t, "get", "pod", "web-node-2", "-o", "jsonpath={.status.podIP}")
		if out, err := shell(t, "web-node-1", "timeout 5 wget -qO- http://"+ip+":8080/cgi-bin/who"); err != nil || !strings.HasPrefix(out, "web-node-2") {
			t.Errorf("%s: the pod is not reached: %q, %v", end.how, out, err)
		}
		if err := agent.Start(t.Context()); err != nil {
			t.Fatal(end.how, err)
		}
		if after := containers(t); after != before {
			t.Errorf("%s: containers were %s, are %s", end.how, before, after)
		}
		if out := kubectl(t, "exec", "web-node-2", "--", "hostname"); out != "web-node-2" {
			t.Errorf("%s: exec: %q", end.how, out)
		}
	}
}

// serverRestarts shows that an agent outlives its server and finds it again.
func serverRestarts(t *testing.T) {
	before := containers(t)
	if err := shared.Stop(); err != nil {
		t.Fatal(err)
	}
	// Services and names go on: asked from the second node's host, since
	// kubectl has nobody to ask.
	if answer, err := lookUp(t.Context(), "web.default.svc.cluster.local."); err != nil || len(answer.Answer) != 1 {
		t.Errorf("names while the server is away: %v, %v", answer, err)
	}
	// An agent that starts while the server is away waits for it.
	if err := agent.Stop(); err != nil {
		t.Fatal(err)
	}
	started := make(chan error, 1)
	go func() { started <- agent.Start(context.WithoutCancel(t.Context())) }()
	until(t, "the agent says that it waits", 30*time.Second, func() (string, bool) {
		words := agent.LastWords()
		return words, strings.Contains(words, "working on with what is known")
	})
	if err := shared.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	if after := containers(t); after != before {
		t.Errorf("containers were %s, are %s", before, after)
	}
	kubectl(t, "run", "late", "--image="+busybox, "--overrides", `{"spec":{"nodeName":"node-2"}}`, "--", "sleep", "3600")
	kubectl(t, "wait", "--for=condition=Ready", "pod/late", "--timeout=60s")
	kubectl(t, "delete", "pod", "late", "--grace-period=1")
}

// directRoutes has both nodes route to each other without a tunnel.
func directRoutes(t *testing.T) {
	before := containers(t)
	if err := shared.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := shared.Start(t.Context(), "--pod-network=direct"); err != nil {
		t.Fatal(err)
	}
	if err := agent.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := agent.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	cidr := node(t, second).Spec.PodCIDR
	until(t, "the first node routes to the second", 30*time.Second, func() (string, bool) {
		out := local(t, "ip", "route", "show", cidr) + local(t, "ip", "-o", "link")
		return out, strings.Contains(out, "via "+agent.Address+" dev eth0") && !strings.Contains(out, "vxlan")
	})
	ip := kubectl(t, "get", "pod", "web-node-2", "-o", "jsonpath={.status.podIP}")
	own := kubectl(t, "get", "pod", "web-node-1", "-o", "jsonpath={.status.podIP}")
	eventually(t, "web-node-1", "timeout 5 wget -qO- http://"+ip+":8080/cgi-bin/who", is("web-node-2 "+own))
	eventually(t, "web-node-1", "timeout 20 wget -qO- http://"+ip+":8080/big | wc -c", is("8388608"))
	if after := containers(t); after != before {
		t.Errorf("containers were %s, are %s", before, after)
	}
}

// lookUp asks the second node's DNS from its host.
func lookUp(ctx context.Context, name string) (answer *dns.Msg, err error) {
	err = agent.Do(func() (err error) {
		answer, _, err = (&dns.Client{Timeout: 5 * time.Second}).ExchangeContext(ctx, new(dns.Msg).SetQuestion(name, dns.TypeA), "10.43.0.10:53")
		return err
	})
	return answer, err
}

// mobile is an application that leaves a lost node soon.
const mobile = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: mobile}
spec:
  replicas: 2
  selector: {matchLabels: {app: mobile}}
  template:
    metadata: {labels: {app: mobile}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations:
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 2}
      - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 2}
      affinity: {nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 100, preference: {matchExpressions: [{key: test, operator: In, values: [second]}]}}]}}
      containers: [{name: main, image: ` + busybox + `, command: [sleep, "86400"]}]
`

// nodeLost loses a node: it is NotReady, its pods are replaced elsewhere,
// and it is taken back when it returns.
func nodeLost(t *testing.T) {
	apply(t, mobile)
	kubectl(t, "rollout", "status", "deploy/mobile", "--timeout=60s")
	on := func(node string) int {
		out := kubectl(t, "get", "pods", "-l", "app=mobile", "--field-selector=spec.nodeName="+node, "-o", "name")
		return len(strings.Fields(out))
	}
	if n := on(second); n == 0 {
		t.Fatal("no pod prefers the second node")
	}
	if err := agent.Kill(); err != nil {
		t.Fatal(err)
	}
	until(t, "the node is lost", 2*time.Minute, func() (string, bool) {
		n := node(t, second)
		return fmt.Sprint(n.Status.Conditions), ready(n) == corev1.ConditionUnknown
	})
	until(t, "its pods are replaced", time.Minute, func() (string, bool) {
		out := kubectl(t, "get", "deploy", "mobile", "-o", "jsonpath={.status.availableReplicas}")
		return out, out == "2" && on(first) == 2
	})
	if err := agent.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	until(t, "what was evicted is gone", time.Minute, func() (string, bool) { return fmt.Sprint(on(second)), on(second) == 0 })
	until(t, "the taints are gone", time.Minute, func() (string, bool) {
		taints := node(t, second).Spec.Taints
		return fmt.Sprint(taints), len(taints) == 0
	})
	kubectl(t, "delete", "deploy", "mobile")
}

// nodeRemoved: nothing of the second node is left anywhere.
func nodeRemoved(t *testing.T) {
	ip := kubectl(t, "get", "pod", "web-node-2", "-o", "jsonpath={.status.podIP}")
	if err := agent.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := agent.Proa(t.Context(), nil, "reset", "--yes"); err != nil {
		t.Fatal(err)
	}
	links, err := agent.Run(t.Context(), nil, "ip", "-o", "link")
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(links, "\n"); n != 2 { // lo and eth0
		t.Errorf("links after the reset:\n%s", links)
	}
	for _, args := range [][]string{{"nft", "list", "ruleset"}, {"ip", "neigh", "show", "nud", "permanent"}, {"ip", "route", "show", "10.42.0.0/16"}} {
		if out, err := agent.Run(t.Context(), nil, args[0], args[1:]...); err != nil || strings.TrimSpace(out) != "" {
			t.Errorf("%v after the reset: %q, %v", args, out, err)
		}
	}
	kubectl(t, "delete", "node", second)
	c, err := shared.Client()
	if err != nil {
		t.Fatal(err)
	}
	until(t, "its pods are gone", time.Minute, func() (string, bool) {
		_, err := c.CoreV1().Pods("default").Get(t.Context(), "web-node-2", metav1.GetOptions{})
		return fmt.Sprint(err), apierrors.IsNotFound(err)
	})
	until(t, "the first node forgets it", time.Minute, func() (string, bool) {
		out := local(t, "ip", "-o", "link") + local(t, "ip", "route", "show", "table", "all") + local(t, "bridge", "fdb", "show")
		return out, !strings.Contains(out, "vxlan") && !strings.Contains(out, ip[:strings.LastIndex(ip, ".")+1]) && !strings.Contains(out, agent.Address)
	})
}

// local runs a program on the first node.
func local(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
	return string(out)
}
