package authz

import (
	"iter"
	"sync"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/admission"
	"github.com/proa-dev/proa/internal/podrefs"
)

// relation is how an object can belong to a node.
type relation int

const (
	podRelation            relation = iota
	secretRelation                  // node <- pod <- secret, node <- pod <- claim <- volume <- secret
	configMapRelation               // node <- pod <- config map
	serviceAccountRelation          // node <- pod <- service account
	claimRelation                   // node <- pod <- claim
	volumeRelation                  // node <- pod <- claim <- volume
	resourceClaimRelation           // node <- pod <- resource claim
	attachmentRelation              // node <- attachment
	resourceSliceRelation           // node <- slice
)

var (
	podResource        = corev1.Resource("pods")
	volumeResource     = corev1.Resource("persistentvolumes")
	attachmentResource = schema.GroupResource{Group: "storage.k8s.io", Resource: "volumeattachments"}
	sliceResource      = schema.GroupResource{Group: "resource.k8s.io", Resource: "resourceslices"}
)

// maxWitnesses bounds the memory for relations that were found.
const maxWitnesses = 16384

// related finds relations by looking at the pods of the object's namespace.
// For each relation found it remembers the pod that proved it, and asks that
// pod first the next time: the usual answer costs one look-up, and can never
// be stale, since the pod is looked at again.
type related struct {
	source admission.Source

	mu        sync.Mutex
	witnesses map[link]string // to a pod's name, in the link's namespace
}

type link struct {
	node            string
	kind            relation
	namespace, name string
}

func newRelated(source admission.Source) *related {
	return &related{source: source, witnesses: map[link]string{}}
}

// to says whether the object belongs to node.
func (r *related) to(node string, kind relation, namespace, name string) bool {
	switch kind {
	case podRelation:
		return bindsPod(r.get(podResource, namespace, name), node)
	case attachmentRelation:
		va, ok := r.get(attachmentResource, "", name).(*storagev1.VolumeAttachment)
		return ok && va.Spec.NodeName == node
	case resourceSliceRelation:
		s, ok := r.get(sliceResource, "", name).(*resourcev1.ResourceSlice)
		return ok && s.Spec.NodeName != nil && *s.Spec.NodeName == node
	case volumeRelation:
		pv, ok := r.get(volumeResource, "", name).(*corev1.PersistentVolume)
		return ok && r.mounts(node, pv)
	case secretRelation:
		return r.byPod(link{node, kind, namespace, name}) || r.byVolume(node, namespace, name)
	default:
		return r.byPod(link{node, kind, namespace, name})
	}
}

func (r *related) get(gr schema.GroupResource, namespace, name string) api.Object {
	obj, _ := r.source.Get(gr, namespace, name)
	return obj
}

func bindsPod(obj api.Object, node string) bool {
	pod, ok := obj.(*corev1.Pod)
	return ok && pod.Spec.NodeName == node
}

// byPod finds a pod on l.node that names the object.
func (r *related) byPod(l link) bool {
	r.mu.Lock()
	witness, known := r.witnesses[l]
	r.mu.Unlock()
	if known && names(r.get(podResource, l.namespace, witness), l) {
		return true
	}
	for _, obj := range r.source.List(podResource, l.namespace) {
		if !names(obj, l) {
			continue
		}
		r.mu.Lock()
		if len(r.witnesses) >= maxWitnesses {
			clear(r.witnesses)
		}
		r.witnesses[l] = obj.GetName()
		r.mu.Unlock()
		return true
	}
	return false
}

// names says whether obj is a pod on l.node that refers to l's object. Mirror
// pods do not count: a node makes them itself.
func names(obj api.Object, l link) bool {
	pod, ok := obj.(*corev1.Pod)
	if !ok || pod.Spec.NodeName != l.node {
		return false
	}
	if _, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return false
	}
	switch l.kind {
	case secretRelation:
		return contains(podrefs.Secrets(pod), l.name)
	case configMapRelation:
		return contains(podrefs.ConfigMaps(pod), l.name)
	case claimRelation:
		return contains(podrefs.Claims(pod), l.name)
	case resourceClaimRelation:
		return contains(podrefs.ResourceClaims(pod), l.name)
	case serviceAccountRelation:
		return pod.Spec.ServiceAccountName == l.name
	default:
		return false
	}
}

func contains(all iter.Seq[string], name string) bool {
	for s := range all {
		if s == name {
			return true
		}
	}
	return false
}

// byVolume finds a volume that a pod on node mounts and that needs the secret.
func (r *related) byVolume(node, namespace, name string) bool {
	for _, obj := range r.source.List(volumeResource, "") {
		pv, ok := obj.(*corev1.PersistentVolume)
		if !ok {
			continue
		}
		for ns, secret := range podrefs.VolumeSecrets(pv) {
			if ns == namespace && secret == name && r.mounts(node, pv) {
				return true
			}
		}
	}
	return false
}

// mounts says whether a pod on node uses the claim that pv is bound to.
func (r *related) mounts(node string, pv *corev1.PersistentVolume) bool {
	claim := pv.Spec.ClaimRef
	return claim != nil && r.byPod(link{node, claimRelation, claim.Namespace, claim.Name})
}
