package autoscaling

import (
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api"
)

type hpav1 = autoscalingv1.HorizontalPodAutoscaler

// HorizontalPodAutoscalerV1 is the older version of the kind. What it has no
// fields for is in annotations.
func HorizontalPodAutoscalerV1() *api.Kind {
	k := HorizontalPodAutoscaler()
	k.GVK = autoscalingv1.SchemeGroupVersion.WithKind("HorizontalPodAutoscaler")
	k.New = api.Maker[hpav1]()
	k.NewList = api.ListMaker[autoscalingv1.HorizontalPodAutoscalerList]()
	k.Columns = columns(fromV1)
	k.Storage = &api.Conversion{
		Kind: HorizontalPodAutoscaler().GVK,
		To:   func(o api.Object) (api.Object, error) { return fromV1(o.(*hpav1)), nil },
		From: func(o api.Object) (api.Object, error) { return toV1(o.(*hpa)) },
	}
	k.Default = api.On(func(o *hpav1) { setDefault(&o.Spec.MinReplicas, 1) })
	k.PrepareCreate = api.On(func(o *hpav1) { throughV2(o, prepareCreate) })
	k.PrepareUpdate = api.OnUpdate(func(o, old *hpav1) {
		throughV2(o, func(h *hpa) { prepareUpdate(h, fromV1(old)) })
	})
	k.Validate = api.Check(func(o *hpav1) field.ErrorList { return validateSpec(fromV1(o), nil) })
	k.ValidateUpdate = api.CheckUpdate(func(o, old *hpav1) field.ErrorList { return validateSpec(fromV1(o), fromV1(old)) })
	k.Status = &api.Status{
		PrepareUpdate: api.OnUpdate(func(o, old *hpav1) {
			throughV2(o, func(h *hpa) { prepareStatus(h, fromV1(old)) })
		}),
		ValidateUpdate: api.CheckUpdate(func(o, _ *hpav1) field.ErrorList { return validateStatus(fromV1(o)) }),
	}
	return k
}

// throughV2 changes an object as its stored form would be changed.
func throughV2(o *hpav1, change func(*hpa)) {
	h := fromV1(o)
	change(h)
	back, err := toV1(h)
	if err != nil {
		return // storing it will say so
	}
	*o = *back
}
