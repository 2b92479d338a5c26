package autoscaling_test

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/autoscaling"
)

func load(t *testing.T, k *api.Kind, manifest string) api.Object {
	t.Helper()
	obj := k.New()
	if err := yaml.UnmarshalStrict([]byte(manifest), obj); err != nil {
		t.Fatalf("%v in\n%s", err, manifest)
	}
	k.Default(obj)
	return obj
}

func spec(more string) string {
	return "metadata: {name: h}\nspec:\n  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}\n  maxReplicas: 5\n  " + strings.ReplaceAll(more, "\n", "\n  ")
}

func check(t *testing.T, errs field.ErrorList, want []string) {
	t.Helper()
	var got []string
	for _, e := range errs {
		got = append(got, e.Error())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestValidation(t *testing.T) {
	k := autoscaling.HorizontalPodAutoscaler()
	for _, c := range []struct {
		name, manifest string
		want           []string
	}{
		{"plain", spec(""), nil},
		{"nothing", "metadata: {name: h}\nspec: {minReplicas: -1}", []string{
			`spec.minReplicas: Invalid value: -1: must be greater than or equal to 0`,
			`spec.maxReplicas: Required value: must be set and greater than 0`,
			`spec.scaleTargetRef.kind: Required value`,
			`spec.scaleTargetRef.name: Required value`,
			`spec.scaleTargetRef.apiVersion: Invalid value: "": apiVersion must specify API group`,
		}},
		{"a core kind", "metadata: {name: h}\nspec: {maxReplicas: 1, scaleTargetRef: {kind: ReplicationController, name: r, apiVersion: v1}}", nil},
		{"limits", spec("minReplicas: 9"), []string{"spec.maxReplicas: Invalid value: 5: must be greater than or equal to `minReplicas`"}},
		{"zero", spec("minReplicas: 0"), []string{`spec.metrics: Forbidden: must specify at least one Object or External metric to support scaling to zero replicas`}},
		{"metrics", spec(`metrics:
- {type: Resource}
- {type: Resource, resource: {name: cpu, target: {type: Utilization}}, pods: {metric: {name: a/b}, target: {type: X, averageValue: "0"}}}
- {type: External, external: {metric: {name: ""}, target: {type: Value, value: "1", averageValue: "1"}}}
- {type: Object, object: {describedObject: {kind: a, name: "%"}, metric: {name: m}, target: {type: Value}}}
- {type: ContainerResource, containerResource: {name: cpu, container: A, target: {type: Utilization, averageUtilization: 0, averageValue: "1"}}}
- {type: Nope}`), []string{
			`spec.metrics[0].resource: Required value: must populate information for the given metric source`,
			`spec.metrics[1].pods.metric.name: Invalid value: "a/b": may not contain '/'`,
			`spec.metrics[1].pods.target.type: Invalid value: "X": must be either Utilization, Value, or AverageValue`,
			`spec.metrics[1].pods.target.averageValue: Invalid value: "0": must be positive`,
			`spec.metrics[1].pods: Forbidden: must populate the given metric source only`,
			`spec.metrics[2].external.metric.name: Required value: must specify a metric name`,
			`spec.metrics[2].external.target.value: Forbidden: may not set both a target value for metric and a per-pod target`,
			`spec.metrics[3].object.describedObject.name: Invalid value: "%": may not contain '%'`,
			`spec.metrics[3].object.target.averageValue: Required value: must set either a target value or averageValue`,
			`spec.metrics[4].containerResource.container: Invalid value: "A": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')`,
			`spec.metrics[4].containerResource.target.averageUtilization: Invalid value: 0: must be greater than 0`,
			`spec.metrics[4].containerResource.target.averageValue: Forbidden: may not set both a target raw value and a target utilization`,
			`spec.metrics[5].type: Unsupported value: "Nope": supported values: "ContainerResource", "External", "Object", "Pods", "Resource"`,
			`spec.metrics[5].type: Unsupported value: "Nope": supported values: "ContainerResource", "External", "Object", "Pods", "Resource"`,
		}},
		{"behavior", spec(`behavior:
  scaleUp: {stabilizationWindowSeconds: -1, selectPolicy: Most, policies: [{type: X, value: 0, periodSeconds: 1801}], tolerance: "-1"}
  scaleDown: {stabilizationWindowSeconds: 3601, policies: []}`), []string{
			`spec.behavior.scaleUp.stabilizationWindowSeconds: Invalid value: -1: must be greater than or equal to zero`,
			`spec.behavior.scaleUp.selectPolicy: Unsupported value: "Most": supported values: "Disabled", "Max", "Min"`,
			`spec.behavior.scaleUp.policies[0].type: Unsupported value: "X": supported values: "Percent", "Pods"`,
			`spec.behavior.scaleUp.policies[0].value: Invalid value: 0: must be greater than zero`,
			`spec.behavior.scaleUp.policies[0].periodSeconds: Invalid value: 1801: must be less than or equal to 1800`,
			`spec.behavior.scaleUp.tolerance: Invalid value: "-1": must be greater than or equal to 0`,
			`spec.behavior.scaleDown.stabilizationWindowSeconds: Invalid value: 3601: must be less than or equal to 3600`,
			`spec.behavior.scaleDown.policies: Required value: must specify at least one Policy`,
		}},
	} {
		t.Run(c.name, func(t *testing.T) { check(t, k.Validate(load(t, k, c.manifest)), c.want) })
	}
	// A reference that was stored before its rule may stay.
	old := load(t, k, "metadata: {name: h}\nspec: {maxReplicas: 1, scaleTargetRef: {kind: Deployment, name: d}}")
	now := load(t, k, "metadata: {name: h}\nspec: {maxReplicas: 2, scaleTargetRef: {kind: Deployment, name: d}}")
	check(t, k.ValidateUpdate(now, old), nil)
}

const everything = `metadata: {name: h, labels: {a: b}, annotations: {mine: "1"}}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}
  minReplicas: 2
  maxReplicas: 5
  behavior:
    scaleUp: {stabilizationWindowSeconds: 10, selectPolicy: Min, policies: [{type: Pods, value: 3, periodSeconds: 20}], tolerance: 50m}
    scaleDown: {selectPolicy: Disabled, policies: [{type: Percent, value: 10, periodSeconds: 60}]}
  metrics:
  - {type: Object, object: {describedObject: {apiVersion: v1, kind: Service, name: s}, metric: {name: hits, selector: {matchLabels: {a: b}}}, target: {type: Value, value: 10k}}}
  - {type: Object, object: {describedObject: {apiVersion: v1, kind: Service, name: s}, metric: {name: hits}, target: {type: AverageValue, averageValue: "10"}}}
  - {type: Pods, pods: {metric: {name: rate}, target: {type: AverageValue, averageValue: 100m}}}
  - {type: Resource, resource: {name: memory, target: {type: AverageValue, averageValue: 1Gi}}}
  - {type: ContainerResource, containerResource: {name: cpu, container: c, target: {type: Utilization, averageUtilization: 60}}}
  - {type: External, external: {metric: {name: queue}, target: {type: AverageValue, averageValue: "30"}}}
  - {type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 70}}}
status:
  currentReplicas: 3
  desiredReplicas: 4
  observedGeneration: 2
  lastScaleTime: "2030-01-01T00:00:00Z"
  conditions: [{type: AbleToScale, status: "True", reason: r, message: m, lastTransitionTime: "2030-01-01T00:00:00Z"}]
  currentMetrics:
  - {type: Object, object: {describedObject: {apiVersion: v1, kind: Service, name: s}, metric: {name: hits}, current: {value: "7"}}}
  - {type: Pods, pods: {metric: {name: rate}, current: {averageValue: "1"}}}
  - {type: Resource, resource: {name: cpu, current: {averageUtilization: 33, averageValue: 330m}}}
  - {type: External, external: {metric: {name: queue}, current: {value: "0", averageValue: "5"}}}
`

func TestConversion(t *testing.T) {
	k, old := autoscaling.HorizontalPodAutoscaler(), autoscaling.HorizontalPodAutoscalerV1()
	stored := load(t, k, everything).(*autoscalingv2.HorizontalPodAutoscaler)
	before := stored.DeepCopy()
	out, err := old.Storage.From(stored)
	if err != nil {
		t.Fatal(err)
	}
	h := out.(*autoscalingv1.HorizontalPodAutoscaler)
	if *h.Spec.TargetCPUUtilizationPercentage != 70 || *h.Status.CurrentCPUUtilizationPercentage != 33 || h.Annotations["mine"] != "1" || h.APIVersion != "autoscaling/v1" {
		t.Errorf("%+v", h)
	}
	if got, want := h.Annotations["autoscaling.alpha.kubernetes.io/behavior"], `{"ScaleUp":{"StabilizationWindowSeconds":10,"SelectPolicy":"Min","Policies":[{"Type":"Pods","Value":3,"PeriodSeconds":20}],"Tolerance":"50m"},`+
		`"ScaleDown":{"StabilizationWindowSeconds":null,"SelectPolicy":"Disabled","Policies":[{"Type":"Percent","Value":10,"PeriodSeconds":60}],"Tolerance":null}}`; got != want {
		t.Error(got)
	}
	var metrics []autoscalingv1.MetricSpec
	if err := json.Unmarshal([]byte(h.Annotations["autoscaling.alpha.kubernetes.io/metrics"]), &metrics); err != nil || len(metrics) != 6 {
		t.Errorf("%d metrics, %v", len(metrics), err)
	}
	back, err := old.Storage.To(h)
	if err != nil {
		t.Fatal(err)
	}
	again := back.(*autoscalingv2.HorizontalPodAutoscaler)
	again.TypeMeta = before.TypeMeta
	if !equality.Semantic.DeepEqual(again, before) || !equality.Semantic.DeepEqual(stored, before) {
		t.Error(cmp.Diff(before, again))
	}
}

// A v1 object is prepared and checked as what it stands for.
func TestV1(t *testing.T) {
	k := autoscaling.HorizontalPodAutoscalerV1()
	h := load(t, k, `metadata:
  name: h
  annotations: {autoscaling.alpha.kubernetes.io/conditions: '[{"type":"AbleToScale","status":"True"}]', autoscaling.alpha.kubernetes.io/behavior: '{"scaleUp":{"selectPolicy":"Min"}}'}
spec: {maxReplicas: 3, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: d}}
status: {currentReplicas: 9}`).(*autoscalingv1.HorizontalPodAutoscaler)
	k.PrepareCreate(h)
	if *h.Spec.TargetCPUUtilizationPercentage != 80 || *h.Spec.MinReplicas != 1 || h.Status.CurrentReplicas != 0 || h.Generation != 1 || len(h.Annotations) != 1 ||
		!strings.Contains(h.Annotations["autoscaling.alpha.kubernetes.io/behavior"], `"SelectPolicy":"Min","Policies":[{"Type":"Pods"`) {
		t.Errorf("%+v", h)
	}
	check(t, k.Validate(h), nil)
	next := h.DeepCopy()
	next.Annotations["autoscaling.alpha.kubernetes.io/metrics"] = `[{"type":"Pods"}]`
	k.PrepareUpdate(next, h)
	if next.Generation != 2 {
		t.Error(next.Generation)
	}
	check(t, k.ValidateUpdate(next, h), []string{`spec.metrics[0].pods: Required value: must populate information for the given metric source`})
	next.Annotations["autoscaling.alpha.kubernetes.io/metrics"] = `nonsense`
	check(t, k.ValidateUpdate(next, h), nil)
}

func TestColumns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // its clock stands at 2000-01-01
		k, old := autoscaling.HorizontalPodAutoscaler(), autoscaling.HorizontalPodAutoscalerV1()
		for manifest, want := range map[string]string{
			everything: "h|Deployment/web|7/10k, <unknown>/10 (avg) + 5 more...|2|5|3|5m",
			spec(""):   "h|Deployment/web|cpu: <unknown>/80%|1|5|0|5m",
		} {
			h := load(t, k, manifest)
			h.SetCreationTimestamp(metav1.NewTime(time.Now().Add(-5 * time.Minute)))
			v1, err := old.Storage.From(h)
			if err != nil {
				t.Fatal(err)
			}
			for _, row := range []struct {
				kind *api.Kind
				obj  api.Object
			}{{k, h}, {old, v1}} {
				var cells []string
				for _, col := range row.kind.TableColumns() {
					cell, err := json.Marshal(col.Value(row.obj))
					if err != nil {
						t.Fatal(err)
					}
					cells = append(cells, strings.Trim(string(cell), `"`))
				}
				if got := strings.ReplaceAll(strings.Join(cells, "|"), `\u003c`, "<"); strings.ReplaceAll(got, `\u003e`, ">") != want {
					t.Errorf("got  %s\nwant %s", got, want)
				}
			}
		}
	})
}
