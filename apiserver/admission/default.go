package admission

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// Config is what the default plugins need.
type Config struct {
	Source Source
	Live   Live // see Lookup
	// Authorizer is asked whether a node may have tokens for an audience
	// that none of its pods names, who may approve and sign certificate
	// requests, and who speaks for devices. Nil: nobody may.
	Authorizer authorizer.UnconditionalAuthorizer
}

// Default is the plugins that are always on, in upstream's order. After them
// comes what charges for a write: see package quotas.
func Default(cfg Config) Chain {
	lookup := Lookup{Source: cfg.Source, Live: cfg.Live}
	return Chain{
		NewNamespaceLifecycle(lookup),
		NewLimitRanger(lookup),
		NewServiceAccount(lookup),
		NewNodeRestriction(lookup, cfg.Authorizer),
		NewTaintNodesByCondition(),
		NewPodSecurity(lookup),
		NewPriority(lookup),
		NewDefaultTolerationSeconds(),
		NewDefaultStorageClass(lookup),
		NewStorageObjectInUseProtection(),
		NewPersistentVolumeClaimResize(lookup),
		NewRuntimeClass(lookup),
		NewCertificateApproval(cfg.Authorizer),
		NewCertificateSigning(cfg.Authorizer),
		NewClusterTrustBundleAttest(cfg.Authorizer),
		NewPodCertificateSigning(cfg.Authorizer),
		NewCertificateSubjectRestriction(),
		NewDefaultIngressClass(lookup),
		NewPodTopologyLabels(lookup),
		NewPodResizeValidator(lookup),
		NewNodeDeclaredFeatureValidator(lookup),
		NewDeviceClaims(lookup, cfg.Authorizer),
	}
}

// newPod returns the pod of a, when a creates one (or its like): the request
// is for pods themselves, not for a subresource.
func newPod(a *Attributes) (*corev1.Pod, bool) {
	if a.Operation != Create || a.Subresource != "" || a.GVR.GroupResource() != corev1.Resource("pods") {
		return nil, false
	}
	pod, ok := a.Object.(*corev1.Pod)
	return pod, ok
}

func isMirror(pod *corev1.Pod) bool {
	_, ok := pod.Annotations[corev1.MirrorPodAnnotationKey]
	return ok
}
