package policy_test

import (
	"slices"
	"strings"
	"testing"

	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/api/policy"
)

func budget(least, most *intstr.IntOrString) *policyv1.PodDisruptionBudget {
	return &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "b"},
		Spec: policyv1.PodDisruptionBudgetSpec{
			MinAvailable: least, MaxUnavailable: most, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
		},
	}
}

func number(n int32) *intstr.IntOrString { return ptr.To(intstr.FromInt32(n)) }
func part(s string) *intstr.IntOrString  { return ptr.To(intstr.FromString(s)) }

func TestValidation(t *testing.T) {
	k := policy.PodDisruptionBudget()
	bad := budget(number(1), nil)
	bad.Spec.UnhealthyPodEvictionPolicy = ptr.To(policyv1.UnhealthyPodEvictionPolicyType("Never"))
	bad.Spec.Selector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
		{Key: "app", Operator: metav1.LabelSelectorOpIn, Values: []string{"not a value"}},
	}}
	for _, x := range []struct {
		name string
		obj  *policyv1.PodDisruptionBudget
		want []string
	}{
		{"number", budget(number(1), nil), nil},
		{"part", budget(nil, part("50%")), nil},
		{"neither", budget(nil, nil), nil},
		{"both", budget(number(1), number(1)), []string{"spec FieldValueInvalid minAvailable and maxUnavailable cannot be both set"}},
		{"negative", budget(number(-1), nil), []string{"spec.minAvailable FieldValueInvalid must be greater than or equal to 0"}},
		{"too much", budget(nil, part("101%")), []string{"spec.maxUnavailable FieldValueInvalid must not be greater than 100%"}},
		{"other fields", bad, []string{
			"spec.selector.matchExpressions[0].values[0] FieldValueInvalid a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
			`spec.unhealthyPodEvictionPolicy FieldValueNotSupported supported values: "AlwaysAllow", "IfHealthyBudget"`,
		}},
	} {
		t.Run(x.name, func(t *testing.T) {
			var got []string
			for _, e := range k.Validate(x.obj) {
				got = append(got, strings.TrimSpace(e.Field+" "+string(e.Type)+" "+e.Detail))
			}
			if !slices.Equal(got, x.want) {
				t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(x.want, "\n\t"))
			}
		})
	}
	// A selector that was stored may stay.
	old := bad.DeepCopy()
	old.Spec.UnhealthyPodEvictionPolicy, bad.Spec.UnhealthyPodEvictionPolicy = nil, nil
	if errs := k.ValidateUpdate(bad, old); len(errs) > 0 {
		t.Error(errs)
	}
}

func TestStatusIsNotTheUsers(t *testing.T) {
	k := policy.PodDisruptionBudget()
	old := budget(number(1), nil)
	old.Status.DisruptionsAllowed = 2
	next := budget(number(2), nil)
	next.Status.DisruptionsAllowed = 99
	k.PrepareUpdate(next, old)
	if next.Status.DisruptionsAllowed != 2 || next.Generation != old.Generation+1 {
		t.Errorf("%+v", next)
	}
	status := budget(number(9), nil)
	status.Status.DisruptionsAllowed = -1
	k.Status.PrepareUpdate(status, old)
	if errs := k.Status.ValidateUpdate(status, old); len(errs) != 1 || errs[0].Field != "status.disruptionsAllowed" || status.Spec.MinAvailable.IntVal != 1 {
		t.Errorf("%v %+v", errs, status.Spec)
	}
}

func TestColumns(t *testing.T) {
	k := policy.PodDisruptionBudget()
	b := budget(part("50%"), nil)
	b.Status.DisruptionsAllowed = 1
	for i, want := range []any{"50%", "N/A", int64(1)} {
		if got := k.Columns[i].Value(b); got != want {
			t.Errorf("%s: %v", k.Columns[i].Name, got)
		}
	}
}
