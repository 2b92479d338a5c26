package e2e

import (
	"regexp"
	"strings"
	"testing"
)

func TestAutoscale(t *testing.T) {
	e := newEnv(t)
	e.apply(strings.Replace(web, "replicas: 2", "replicas: 3", 1))
	e.kubectl("rollout", "status", "deploy/web", "--timeout=60s")
	e.kubectl("autoscale", "deployment", "web", "--min=1", "--max=2", "--cpu=50%")
	// Three are more than it allows, whatever the metrics say.
	e.kubectl("wait", "--for=jsonpath={.spec.replicas}=2", "deploy/web", "--timeout=60s")
	e.kubectl("wait", "--for=condition=AbleToScale", "hpa/web", "--timeout=60s")
	for _, c := range []struct{ args, want string }{
		{"get hpa", `(?m)^NAME +REFERENCE +TARGETS +MINPODS +MAXPODS +REPLICAS +AGE\nweb +Deployment/web +cpu: \S+/50% +1 +2 +\d +\d+s$`},
		{"get horizontalpodautoscalers.v1.autoscaling web -o jsonpath={.apiVersion},{.spec.targetCPUUtilizationPercentage},{.status.desiredReplicas}", `^autoscaling/v1,50,2$`},
		{"get horizontalpodautoscalers.v2.autoscaling web -o jsonpath={.apiVersion},{.spec.metrics[0].resource.target},{.metadata.generation}", `^autoscaling/v2,{"averageUtilization":50,"type":"Utilization"},1$`},
		{"describe hpa web", `(?s)SuccessfulRescale .*New size: 2; reason: Current number of replicas above Spec.MaxReplicas`},
	} {
		if out := e.kubectl(strings.Fields(c.args)...); !regexp.MustCompile(c.want).MatchString(out) {
			t.Errorf("%s:\n%s\nmatches not %s", c.args, out, c.want)
		}
	}
	// A change of the spec is acted on at once; what it says of the status is not.
	e.kubectl("patch", "horizontalpodautoscalers.v1.autoscaling", "web", "--type=merge", "-p", `{"spec":{"minReplicas":1,"maxReplicas":1},"status":{"currentReplicas":99}}`)
	e.kubectl("wait", "--for=jsonpath={.spec.replicas}=1", "deploy/web", "--timeout=10s")
	if out, err := e.try("patch", "hpa/web", "--type=merge", "-p", `{"spec":{"minReplicas":3}}`); err == nil || !strings.Contains(err.Error(), "must be greater than or equal to `minReplicas`") {
		t.Errorf("%s %v", out, err)
	}

	// Nothing to scale, and nothing that can be.
	e.kubectl("patch", "hpa/web", "--type=merge", "-p", `{"spec":{"scaleTargetRef":{"name":"gone"}}}`)
	e.kubectl("wait", `--for=jsonpath={.status.conditions[?(@.type=="AbleToScale")].status}=False`, "hpa/web", "--timeout=10s")
	if out := e.kubectl("get", "hpa/web", "-o", `jsonpath={.status.conditions[?(@.type=="AbleToScale")].message}`); out !=
		`the HPA controller was unable to get the target's current scale: deployments.apps "gone" not found` {
		t.Error(out)
	}
}
