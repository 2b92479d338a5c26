package quota

import (
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/proa-dev/proa/internal/deviceclass"
)

// View is what of a cluster the devices of claims are measured by. Its objects
// are shared: they are not changed.
type View interface {
	DeviceClasses() []*resourcev1.DeviceClass
	// Pod returns nil when there is none.
	Pod(namespace, name string) *corev1.Pod
	ResourceClaims(namespace string) []*resourcev1.ResourceClaim
}

// backed says that devices stand for the extended resource whose requests a name
// in a quota bounds.
func (d deviceClaims) backed(name corev1.ResourceName) bool {
	of, ok := strings.CutPrefix(string(name), corev1.DefaultResourceRequestsPrefix)
	if !ok {
		return false
	}
	for _, c := range d.view.DeviceClasses() {
		for stands := range deviceclass.Names(c) {
			if stands == corev1.ResourceName(of) {
				return true
			}
		}
	}
	return false
}

// addExtended adds the devices that are used under the names of the extended
// resources that they stand for, less those that are counted for the claim's pod.
func (d deviceClaims) addExtended(used corev1.ResourceList, claim *resourcev1.ResourceClaim, now time.Time) corev1.ResourceList {
	more := corev1.ResourceList{}
	for _, c := range d.view.DeviceClasses() {
		q, ok := used[corev1.ResourceName(c.Name+corev1.ResourceClaimsPerClass)]
		if !ok {
			continue
		}
		for name := range deviceclass.Names(c) {
			more = Add(more, corev1.ResourceList{requests(name): q})
		}
	}
	if len(more) == 0 {
		return used
	}
	return Add(used, Less(more, d.countedFor(claim, now)))
}

// countedFor is what the pod uses for whose extended resources a claim was made.
// A pod that does not tell which claim that is has the first of those that say
// so.
func (d deviceClaims) countedFor(claim *resourcev1.ResourceClaim, now time.Time) corev1.ResourceList {
	owner := extendedOwner(claim)
	if owner == nil {
		return nil
	}
	pod := d.view.Pod(claim.Namespace, owner.Name)
	if pod == nil || pod.UID != owner.UID {
		return nil
	}
	if s := pod.Status.ExtendedResourceClaimStatus; s != nil {
		if s.ResourceClaimName != claim.Name {
			return nil
		}
		return pods{}.Usage(pod, now)
	}
	for _, other := range d.view.ResourceClaims(claim.Namespace) {
		if of := extendedOwner(other); of == nil || of.UID != owner.UID {
			continue
		}
		switch other.CreationTimestamp.Compare(claim.CreationTimestamp.Time) {
		case -1:
			return nil
		case 0:
			if other.Name < claim.Name {
				return nil
			}
		}
	}
	return pods{}.Usage(pod, now)
}

// extendedOwner is the pod for whose extended resources a claim was made, nil
// for other claims.
func extendedOwner(claim *resourcev1.ResourceClaim) *metav1.OwnerReference {
	if claim.Annotations[resourcev1.ExtendedResourceClaimAnnotation] != "true" {
		return nil
	}
	if ref := metav1.GetControllerOfNoCopy(claim); ref != nil && ref.Kind == "Pod" && ref.APIVersion == "v1" {
		return ref
	}
	return nil
}
