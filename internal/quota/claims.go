package quota

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/utils/ptr"
)

// claims measures PersistentVolumeClaims, in all and by storage class.
type claims struct{}

const (
	countClaims  corev1.ResourceName = "count/persistentvolumeclaims"
	ofClass                          = ".storageclass.storage.k8s.io/"
	betaClassKey                     = corev1.BetaStorageClassAnnotation
)

func (claims) Tracks(name corev1.ResourceName) bool {
	switch name {
	case countClaims, corev1.ResourcePersistentVolumeClaims, corev1.ResourceRequestsStorage:
		return true
	}
	return strings.HasSuffix(string(name), ofClass+string(corev1.ResourcePersistentVolumeClaims)) ||
		strings.HasSuffix(string(name), ofClass+string(corev1.ResourceRequestsStorage))
}

func (claims) Usage(obj runtime.Object, _ time.Time) corev1.ResourceList {
	pvc, ok := obj.(*corev1.PersistentVolumeClaim)
	if !ok {
		return nil
	}
	used := corev1.ResourceList{countClaims: pieces(1), corev1.ResourcePersistentVolumeClaims: pieces(1)}
	if size, ok := storage(pvc); ok {
		used[corev1.ResourceRequestsStorage] = size
	}
	class, ok := pvc.Annotations[betaClassKey]
	if !ok {
		class = ptr.Deref(pvc.Spec.StorageClassName, "")
	}
	if class != "" {
		for _, name := range []corev1.ResourceName{corev1.ResourcePersistentVolumeClaims, corev1.ResourceRequestsStorage} {
			if q, ok := used[name]; ok {
				used[corev1.ResourceName(class+ofClass)+name] = q
			}
		}
	}
	return used
}

// storage is what a claim asks for, or what it was given if that is more, in
// whole bytes.
func storage(pvc *corev1.PersistentVolumeClaim) (resource.Quantity, bool) {
	size, ok := pvc.Spec.Resources.Requests[corev1.ResourceStorage]
	if !ok {
		return size, false
	}
	if given, ok := pvc.Status.AllocatedResources[corev1.ResourceStorage]; ok && given.Cmp(size) > 0 {
		size = given
	}
	size = size.DeepCopy()
	size.RoundUp(0)
	return size, true
}

func (claims) InScope(s corev1.ScopedResourceSelectorRequirement, obj runtime.Object) bool {
	pvc, ok := obj.(*corev1.PersistentVolumeClaim)
	return ok && s.ScopeName == corev1.ResourceQuotaScopeVolumeAttributesClass && hasClass(s, sets.List(attributeClasses(pvc))...)
}

// attributeClasses are those that a claim wants, has, and is changing to.
func attributeClasses(pvc *corev1.PersistentVolumeClaim) sets.Set[string] {
	out := sets.New(ptr.Deref(pvc.Spec.VolumeAttributesClassName, ""), ptr.Deref(pvc.Status.CurrentVolumeAttributesClassName, ""))
	if m := pvc.Status.ModifyVolumeStatus; m != nil {
		out.Insert(m.TargetVolumeAttributesClassName)
	}
	return out.Delete("")
}

func (claims) Lacking([]corev1.ResourceName, runtime.Object) error { return nil }

func (claims) Charged(w Write) bool {
	switch w.Subresource {
	case "":
		return w.Create || w.Update
	case "status":
		pvc, ok := w.Object.(*corev1.PersistentVolumeClaim)
		old, had := w.Old.(*corev1.PersistentVolumeClaim)
		return ok && had && (pvc.Status.AllocatedResources.Storage().Cmp(*old.Status.AllocatedResources.Storage()) != 0 ||
			!attributeClasses(pvc).Equal(attributeClasses(old)))
	}
	return false
}

// deviceClaims measures ResourceClaims: the devices of each class that they
// may be given at most.
type deviceClaims struct{ view View }

const countDeviceClaims corev1.ResourceName = "count/resourceclaims.resource.k8s.io"

func (d deviceClaims) Tracks(name corev1.ResourceName) bool {
	return name == countDeviceClaims || strings.HasSuffix(string(name), corev1.ResourceClaimsPerClass) || d.backed(name)
}

func (d deviceClaims) Usage(obj runtime.Object, now time.Time) corev1.ResourceList {
	claim, ok := obj.(*resourcev1.ResourceClaim)
	if !ok {
		return nil
	}
	used := corev1.ResourceList{countDeviceClaims: pieces(1)}
	for _, r := range claim.Spec.Devices.Requests {
		most := map[corev1.ResourceName]int64{}
		see := func(class string, mode resourcev1.DeviceAllocationMode, n int64) {
			switch mode {
			case resourcev1.DeviceAllocationModeExactCount:
			case resourcev1.DeviceAllocationModeAll:
				n = resourcev1.AllocationResultsMaxSize
			default:
				n = 0
			}
			name := corev1.ResourceName(class + corev1.ResourceClaimsPerClass)
			most[name] = max(most[name], n)
		}
		for _, s := range r.FirstAvailable {
			see(s.DeviceClassName, s.AllocationMode, s.Count)
		}
		if len(r.FirstAvailable) == 0 && r.Exactly != nil {
			see(r.Exactly.DeviceClassName, r.Exactly.AllocationMode, r.Exactly.Count)
		}
		for name, n := range most {
			used = Add(used, corev1.ResourceList{name: *resource.NewQuantity(n, resource.DecimalSI)})
		}
	}
	return d.addExtended(used, claim, now)
}

func (deviceClaims) InScope(corev1.ScopedResourceSelectorRequirement, runtime.Object) bool {
	return false
}

func (deviceClaims) Lacking([]corev1.ResourceName, runtime.Object) error { return nil }

func (deviceClaims) Charged(w Write) bool { return w.Subresource == "" && (w.Create || w.Update) }
