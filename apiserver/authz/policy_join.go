package authz

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/proa-dev/proa/internal/bootstraptoken"
)

// ClusterSettings is the ConfigMap in kube-system that tells nodes what they
// must agree on.
const ClusterSettings = "proa-cluster"

// What lets nodes join is Proa's own: upstream leaves it to installers, and
// these are the bindings that kubeadm makes.

// joinClusterBindings let the bearers of tokens ask for a node's certificate,
// nodes renew theirs, and every node run the Service proxy under its own name.
func joinClusterBindings() []rbacv1.ClusterRoleBinding {
	to := func(name, role, who string) rbacv1.ClusterRoleBinding {
		b := bindCluster(role, group(who))
		b.Name = name
		return b
	}
	const requests = "system:certificates.k8s.io:certificatesigningrequests:"
	return []rbacv1.ClusterRoleBinding{
		to("proa:node-bootstrapper", "system:node-bootstrapper", bootstraptoken.NodeGroup),
		to("proa:node-autoapprove-bootstrap", requests+"nodeclient", bootstraptoken.NodeGroup),
		to("proa:node-autoapprove-certificate-rotation", requests+"selfnodeclient", user.NodesGroup),
		to("proa:node-proxier", "system:node-proxier", user.NodesGroup),
	}
}

// joinRoles show what a node must know before it is known itself, and after.
func joinRoles() []rbacv1.Role {
	return []rbacv1.Role{
		role(publicNamespace, "proa:cluster-info", on("get", "core", "configmaps", bootstraptoken.ClusterInfo)),
		role(systemNamespace, "proa:cluster-settings", on("get", "core", "configmaps", ClusterSettings)),
	}
}

func joinBindings() []rbacv1.RoleBinding {
	return []rbacv1.RoleBinding{
		bind(publicNamespace, "proa:cluster-info", "proa:cluster-info", person(user.Anonymous)),
		bind(systemNamespace, "proa:cluster-settings", "proa:cluster-settings", group(user.NodesGroup), group(bootstraptoken.NodeGroup)),
	}
}
