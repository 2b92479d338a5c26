package api

import (
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// policies are bound to the namespaces that carry the label of the test. They
// are in force a moment after they are made.
const policies = `
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: NAME}
spec:
  matchConstraints:
    namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: NAME}}
    resourceRules:
    - {apiGroups: [apps], apiVersions: [v1], operations: [CREATE, UPDATE], resources: [deployments]}
  paramKind: {apiVersion: v1, kind: ConfigMap}
  variables:
  - {name: replicas, expression: object.spec.replicas}
  - {name: oddReplicas, expression: variables.replicas % 2 == 1}
  validations:
  - {expression: variables.replicas <= int(params.data.most), messageExpression: "'at most ' + params.data.most"}
  - {expression: variables.oddReplicas, message: must be odd, reason: Forbidden}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: NAME}
spec: {policyName: NAME, validationActions: [Deny], paramRef: {name: limits, parameterNotFoundAction: Deny}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {name: NAME}
spec:
  reinvocationPolicy: Never
  matchConstraints:
    namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: NAME}}
    resourceRules:
    - {apiGroups: [apps], apiVersions: [v1], operations: [CREATE], resources: [deployments]}
  matchConditions:
  - {name: unlabelled, expression: "!has(object.metadata.labels) || !('team' in object.metadata.labels)"}
  mutations:
  - patchType: ApplyConfiguration
    applyConfiguration:
      expression: 'Object{metadata: Object.metadata{labels: {"team": "blue"}}}'
  - patchType: JSONPatch
    jsonPatch:
      expression: '[JSONPatch{op: "add", path: "/metadata/annotations", value: {"patched": "yes"}}]'
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {name: NAME}
spec: {policyName: NAME}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: limits, namespace: NAME}
data: {most: "3"}
`

func TestPolicies(t *testing.T) {
	ns := namespace(t)
	manifest := strings.ReplaceAll(policies, "NAME", ns)
	if out, err := world.Kubectl(t.Context(), strings.NewReader(manifest), "apply", "-f", "-"); err != nil {
		t.Fatal(out, err)
	}
	t.Cleanup(func() {
		_, _ = world.Kubectl(t.Context(), strings.NewReader(manifest), "delete", "--wait=false", "-f", "-")
	})
	deployment := func(replicas int32) *appsv1.Deployment {
		return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: ns}, Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: web}, Template: apps{node: "none"}.template("v1"),
		}}
	}
	client := world.kube.AppsV1().Deployments(ns)
	dry := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	said := func(replicas int32) string {
		_, err := client.Create(t.Context(), deployment(replicas), dry)
		if err == nil {
			return ""
		}
		return err.Error()
	}
	eventually(t, func() (bool, any) {
		text := said(5)
		return strings.HasSuffix(text, "ValidatingAdmissionPolicy '"+ns+"' with binding '"+ns+"' denied request: at most 3"), text
	})
	if text := said(2); !strings.HasSuffix(text, "denied request: must be odd") {
		t.Error(text)
	}
	made := get[*appsv1.Deployment](t)(client.Create(t.Context(), deployment(3), metav1.CreateOptions{}))
	if made.Labels["team"] != "blue" || made.Annotations["patched"] != "yes" || *made.Spec.Replicas != 3 {
		t.Errorf("not mutated: %v %v %d", made.Labels, made.Annotations, *made.Spec.Replicas)
	}
}

// limited is a policy whose parameters are a custom resource; one of its
// expressions names a field that deployments do not have.
const limited = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: limits.NAME.example.com}
spec:
  group: NAME.example.com
  scope: Namespaced
  names: {plural: limits, kind: Limit}
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {most: {type: integer}}}}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: limited-NAME}
spec:
  matchConstraints:
    namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: NAME}}
    resourceRules:
    - {apiGroups: [apps], apiVersions: [v1], operations: [CREATE], resources: [deployments]}
  paramKind: {apiVersion: NAME.example.com/v1, kind: Limit}
  validations:
  - {expression: object.spec.replicas <= params.most, messageExpression: "'at most ' + string(params.most)"}
  - {expression: "!has(object.spec.nonsense)"}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: limited-NAME}
spec: {policyName: limited-NAME, validationActions: [Deny], paramRef: {name: few, parameterNotFoundAction: Deny}}
`

func TestPolicyOfCustomKind(t *testing.T) {
	ns := namespace(t)
	apply := func(manifest string) (string, error) {
		return world.Kubectl(t.Context(), strings.NewReader(strings.ReplaceAll(manifest, "NAME", ns)), "apply", "-f", "-")
	}
	if out, err := apply(limited); err != nil {
		t.Fatal(out, err)
	}
	t.Cleanup(func() {
		_, _ = world.Kubectl(t.Context(), strings.NewReader(strings.ReplaceAll(limited, "NAME", ns)), "delete", "--wait=false", "-f", "-")
	})
	eventually(t, func() (bool, any) {
		out, err := apply("apiVersion: NAME.example.com/v1\nkind: Limit\nmetadata: {name: few, namespace: NAME}\nmost: 2\n")
		return err == nil, out
	})
	three := int32(3)
	web := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: ns}, Spec: appsv1.DeploymentSpec{
		Replicas: &three, Selector: &metav1.LabelSelector{MatchLabels: web}, Template: apps{node: "none"}.template("v1"),
	}}
	eventually(t, func() (bool, any) {
		_, err := world.kube.AppsV1().Deployments(ns).Create(t.Context(), web, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err != nil && strings.HasSuffix(err.Error(), "denied request: at most 2"), err
	})
	eventually(t, func() (bool, any) {
		p := get[*admissionv1.ValidatingAdmissionPolicy](t)(world.kube.AdmissionregistrationV1().ValidatingAdmissionPolicies().Get(t.Context(), "limited-"+ns, metav1.GetOptions{}))
		if p.Status.TypeChecking == nil || len(p.Status.TypeChecking.ExpressionWarnings) != 1 {
			return false, p.Status
		}
		w := p.Status.TypeChecking.ExpressionWarnings[0]
		return w.FieldRef == "spec.validations[1].expression" && strings.Contains(w.Warning, "undefined field 'nonsense'"), w
	})
}
