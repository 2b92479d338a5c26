package apps_test

import (
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/apps"
)

var web = map[string]string{"app": "web"}

func template() corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: web},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
}

func statefulSet() *appsv1.StatefulSet {
	s := &appsv1.StatefulSet{Spec: appsv1.StatefulSetSpec{Selector: &metav1.LabelSelector{MatchLabels: web}, Template: template(), ServiceName: "web"}}
	apps.StatefulSet().Default(s)
	return s
}

func daemonSet() *appsv1.DaemonSet {
	d := &appsv1.DaemonSet{Spec: appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: web}, Template: template()}}
	apps.DaemonSet().Default(d)
	return d
}

// wants compares errors by field, type and detail.
func wants(t *testing.T, errs field.ErrorList, want ...string) {
	t.Helper()
	var got []string
	for _, e := range errs {
		got = append(got, strings.TrimSpace(e.Field+" "+string(e.Type)+" "+e.Detail))
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func TestStatefulSetDefaults(t *testing.T) {
	s := statefulSet()
	if s.Spec.PodManagementPolicy != appsv1.OrderedReadyPodManagement || *s.Spec.Replicas != 1 || *s.Spec.RevisionHistoryLimit != 10 ||
		s.Spec.UpdateStrategy.Type != appsv1.RollingUpdateStatefulSetStrategyType || *s.Spec.UpdateStrategy.RollingUpdate.Partition != 0 ||
		s.Spec.PersistentVolumeClaimRetentionPolicy.WhenDeleted != appsv1.RetainPersistentVolumeClaimRetentionPolicyType ||
		s.Spec.Template.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		t.Errorf("%+v", s.Spec)
	}
	// A strategy that is named gets no parameters.
	s = &appsv1.StatefulSet{Spec: appsv1.StatefulSetSpec{UpdateStrategy: appsv1.StatefulSetUpdateStrategy{Type: appsv1.RollingUpdateStatefulSetStrategyType}}}
	apps.StatefulSet().Default(s)
	if s.Spec.UpdateStrategy.RollingUpdate != nil {
		t.Errorf("%+v", s.Spec.UpdateStrategy)
	}
}

func TestStatefulSetValidation(t *testing.T) {
	k := apps.StatefulSet()
	for _, x := range []struct {
		name   string
		change func(*appsv1.StatefulSet)
		want   []string
	}{
		{"valid", func(*appsv1.StatefulSet) {}, nil},
		{"no selector", func(s *appsv1.StatefulSet) { s.Spec.Selector = nil }, []string{
			"spec.selector FieldValueRequired", "spec.template.metadata.labels FieldValueInvalid `selector` does not match template `labels`",
		}},
		{"other labels", func(s *appsv1.StatefulSet) { s.Spec.Template.Labels = map[string]string{"app": "db"} }, []string{
			"spec.template.metadata.labels FieldValueInvalid `selector` does not match template `labels`",
		}},
		{"empty selector", func(s *appsv1.StatefulSet) { s.Spec.Selector = &metav1.LabelSelector{} }, []string{
			"spec.selector FieldValueInvalid empty selector is invalid for statefulset",
		}},
		{"policies", func(s *appsv1.StatefulSet) {
			s.Spec.PodManagementPolicy = "Some"
			s.Spec.UpdateStrategy = appsv1.StatefulSetUpdateStrategy{Type: "Recreate"}
			s.Spec.PersistentVolumeClaimRetentionPolicy.WhenScaled = "Burn"
		}, []string{
			"spec.podManagementPolicy FieldValueInvalid must be 'OrderedReady' or 'Parallel'",
			"spec.updateStrategy FieldValueInvalid must be 'RollingUpdate' or 'OnDelete'",
			`spec.persistentVolumeClaimRetentionPolicy.whenScaled FieldValueNotSupported supported values: "Delete", "Retain"`,
		}},
		{"limits", func(s *appsv1.StatefulSet) {
			s.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{
				Partition: ptr.To[int32](-1), MaxUnavailable: ptr.To(intstr.FromString("0%")),
			}
			s.Spec.Replicas = ptr.To[int32](-1)
			s.Spec.MinReadySeconds = -1
			s.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: -1}
		}, []string{
			"spec.updateStrategy.rollingUpdate.partition FieldValueInvalid must be greater than or equal to 0",
			"spec.updateStrategy.rollingUpdate.maxUnavailable FieldValueInvalid cannot be 0",
			"spec.replicas FieldValueInvalid must be greater than or equal to 0",
			"spec.minReadySeconds FieldValueInvalid must be greater than or equal to 0",
			"spec.ordinals.start FieldValueInvalid must be greater than or equal to 0",
		}},
		{"claims and service", func(s *appsv1.StatefulSet) {
			s.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}}}
			s.Spec.Template.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
			s.Spec.ServiceName = "Web"
			s.Spec.Template.Spec.Hostname = "overwritten later"
		}, []string{
			"spec.volumeClaimTemplates[0].spec.accessModes FieldValueRequired at least 1 access mode is required",
			"spec.volumeClaimTemplates[0].spec.resources[storage] FieldValueRequired",
			"spec.serviceName FieldValueInvalid a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
		}},
		{"template", func(s *appsv1.StatefulSet) {
			s.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
			s.Spec.Template.Spec.ActiveDeadlineSeconds = ptr.To[int64](1)
		}, []string{
			`spec.template.spec.restartPolicy FieldValueNotSupported supported values: "Always"`,
			"spec.template.spec.activeDeadlineSeconds FieldValueForbidden activeDeadlineSeconds in StatefulSet is not Supported",
		}},
	} {
		t.Run(x.name, func(t *testing.T) {
			s := statefulSet()
			x.change(s)
			wants(t, k.Validate(s), x.want...)
		})
	}
}

func TestStatefulSetUpdate(t *testing.T) {
	k := apps.StatefulSet()
	old, s := statefulSet(), statefulSet()
	s.Spec.Selector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: metav1.LabelSelectorOpExists}}}
	s.Spec.ServiceName = "Other"
	s.Spec.PodManagementPolicy = appsv1.ParallelPodManagement
	s.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}}}
	s.Spec.Replicas, s.Spec.MinReadySeconds = ptr.To[int32](7), 5
	wants(t, k.ValidateUpdate(s, old),
		"spec.selector FieldValueInvalid field is immutable",
		"spec.volumeClaimTemplates FieldValueInvalid field is immutable",
		"spec.serviceName FieldValueInvalid field is immutable",
		"spec.podManagementPolicy FieldValueInvalid field is immutable")
	// What was stored before a rule came may be scaled.
	old.Spec.Template.Spec.Containers[0].Name = "Not A Name"
	s = old.DeepCopy()
	s.Spec.Replicas = ptr.To[int32](7)
	wants(t, k.ValidateUpdate(s, old))
	k.PrepareUpdate(s, old)
	if s.Generation != old.Generation+1 {
		t.Error("the generation stays")
	}

	status := old.DeepCopy()
	status.Status = appsv1.StatefulSetStatus{Replicas: 1, ReadyReplicas: 2, AvailableReplicas: 3, CollisionCount: ptr.To[int32](-1)}
	wants(t, k.Status.ValidateUpdate(status, old),
		"status.readyReplicas FieldValueInvalid cannot be greater than status.replicas",
		"status.availableReplicas FieldValueInvalid cannot be greater than status.replicas",
		"status.availableReplicas FieldValueInvalid cannot be greater than status.readyReplicas",
		"status.collisionCount FieldValueInvalid must be greater than or equal to 0")
}

func TestDaemonSetValidation(t *testing.T) {
	k := apps.DaemonSet()
	for _, x := range []struct {
		name   string
		change func(*appsv1.DaemonSet)
		want   []string
	}{
		{"valid", func(*appsv1.DaemonSet) {}, nil},
		{"no selector", func(d *appsv1.DaemonSet) { d.Spec.Selector = nil }, []string{
			"spec.template.metadata.labels FieldValueInvalid `selector` does not match template `labels`",
		}},
		{"empty selector", func(d *appsv1.DaemonSet) { d.Spec.Selector = &metav1.LabelSelector{} }, []string{
			"spec.selector FieldValueInvalid empty selector is invalid for daemonset",
		}},
		{"both limits", func(d *appsv1.DaemonSet) {
			d.Spec.UpdateStrategy.RollingUpdate.MaxSurge = ptr.To(intstr.FromInt32(1))
		}, []string{"spec.updateStrategy.rollingUpdate.maxSurge FieldValueInvalid may not be set when maxUnavailable is non-zero"}},
		{"no limit", func(d *appsv1.DaemonSet) {
			d.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable = ptr.To(intstr.FromInt32(0))
		}, []string{"spec.updateStrategy.rollingUpdate.maxUnavailable FieldValueRequired cannot be 0 when maxSurge is 0"}},
		{"numbers", func(d *appsv1.DaemonSet) {
			d.Spec.MinReadySeconds = -1
			d.Spec.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{Type: "Some"}
			d.Spec.RevisionHistoryLimit = ptr.To[int32](-1)
		}, []string{
			"spec.minReadySeconds FieldValueInvalid must be greater than or equal to 0",
			`spec.updateStrategy.type FieldValueNotSupported supported values: "OnDelete", "RollingUpdate"`,
			"spec.revisionHistoryLimit FieldValueInvalid must be greater than or equal to 0",
		}},
	} {
		t.Run(x.name, func(t *testing.T) {
			d := daemonSet()
			x.change(d)
			wants(t, k.Validate(d), x.want...)
		})
	}
}

func TestDaemonSetCountsTemplates(t *testing.T) {
	k := apps.DaemonSet()
	d := daemonSet()
	k.PrepareCreate(d)
	if got := d.Annotations[appsv1.DeprecatedTemplateGeneration]; got != "1" {
		t.Errorf("created with %q", got)
	}
	next := d.DeepCopy()
	next.Annotations[appsv1.DeprecatedTemplateGeneration] = "9"
	next.Spec.Template.Spec.Containers[0].Image = "j"
	k.PrepareUpdate(next, d)
	if got := next.Annotations[appsv1.DeprecatedTemplateGeneration]; got != "2" || next.Generation != d.Generation+1 {
		t.Errorf("updated to %q, generation %d", got, next.Generation)
	}
}

func TestControllerRevisionData(t *testing.T) {
	k := apps.ControllerRevision()
	revision := func(data string) *appsv1.ControllerRevision {
		r := &appsv1.ControllerRevision{Revision: 1}
		if data != "" {
			r.Data = runtime.RawExtension{Raw: []byte(data)}
		}
		return r
	}
	wants(t, k.Validate(revision(`{"a":1}`)))
	wants(t, k.Validate(revision("")), "data FieldValueRequired data is mandatory")
	wants(t, k.Validate(revision("null")), "data FieldValueRequired data is mandatory")
	wants(t, k.Validate(revision("[]")), "data FieldValueRequired data must be a valid JSON object")
	wants(t, k.ValidateUpdate(revision(`{"a":2}`), revision(`{"a":1}`)), "data FieldValueInvalid field is immutable")
}

func TestColumns(t *testing.T) {
	s := statefulSet()
	s.Spec.Replicas = ptr.To[int32](3)
	s.Status.ReadyReplicas = 2
	d := daemonSet()
	d.Status = appsv1.DaemonSetStatus{DesiredNumberScheduled: 5, CurrentNumberScheduled: 4, NumberReady: 3, UpdatedNumberScheduled: 2, NumberAvailable: 1}
	d.Spec.Template.Spec.NodeSelector = map[string]string{"disk": "ssd"}
	for _, x := range []struct {
		kind *api.Kind
		obj  api.Object
		want []any
	}{
		{apps.StatefulSet(), s, []any{"2/3"}},
		{apps.DaemonSet(), d, []any{int64(5), int64(4), int64(3), int64(2), int64(1), "disk=ssd"}},
	} {
		for i, want := range x.want {
			if got := x.kind.Columns[i].Value(x.obj); got != want {
				t.Errorf("%s %s: %v, not %v", x.kind.Resource, x.kind.Columns[i].Name, got, want)
			}
		}
	}
}
