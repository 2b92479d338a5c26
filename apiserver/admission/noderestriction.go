package admission

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/go-cmp/cmp"
	authnv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	kubeletapis "k8s.io/kubelet/pkg/apis"

	"github.com/proa-dev/proa/internal/podrefs"
)

// NodeRestriction keeps a node to itself: it writes its own Node, Lease and
// CSINode, the status of its own pods and mirror pods that refer to nothing,
// and gets tokens for its own pods alone. A node that was taken over can do
// no more than what runs on it could.
type NodeRestriction struct {
	lookup     Lookup
	authorizer authorizer.UnconditionalAuthorizer
}

var (
	_ Mutator = (*NodeRestriction)(nil)
)

// NewNodeRestriction reads pods and nodes from l; for the authorizer, which
// may be nil, see Config.
func NewNodeRestriction(l Lookup, a authorizer.UnconditionalAuthorizer) *NodeRestriction {
	return &NodeRestriction{l, a}
}

// Name implements Plugin.
func (*NodeRestriction) Name() string { return "NodeRestriction" }

// Admit implements Mutator, as upstream's does: it looks at what the node
// sent, before other plugins add to it.
func (p *NodeRestriction) Admit(ctx context.Context, a *Attributes) error {
	if a.User == nil || a.Operation == Connect || !slices.Contains(a.User.GetGroups(), user.NodesGroup) {
		return nil
	}
	node, isNode := strings.CutPrefix(a.User.GetName(), "system:node:")
	if !isNode {
		return nil
	}
	if node == "" {
		return Forbidden(a, fmt.Errorf("could not determine node from user %q", a.User.GetName()))
	}
	switch a.GVR.GroupResource() {
	case corev1.Resource("pods"):
		switch a.Subresource {
		case "":
			return p.pod(ctx, node, a)
		case "status":
			return podStatus(node, a)
		case "eviction":
			return p.eviction(ctx, node, a)
		default:
			return Forbidden(a, fmt.Errorf("unexpected pod subresource %q, only 'status' and 'eviction' are allowed", a.Subresource))
		}
	case corev1.Resource("nodes"):
		return ownNode(node, a)
	case corev1.Resource("persistentvolumeclaims"):
		if a.Subresource != "status" {
			return Forbidden(a, errors.New("may only update PVC status"))
		}
		return claimStatus(node, a)
	case corev1.Resource("serviceaccounts"):
		return p.token(ctx, node, a)
	case schema.GroupResource{Group: "coordination.k8s.io", Resource: "leases"}:
		if a.Namespace != corev1.NamespaceNodeLease {
			return Forbidden(a, fmt.Errorf("can only access leases in the %q system namespace", corev1.NamespaceNodeLease))
		}
		return sameName(node, a, "can only access node lease with the same name as the requesting node")
	case schema.GroupResource{Group: "storage.k8s.io", Resource: "csinodes"}:
		return sameName(node, a, "can only access CSINode with the same name as the requesting node")
	case schema.GroupResource{Group: "resource.k8s.io", Resource: "resourceslices"}:
		return resourceSlice(node, a)
	case schema.GroupResource{Group: certificatesv1.GroupName, Resource: "podcertificaterequests"}:
		return p.podCertificate(ctx, node, a)
	default:
		return nil
	}
}

// requestedName is the object's name, also when a create does not have it in
// its path.
func requestedName(a *Attributes) string {
	if a.Name == "" && a.Object != nil {
		if m, err := meta.Accessor(a.Object); err == nil {
			return m.GetName()
		}
	}
	return a.Name
}

func sameName(node string, a *Attributes, refusal string) error {
	if requestedName(a) != node {
		return Forbidden(a, errors.New(refusal))
	}
	return nil
}

func unexpected(a *Attributes, obj any) error {
	return Forbidden(a, fmt.Errorf("unexpected type %T", obj))
}

func (p *NodeRestriction) pod(ctx context.Context, node string, a *Attributes) error {
	switch a.Operation {
	case Create:
		return p.mirrorPod(ctx, node, a)
	case Delete:
		pod, err := p.existingPod(ctx, a, a.Name)
		if err != nil {
			return err
		}
		if pod.Spec.NodeName != node {
			return Forbidden(a, fmt.Errorf("node %q can only delete pods with spec.nodeName set to itself", node))
		}
		return nil
	default:
		return Forbidden(a, fmt.Errorf("unexpected operation %q, node %q can only create and delete mirror pods", a.Operation, node))
	}
}

func (p *NodeRestriction) existingPod(ctx context.Context, a *Attributes, name string) (*corev1.Pod, error) {
	obj, _ := p.lookup.Get(ctx, corev1.Resource("pods"), a.Namespace, name)
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return nil, apierrors.NewNotFound(corev1.Resource("pods"), name)
	}
	return pod, nil
}

func (p *NodeRestriction) mirrorPod(ctx context.Context, node string, a *Attributes) error {
	pod, ok := a.Object.(*corev1.Pod)
	if !ok {
		return unexpected(a, a.Object)
	}
	if !isMirror(pod) {
		return Forbidden(a, fmt.Errorf("pod does not have %q annotation, node %q can only create mirror pods", corev1.MirrorPodAnnotationKey, node))
	}
	if pod.Spec.NodeName != node {
		return Forbidden(a, fmt.Errorf("node %q can only create pods with spec.nodeName set to itself", node))
	}
	if err := p.mirrorOwner(ctx, node, a, pod); err != nil {
		return err
	}
	refuse := func(what string) error {
		return Forbidden(a, fmt.Errorf("node %q can not create pods that reference %s", node, what))
	}
	if pod.Spec.ServiceAccountName != "" {
		return refuse("a service account")
	}
	for range podrefs.Secrets(pod) {
		return refuse("secrets")
	}
	for range podrefs.ConfigMaps(pod) {
		return refuse("configmaps")
	}
	for _, v := range pod.Spec.Volumes {
		if v.PersistentVolumeClaim != nil || v.Ephemeral != nil {
			return refuse("persistentvolumeclaims")
		}
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if s.ClusterTrustBundle != nil {
				return refuse("clustertrustbundles")
			}
		}
	}
	if len(pod.Spec.ResourceClaims) > 0 {
		return refuse("resourceclaims")
	}
	return nil
}

func (p *NodeRestriction) mirrorOwner(ctx context.Context, node string, a *Attributes, pod *corev1.Pod) error {
	if len(pod.OwnerReferences) > 1 {
		return Forbidden(a, fmt.Errorf("node %q can only create pods with a single owner reference set to itself", node))
	}
	if len(pod.OwnerReferences) == 0 {
		return Forbidden(a, fmt.Errorf("node %q can only create pods with an owner reference set to itself", node))
	}
	owner := pod.OwnerReferences[0]
	if owner.APIVersion != "v1" || owner.Kind != "Node" || owner.Name != node {
		return Forbidden(a, fmt.Errorf("node %q can only create pods with an owner reference set to itself", node))
	}
	if owner.Controller == nil || !*owner.Controller {
		return Forbidden(a, fmt.Errorf("node %q can only create pods with a controller owner reference set to itself", node))
	}
	if owner.BlockOwnerDeletion != nil && *owner.BlockOwnerDeletion {
		return Forbidden(a, fmt.Errorf("node %q must not set blockOwnerDeletion on an owner reference", node))
	}
	obj, ok := p.lookup.Get(ctx, corev1.Resource("nodes"), "", node)
	if !ok {
		return apierrors.NewNotFound(corev1.Resource("nodes"), node)
	}
	if owner.UID != obj.GetUID() {
		return Forbidden(a, fmt.Errorf("node %s UID mismatch: expected %s got %s", node, owner.UID, obj.GetUID()))
	}
	return nil
}

func podStatus(node string, a *Attributes) error {
	if a.Operation != Update {
		return Forbidden(a, fmt.Errorf("unexpected operation %q", a.Operation))
	}
	old, ok := a.OldObject.(*corev1.Pod)
	if !ok {
		return unexpected(a, a.OldObject)
	}
	if old.Spec.NodeName != node {
		return Forbidden(a, fmt.Errorf("node %q can only update pod status for pods with spec.nodeName set to itself", node))
	}
	pod, ok := a.Object.(*corev1.Pod)
	if !ok {
		return unexpected(a, a.Object)
	}
	if !maps.Equal(old.Labels, pod.Labels) {
		return Forbidden(a, fmt.Errorf("node %q cannot update labels through pod status", node))
	}
	if !equality.Semantic.DeepEqual(old.Status.ResourceClaimStatuses, pod.Status.ResourceClaimStatuses) {
		return Forbidden(a, fmt.Errorf("node %q cannot update resource claim statues", node))
	}
	if !equality.Semantic.DeepEqual(old.Status.ExtendedResourceClaimStatus, pod.Status.ExtendedResourceClaimStatus) {
		return Forbidden(a, fmt.Errorf("node %q cannot update extended resource claim status", node))
	}
	return nil
}

func (p *NodeRestriction) eviction(ctx context.Context, node string, a *Attributes) error {
	if a.Operation != Create {
		return Forbidden(a, fmt.Errorf("unexpected operation %s", a.Operation))
	}
	if _, ok := a.Object.(*policyv1.Eviction); !ok {
		return unexpected(a, a.Object)
	}
	name := requestedName(a)
	if name == "" {
		return Forbidden(a, errors.New("could not determine pod from request data"))
	}
	pod, err := p.existingPod(ctx, a, name)
	if err != nil {
		return err
	}
	if pod.Spec.NodeName != node {
		return Forbidden(a, fmt.Errorf("node %s can only evict pods with spec.nodeName set to itself", node))
	}
	return nil
}

func claimStatus(node string, a *Attributes) error {
	if a.Operation != Update {
		return Forbidden(a, fmt.Errorf("unexpected operation %q", a.Operation))
	}
	old, ok := a.OldObject.(*corev1.PersistentVolumeClaim)
	if !ok {
		return unexpected(a, a.OldObject)
	}
	claim, ok := a.Object.(*corev1.PersistentVolumeClaim)
	if !ok {
		return unexpected(a, a.Object)
	}
	strip := func(c *corev1.PersistentVolumeClaim) *corev1.PersistentVolumeClaim {
		c = c.DeepCopy()
		c.ResourceVersion, c.ManagedFields = "", nil
		c.Status.Capacity, c.Status.Conditions = nil, nil
		c.Status.AllocatedResourceStatuses, c.Status.AllocatedResources = nil, nil
		return c
	}
	if before, after := strip(old), strip(claim); !equality.Semantic.DeepEqual(before, after) {
		return Forbidden(a, fmt.Errorf("node %q is not allowed to update fields other than status.quantity and status.conditions: %v", node, cmp.Diff(before, after)))
	}
	return nil
}

func ownNode(node string, a *Attributes) error {
	if name := requestedName(a); name != node {
		return Forbidden(a, fmt.Errorf("node %q is not allowed to modify node %q", node, name))
	}
	if a.Operation == Delete {
		return nil
	}
	obj, ok := a.Object.(*corev1.Node)
	if !ok {
		return unexpected(a, a.Object)
	}
	if a.Operation == Create {
		if obj.Spec.ConfigSource != nil {
			return Forbidden(a, fmt.Errorf("node %q is not allowed to create pods with a non-nil configSource", node))
		}
		if labels := forbiddenLabels(obj.Labels, nil); len(labels) > 0 {
			return Forbidden(a, fmt.Errorf("node %q is not allowed to set the following labels: %s", node, strings.Join(labels, ", ")))
		}
		if len(obj.OwnerReferences) > 0 {
			return Forbidden(a, fmt.Errorf("node %q is not allowed to set ownerReferences", node))
		}
		return nil
	}
	old, ok := a.OldObject.(*corev1.Node)
	if !ok {
		return unexpected(a, a.OldObject)
	}
	if obj.Spec.ConfigSource != nil && !equality.Semantic.DeepEqual(obj.Spec.ConfigSource, old.Spec.ConfigSource) {
		return Forbidden(a, fmt.Errorf("node %q is not allowed to update configSource to a new non-nil configSource", node))
	}
	if !equality.Semantic.DeepEqual(obj.Spec.Taints, old.Spec.Taints) {
		return Forbidden(a, fmt.Errorf("node %q is not allowed to modify taints", node))
	}
	if labels := forbiddenLabels(obj.Labels, old.Labels); len(labels) > 0 {
		return Forbidden(a, fmt.Errorf("is not allowed to modify labels: %s", strings.Join(labels, ", ")))
	}
	if !equality.Semantic.DeepEqual(obj.OwnerReferences, old.OwnerReferences) {
		return Forbidden(a, fmt.Errorf("node %q is not allowed to modify ownerReferences", node))
	}
	return nil
}

// forbiddenLabels returns the labels that differ and are not a node's to
// change: they could draw privileged pods to it.
func forbiddenLabels(now, before map[string]string) []string {
	changed := map[string]bool{}
	for k, v := range now {
		if old, ok := before[k]; !ok || old != v {
			changed[k] = true
		}
	}
	for k := range before {
		if _, ok := now[k]; !ok {
			changed[k] = true
		}
	}
	var forbidden []string
	for k := range changed {
		domain, _, ok := strings.Cut(k, "/")
		if !ok {
			continue
		}
		restricted := within(domain, corev1.LabelNamespaceNodeRestriction)
		system := within(domain, "kubernetes.io") || within(domain, "k8s.io")
		if restricted || system && !kubeletapis.IsKubeletLabel(k) {
			forbidden = append(forbidden, k)
		}
	}
	slices.Sort(forbidden)
	return forbidden
}

func within(domain, parent string) bool {
	return domain == parent || strings.HasSuffix(domain, "."+parent)
}

func (p *NodeRestriction) token(ctx context.Context, node string, a *Attributes) error {
	if a.Operation != Create || a.Subresource != "token" {
		return nil
	}
	tr, ok := a.Object.(*authnv1.TokenRequest)
	if !ok {
		return unexpected(a, a.Object)
	}
	ref := tr.Spec.BoundObjectRef
	if ref == nil || ref.APIVersion != "v1" || ref.Kind != "Pod" || ref.Name == "" {
		return Forbidden(a, errors.New("node requested token not bound to a pod"))
	}
	if ref.UID == "" {
		return Forbidden(a, errors.New("node requested token with a pod binding without a uid"))
	}
	pod, err := p.existingPod(ctx, a, ref.Name)
	if err != nil {
		return err
	}
	if ref.UID != pod.UID {
		return Forbidden(a, fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID))
	}
	if pod.Spec.NodeName != node {
		return Forbidden(a, errors.New("node requested token bound to a pod scheduled on a different node"))
	}
	return p.audience(ctx, a, pod, tr.Spec.Audiences)
}

// audience lets a node ask for the audiences that the pod itself names; more
// than those take a role.
func (p *NodeRestriction) audience(ctx context.Context, a *Attributes, pod *corev1.Pod, audiences []string) error {
	if len(audiences) == 0 {
		return nil
	}
	if len(audiences) > 1 {
		return Forbidden(a, errors.New("node may only request 0 or 1 audiences"))
	}
	wanted := audiences[0]
	for _, v := range pod.Spec.Volumes {
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if s.ServiceAccountToken != nil && s.ServiceAccountToken.Audience == wanted {
				return nil
			}
		}
	}
	if p.driverWants(ctx, pod, wanted) {
		return nil
	}
	if p.authorizer != nil {
		decision, _, _ := p.authorizer.Authorize(ctx, &authorizer.AttributesRecord{
			User: a.User, Verb: "request-serviceaccounts-token-audience", Namespace: a.Namespace,
			APIVersion: "v1", Resource: wanted, Name: a.Name, ResourceRequest: true,
		})
		if decision == authorizer.DecisionAllow {
			return nil
		}
	}
	return Forbidden(a, fmt.Errorf("%s is not authorized to request tokens for audience %q", a.User.GetName(), wanted))
}

func resourceSlice(node string, a *Attributes) error {
	obj := a.Object
	if a.Operation == Delete {
		obj = a.OldObject
	}
	s, ok := obj.(*resourcev1.ResourceSlice)
	if !ok {
		return unexpected(a, obj)
	}
	if s.Spec.NodeName == nil || *s.Spec.NodeName != node {
		return Forbidden(a, errors.New("can only create ResourceSlice with the same NodeName as the requesting node"))
	}
	return nil
}
