// Package flowcontrol describes the kinds of flowcontrol.apiserver.k8s.io.
package flowcontrol

import (
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"

	"github.com/proa-dev/proa/api"
)

// Kinds lists the kinds of the group.
func Kinds() []*api.Kind { return []*api.Kind{FlowSchema(), PriorityLevelConfiguration()} }

func gvk(kind string) schema.GroupVersionKind {
	return flowcontrolv1.SchemeGroupVersion.WithKind(kind)
}

// FlowSchema is the kind of flow schemas.
func FlowSchema() *api.Kind {
	type F = *flowcontrolv1.FlowSchema
	return &api.Kind{
		GVK:         gvk("FlowSchema"),
		Resource:    "flowschemas",
		New:         api.Maker[flowcontrolv1.FlowSchema](),
		NewList:     api.ListMaker[flowcontrolv1.FlowSchemaList](),
		StoragePath: "flowschemas",
		Columns: []api.Column{
			api.Col("PriorityLevel", "string", "Where its requests wait.", func(f F) any { return f.Spec.PriorityLevelConfiguration.Name }),
			api.Col("MatchingPrecedence", "string", "The lowest of all that match wins.", func(f F) any { return int64(f.Spec.MatchingPrecedence) }),
			api.Col("DistinguisherMethod", "string", "What tells its flows apart.", func(f F) any {
				if f.Spec.DistinguisherMethod == nil {
					return "<none>"
				}
				return string(f.Spec.DistinguisherMethod.Type)
			}),
			api.AgeColumn(),
			api.Col("MissingPL", "string", "Whether its priority level is missing.", func(f F) any {
				for _, c := range f.Status.Conditions {
					if c.Type == flowcontrolv1.FlowSchemaConditionDangling {
						return string(c.Status)
					}
				}
				return "?"
			}),
		},
		Default: api.On(func(f F) {
			if f.Spec.MatchingPrecedence == 0 {
				f.Spec.MatchingPrecedence = 1000
			}
		}),
		PrepareCreate: api.On(func(f F) {
			f.Status = flowcontrolv1.FlowSchemaStatus{}
			f.Generation = 1
		}),
		PrepareUpdate: api.OnUpdate(func(f, old F) {
			f.Status = old.Status
			api.BumpGeneration(f, old, &f.Spec, &old.Spec)
		}),
		Validate:       api.Check(validateSchema),
		ValidateUpdate: api.CheckUpdate(func(f, _ F) field.ErrorList { return validateSchema(f) }),
		Status: &api.Status{
			PrepareUpdate: api.OnUpdate(func(f, old F) {
				keepMeta(&f.ObjectMeta, &old.ObjectMeta)
				f.Spec = old.Spec
			}),
			ValidateUpdate: api.CheckUpdate(func(f, _ F) field.ErrorList { return validateSchemaStatus(f) }),
		},
		ResetFields: map[string][]string{"": {"status"}, "status": {"metadata", "spec"}},
	}
}

// keepMeta undoes what a writer of the status does to metadata.
func keepMeta(m, old *metav1.ObjectMeta) {
	fields := m.ManagedFields
	*m = *old
	m.ManagedFields = fields
}

// PriorityLevelConfiguration is the kind of priority levels.
func PriorityLevelConfiguration() *api.Kind {
	type L = *flowcontrolv1.PriorityLevelConfiguration
	queuing := func(name, about string, of func(*flowcontrolv1.QueuingConfiguration) int32) api.Column {
		return api.Col(name, "string", about, func(l L) any {
			if l.Spec.Limited == nil || l.Spec.Limited.LimitResponse.Queuing == nil {
				return "<none>"
			}
			return int64(of(l.Spec.Limited.LimitResponse.Queuing))
		})
	}
	type Q = *flowcontrolv1.QueuingConfiguration
	return &api.Kind{
		GVK:         gvk("PriorityLevelConfiguration"),
		Resource:    "prioritylevelconfigurations",
		New:         api.Maker[flowcontrolv1.PriorityLevelConfiguration](),
		NewList:     api.ListMaker[flowcontrolv1.PriorityLevelConfigurationList](),
		StoragePath: "prioritylevelconfigurations",
		Columns: []api.Column{
			api.Col("Type", "string", "Whether its requests are limited.", func(l L) any { return string(l.Spec.Type) }),
			api.Col("NominalConcurrencyShares", "string", "Its share of what runs at once.", func(l L) any {
				if l.Spec.Limited == nil || l.Spec.Limited.NominalConcurrencyShares == nil {
					return "<none>"
				}
				return int64(*l.Spec.Limited.NominalConcurrencyShares)
			}),
			queuing("Queues", "Number of queues.", func(q Q) int32 { return q.Queues }),
			queuing("HandSize", "Queues that a flow may use.", func(q Q) int32 { return q.HandSize }),
			queuing("QueueLengthLimit", "Requests that may wait in a queue.", func(q Q) int32 { return q.QueueLengthLimit }),
			api.AgeColumn(),
		},
		Default: api.On(defaultLevel),
		PrepareCreate: api.On(func(l L) {
			l.Status = flowcontrolv1.PriorityLevelConfigurationStatus{}
			l.Generation = 1
		}),
		PrepareUpdate: api.OnUpdate(func(l, old L) {
			l.Status = old.Status
			api.BumpGeneration(l, old, &l.Spec, &old.Spec)
		}),
		Validate:       api.Check(validateLevel),
		ValidateUpdate: api.CheckUpdate(func(l, _ L) field.ErrorList { return validateLevel(l) }),
		Status: &api.Status{
			PrepareUpdate: api.OnUpdate(func(l, old L) {
				keepMeta(&l.ObjectMeta, &old.ObjectMeta)
				l.Spec = old.Spec
			}),
			ValidateUpdate: api.CheckUpdate(func(l, _ L) field.ErrorList { return validateLevelStatus(l) }),
		},
		ResetFields: map[string][]string{"": {"status"}, "status": {"spec", "metadata"}},
	}
}

func set[T any](p **T, v T) {
	if *p == nil {
		*p = &v
	}
}

func setNumber(p *int32, v int32) {
	if *p == 0 {
		*p = v
	}
}

func defaultLevel(l *flowcontrolv1.PriorityLevelConfiguration) {
	if e := l.Spec.Exempt; e != nil {
		set(&e.NominalConcurrencyShares, 0)
		set(&e.LendablePercent, 0)
	}
	if m := l.Spec.Limited; m != nil {
		set(&m.NominalConcurrencyShares, 30)
		set(&m.LendablePercent, 0)
		if q := m.LimitResponse.Queuing; q != nil {
			setNumber(&q.HandSize, 8)
			setNumber(&q.Queues, 64)
			setNumber(&q.QueueLengthLimit, 50)
		}
	}
}

// MandatorySchemas and MandatoryLevels are what every cluster has and nobody
// may change; SuggestedSchemas and SuggestedLevels are the rest of what a new
// cluster starts with. All are copies.
func MandatorySchemas() []*flowcontrolv1.FlowSchema { return copies(bootstrap.MandatoryFlowSchemas) }

// SuggestedSchemas is described at MandatorySchemas.
func SuggestedSchemas() []*flowcontrolv1.FlowSchema { return copies(bootstrap.SuggestedFlowSchemas) }

// MandatoryLevels is described at MandatorySchemas.
func MandatoryLevels() []*flowcontrolv1.PriorityLevelConfiguration {
	return copies(bootstrap.MandatoryPriorityLevelConfigurations)
}

// SuggestedLevels is described at MandatorySchemas.
func SuggestedLevels() []*flowcontrolv1.PriorityLevelConfiguration {
	return copies(bootstrap.SuggestedPriorityLevelConfigurations)
}

func copies[T interface{ DeepCopy() T }](list []T) []T {
	out := make([]T, len(list))
	for i, o := range list {
		out[i] = o.DeepCopy()
	}
	return out
}
