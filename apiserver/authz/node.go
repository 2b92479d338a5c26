package authz

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/proa-dev/proa/apiserver/admission"
	"github.com/proa-dev/proa/internal/localvolume"
)

const nodeUserPrefix = "system:node:"

// nodeIdentity returns the node that u is, empty when it says that it is one
// but not which.
func nodeIdentity(u user.Info) (name string, isNode bool) {
	if u == nil || !slices.Contains(u.GetGroups(), user.NodesGroup) {
		return "", false
	}
	name, isNode = strings.CutPrefix(u.GetName(), nodeUserPrefix)
	return name, isNode
}

// Node authorizes kubelets: each may do what nodes do, on its own node and
// for the pods that are bound to it, and read only what those pods name.
// Which writes of pods and nodes are in order is checked by the admission
// plugin NodeRestriction, which sees the objects.
type Node struct {
	related *related
	rules   []rbacv1.PolicyRule
}

// NewNode reads pods and volumes from source.
func NewNode(source admission.Source) *Node {
	return &Node{related: newRelated(source), rules: nodeRules()}
}

// Authorize allows what a node may do and has no opinion on the rest; the
// reason says why a node was not allowed.
func (n *Node) Authorize(_ context.Context, attrs authorizer.Attributes) (authorizer.Decision, string, error) {
	node, isNode := nodeIdentity(attrs.GetUser())
	if !isNode {
		return authorizer.DecisionNoOpinion, "", nil
	}
	if node == "" {
		return refuse(fmt.Sprintf("unknown node for user %q", attrs.GetUser().GetName()))
	}
	if attrs.IsResourceRequest() {
		switch (schema.GroupResource{Group: attrs.GetAPIGroup(), Resource: attrs.GetResource()}) {
		case corev1.Resource("secrets"):
			return n.read(node, secretRelation, attrs)
		case corev1.Resource("configmaps"):
			return n.read(node, configMapRelation, attrs)
		case corev1.Resource("persistentvolumeclaims"):
			if attrs.GetSubresource() == "status" {
				return n.updateStatus(node, attrs)
			}
			return n.get(node, claimRelation, attrs)
		case corev1.Resource("persistentvolumes"):
			return n.volume(node, attrs)
		case schema.GroupResource{Group: "resource.k8s.io", Resource: "resourceclaims"}:
			return n.get(node, resourceClaimRelation, attrs)
		case schema.GroupResource{Group: "storage.k8s.io", Resource: "volumeattachments"}:
			return n.get(node, attachmentRelation, attrs)
		case corev1.Resource("serviceaccounts"):
			return n.serviceAccount(node, attrs)
		case schema.GroupResource{Group: "coordination.k8s.io", Resource: "leases"}:
			return lease(node, attrs)
		case schema.GroupResource{Group: "storage.k8s.io", Resource: "csinodes"}:
			return csiNode(node, attrs)
		case schema.GroupResource{Group: "resource.k8s.io", Resource: "resourceslices"}:
			return n.resourceSlice(node, attrs)
		case corev1.Resource("nodes"):
			return ownNode(node, attrs)
		case corev1.Resource("pods"):
			return n.pod(node, attrs)
		}
	}
	q := newQuestion(attrs)
	if q.allowedBy(n.rules) {
		return allow()
	}
	return refuse("")
}

func allow() (authorizer.Decision, string, error) { return authorizer.DecisionAllow, "", nil }

func refuse(reason string) (authorizer.Decision, string, error) {
	return authorizer.DecisionNoOpinion, reason, nil
}

// needs allows the one object of attrs when it is related to node.
func (n *Node) needs(node string, kind relation, attrs authorizer.Attributes) (authorizer.Decision, string, error) {
	if attrs.GetName() == "" {
		return refuse("No Object name found")
	}
	if !n.related.to(node, kind, attrs.GetNamespace(), attrs.GetName()) {
		return refuse(fmt.Sprintf("no relationship found between node '%s' and this object", node))
	}
	return allow()
}

func (n *Node) read(node string, kind relation, attrs authorizer.Attributes) (authorizer.Decision, string, error) {
	switch attrs.GetVerb() {
	case "get", "list", "watch":
	default:
		return refuse("can only read resources of this type")
	}
	if attrs.GetSubresource() != "" {
		return refuse("cannot read subresource")
	}
	if attrs.GetNamespace() == "" {
		return refuse("can only read namespaced object of this type")
	}
	return n.needs(node, kind, attrs)
}

func (n *Node) get(node string, kind relation, attrs authorizer.Attributes) (authorizer.Decision, string, error) {
	if attrs.GetVerb() != "get" {
		return refuse("can only get individual resources of this type")
	}
	if attrs.GetSubresource() != "" {
		return refuse("cannot get subresource")
	}
	return n.needs(node, kind, attrs)
}

// volume lets a node read the volumes of its pods, and those that are
// directories of its own: these it finds by their label, and deletes once their
// claims are gone.
func (n *Node) volume(node string, attrs authorizer.Attributes) (authorizer.Decision, string, error) {
	if attrs.GetSubresource() != "" {
		return n.get(node, volumeRelation, attrs)
	}
	switch attrs.GetVerb() {
	case "list", "watch":
		if attrs.GetName() == "" && labelled(attrs, localvolume.NodeLabel, localvolume.Label(node)) {
			return allow()
		}
	case "get", "delete":
		pv, ok := n.related.get(volumeResource, "", attrs.GetName()).(*corev1.PersistentVolume)
		if ok && localvolume.HeldBy(pv, node) && (attrs.GetVerb() == "get" || localvolume.Reclaimable(pv)) {
			return allow()
		}
	}
	return n.get(node, volumeRelation, attrs)
}

// labelled says whether the request is limited to objects with a label.
func labelled(attrs authorizer.Attributes, key, value string) bool {
	reqs, _ := attrs.GetLabelSelector() // unparsable: no requirement is known
	for _, r := range reqs {
		if r.Key() == key && (r.Operator() == selection.Equals || r.Operator() == selection.DoubleEquals || r.Operator() == selection.In) &&
			len(r.ValuesUnsorted()) == 1 && r.ValuesUnsorted()[0] == value {
			return true
		}
	}
	return false
}

func (n *Node) updateStatus(node string, attrs authorizer.Attributes) (authorizer.Decision, string, error) {
	switch attrs.GetVerb() {
	case "get", "update", "patch":
	default:
		return refuse("can only get/update/patch this type")
	}
	return n.needs(node, claimRelation, attrs)
}

// serviceAccount lets a node read the accounts of its pods (for credentials of
// image registries) and get their tokens.
func (n *Node) serviceAccount(node string, attrs authorizer.Attributes) (authorizer.Decision, string, error) {
	if attrs.GetVerb() == "get" && attrs.GetSubresource() == "" {
		return n.needs(node, serviceAccountRelation, attrs)
	}
	if attrs.GetVerb() != "create" || attrs.GetName() == "" {
		return refuse("can only create tokens for individual service accounts")
	}
	if attrs.GetSubresource() != "token" {
		return refuse("can only create token subresource of serviceaccount")
	}
	return n.needs(node, serviceAccountRelation, attrs)
}

func lease(node string, attrs authorizer.Attributes) (authorizer.Decision, string, error) {
	verb := attrs.GetVerb()
	switch verb {
	case "get", "create", "update", "patch", "delete":
	default:
		return refuse("can only get, create, update, patch, or delete a node lease")
	}
	if attrs.GetNamespace() != corev1.NamespaceNodeLease {
		return refuse(fmt.Sprintf("can only access leases in the %q system namespace", corev1.NamespaceNodeLease))
	}
	// The name is not known on create: NodeRestriction checks it.
	if verb != "create" && attrs.GetName() != node {
		return refuse("can only access node lease with the same name as the requesting node")
	}
	return allow()
}

func csiNode(node string, attrs authorizer.Attributes) (authorizer.Decision, string, error) {
	verb := attrs.GetVerb()
	switch verb {
	case "get", "create", "update", "patch", "delete":
	default:
		return refuse("can only get, create, update, patch, or delete a CSINode")
	}
	if attrs.GetSubresource() != "" {
		return refuse("cannot authorize CSINode subresources")
	}
	if verb != "create" && attrs.GetName() != node {
		return refuse("can only access CSINode with the same name as the requesting node")
	}
	return allow()
}

func (n *Node) resourceSlice(node string, attrs authorizer.Attributes) (authorizer.Decision, string, error) {
	if attrs.GetSubresource() != "" {
		return refuse("cannot authorize ResourceSlice subresources")
	}
	switch attrs.GetVerb() {
	case "create": // NodeRestriction checks the node that it names
		return allow()
	case "get", "update", "patch", "delete":
		return n.needs(node, resourceSliceRelation, attrs)
	case "watch", "list", "deletecollection":
		if selects(attrs, "spec.nodeName", node) {
			return allow()
		}
		return refuse("can only list/watch/deletecollection resourceslices with spec.nodeName field selector")
	default:
		return refuse("only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection")
	}
}

func ownNode(node string, attrs authorizer.Attributes) (authorizer.Decision, string, error) {
	verb := attrs.GetVerb()
	switch attrs.GetSubresource() {
	case "":
		switch verb {
		case "create", "update", "patch": // NodeRestriction checks which
			return allow()
		case "get", "list", "watch":
			switch attrs.GetName() {
			case node:
				return allow()
			case "":
				return refuse(fmt.Sprintf("node '%s' cannot read all nodes, only its own Node object", node))
			default:
				return refuse(fmt.Sprintf("node '%s' cannot read '%s', only its own Node object", node, attrs.GetName()))
			}
		}
	case "status":
		if verb == "update" || verb == "patch" {
			return allow()
		}
	}
	return refuse("")
}

func (n *Node) pod(node string, attrs authorizer.Attributes) (authorizer.Decision, string, error) {
	verb := attrs.GetVerb()
	switch attrs.GetSubresource() {
	case "":
		switch verb {
		case "get":
			return n.get(node, podRelation, attrs)
		case "list", "watch":
			if selects(attrs, "spec.nodeName", node) {
				return allow()
			}
			if attrs.GetName() != "" {
				return n.needs(node, podRelation, attrs)
			}
			return refuse("can only list/watch pods with spec.nodeName field selector")
		case "create", "delete": // mirror pods: NodeRestriction
			return allow()
		}
	case "status":
		if verb == "update" || verb == "patch" {
			return allow()
		}
	case "eviction":
		if verb == "create" {
			return allow()
		}
	}
	return refuse("")
}

// selects says whether the request is limited to field=value.
func selects(attrs authorizer.Attributes, field, value string) bool {
	reqs, _ := attrs.GetFieldSelector() // unparsable: no requirement is known
	for _, r := range reqs {
		if r.Field == field && (r.Operator == selection.Equals || r.Operator == selection.DoubleEquals) && r.Value == value {
			return true
		}
	}
	return false
}
