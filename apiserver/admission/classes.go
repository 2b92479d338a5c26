package admission

import (
	"context"
	"errors"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/storage"
)

var (
	storageClassResource = schema.GroupResource{Group: "storage.k8s.io", Resource: "storageclasses"}
	ingressClassResource = schema.GroupResource{Group: "networking.k8s.io", Resource: "ingressclasses"}
)

// DefaultStorageClass names the default class in claims that name none.
type DefaultStorageClass struct{ lookup Lookup }

var _ Mutator = (*DefaultStorageClass)(nil)

// NewDefaultStorageClass returns the plugin.
func NewDefaultStorageClass(l Lookup) *DefaultStorageClass { return &DefaultStorageClass{l} }

// Name implements Plugin.
func (*DefaultStorageClass) Name() string { return "DefaultStorageClass" }

// Admit implements Mutator.
func (p *DefaultStorageClass) Admit(_ context.Context, a *Attributes) error {
	claim, ok := a.Object.(*corev1.PersistentVolumeClaim)
	if !ok || a.Operation != Create || a.Subresource != "" || claim.Spec.StorageClassName != nil {
		return nil
	}
	if _, named := claim.Annotations[corev1.BetaStorageClassAnnotation]; named {
		return nil
	}
	class := storage.DefaultClass(p.lookup.Source.List(storageClassResource, ""))
	if class != nil {
		claim.Spec.StorageClassName = ptr.To(class.GetName())
	}
	return nil
}

// DefaultIngressClass names the default class in ingresses that name none.
type DefaultIngressClass struct{ lookup Lookup }

var _ Mutator = (*DefaultIngressClass)(nil)

// NewDefaultIngressClass returns the plugin.
func NewDefaultIngressClass(l Lookup) *DefaultIngressClass { return &DefaultIngressClass{l} }

// Name implements Plugin.
func (*DefaultIngressClass) Name() string { return "DefaultIngressClass" }

// Admit implements Mutator.
func (p *DefaultIngressClass) Admit(_ context.Context, a *Attributes) error {
	ingress, ok := a.Object.(*networkingv1.Ingress)
	if !ok || a.Operation != Create || a.Subresource != "" || ingress.Spec.IngressClassName != nil {
		return nil
	}
	if _, named := ingress.Annotations["kubernetes.io/ingress.class"]; named {
		return nil
	}
	class := api.DefaultClass(p.lookup.Source.List(ingressClassResource, ""), networkingv1.AnnotationIsDefaultIngressClass)
	if class != nil {
		ingress.Spec.IngressClassName = ptr.To(class.GetName())
	}
	return nil
}

// StorageObjectInUseProtection gives claims, volumes and classes of attributes the finalizer that
// keeps them as long as they are used.
type StorageObjectInUseProtection struct{}

var _ Mutator = (*StorageObjectInUseProtection)(nil)

// NewStorageObjectInUseProtection returns the plugin.
func NewStorageObjectInUseProtection() *StorageObjectInUseProtection {
	return &StorageObjectInUseProtection{}
}

// Name implements Plugin.
func (*StorageObjectInUseProtection) Name() string { return "StorageObjectInUseProtection" }

// Admit implements Mutator.
func (*StorageObjectInUseProtection) Admit(_ context.Context, a *Attributes) error {
	if a.Operation != Create || a.Subresource != "" {
		return nil
	}
	var obj api.Object
	var finalizer string
	switch o := a.Object.(type) {
	case *corev1.PersistentVolume:
		obj, finalizer = o, "kubernetes.io/pv-protection"
	case *corev1.PersistentVolumeClaim:
		obj, finalizer = o, "kubernetes.io/pvc-protection"
	case *storagev1.VolumeAttributesClass:
		obj, finalizer = o, "kubernetes.io/vac-protection"
	default:
		return nil
	}
	if have := obj.GetFinalizers(); !slices.Contains(have, finalizer) {
		obj.SetFinalizers(append(have, finalizer))
	}
	return nil
}

// PersistentVolumeClaimResize lets claims grow where their class allows it.
type PersistentVolumeClaimResize struct{ lookup Lookup }

var _ Validator = (*PersistentVolumeClaimResize)(nil)

// NewPersistentVolumeClaimResize returns the plugin.
func NewPersistentVolumeClaimResize(l Lookup) *PersistentVolumeClaimResize {
	return &PersistentVolumeClaimResize{l}
}

// Name implements Plugin.
func (*PersistentVolumeClaimResize) Name() string { return "PersistentVolumeClaimResize" }

// Validate implements Validator.
func (p *PersistentVolumeClaimResize) Validate(ctx context.Context, a *Attributes) error {
	claim, ok := a.Object.(*corev1.PersistentVolumeClaim)
	old, was := a.OldObject.(*corev1.PersistentVolumeClaim)
	if !ok || !was || a.Operation != Update || a.Subresource != "" {
		return nil
	}
	size, before := claim.Spec.Resources.Requests[corev1.ResourceStorage], old.Spec.Resources.Requests[corev1.ResourceStorage]
	if size.Cmp(before) <= 0 {
		return nil
	}
	if old.Status.Phase != corev1.ClaimBound {
		return Forbidden(a, errors.New("Only bound persistent volume claims can be expanded")) //nolint:staticcheck // upstream's words
	}
	if name := className(claim); name != "" && name == className(old) {
		obj, _ := p.lookup.Get(ctx, storageClassResource, "", name)
		if class, ok := obj.(*storagev1.StorageClass); ok && ptr.Deref(class.AllowVolumeExpansion, false) {
			return nil
		}
	}
	return Forbidden(a, errors.New("only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"))
}

func className(claim *corev1.PersistentVolumeClaim) string {
	if name, ok := claim.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return name
	}
	return ptr.Deref(claim.Spec.StorageClassName, "")
}
