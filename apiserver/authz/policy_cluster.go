package authz

import (
	"slices"

	certsv1 "k8s.io/api/certificates/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/proa-dev/proa/internal/certs"
)

// ClusterRoles is the default policy's cluster roles.
func ClusterRoles() []rbacv1.ClusterRole {
	return fillAggregated(slices.Concat(everybodysRoles(), namespaceRoles(), nodeRoles(), componentRoles(), certificateRoles(), controllerRoles()))
}

// fillAggregated gives aggregated roles the rules that their controller will
// compute, so that they hold from the first moment.
func fillAggregated(roles []rbacv1.ClusterRole) []rbacv1.ClusterRole {
	// edit collects view, admin collects edit: in this order.
	for _, name := range []string{"view", "edit", "admin"} {
		to := slices.IndexFunc(roles, func(r rbacv1.ClusterRole) bool { return r.Name == name })
		for i := range roles {
			if roles[i].Labels[aggregateTo+name] == "true" {
				roles[to].Rules = append(roles[to].Rules, roles[i].Rules...)
			}
		}
	}
	return roles
}

func everybodysRoles() []rbacv1.ClusterRole {
	return []rbacv1.ClusterRole{
		clusterRole("cluster-admin", on("*", "*", "*"), at("*", "*")),
		clusterRole("system:discovery", at("get",
			"/livez /readyz /healthz /version /version/ /openapi /openapi/* /api /api/* /apis /apis/*")),
		clusterRole("system:monitoring", at("get",
			"/metrics /metrics/slis /livez /readyz /healthz /livez/* /readyz/* /healthz/* /flagz /statusz"),
			on("get", "core", "nodes/metrics")),
		clusterRole("system:basic-user",
			on("create", "authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews"),
			on("create", "authentication.k8s.io", "selfsubjectreviews")),
		clusterRole("system:public-info-viewer", at("get", "/livez /readyz /healthz /version /version/")),
		clusterRole("system:service-account-issuer-discovery", at("get",
			"/.well-known/openid-configuration /.well-known/openid-configuration/ /openid/v1/jwks /openid/v1/jwks/")),
	}
}

// namespaceRoles are what people get in their namespaces.
func namespaceRoles() []rbacv1.ClusterRole {
	return []rbacv1.ClusterRole{
		aggregated("admin", "admin", ""),
		aggregated("edit", "edit", "admin"),
		aggregated("view", "view", "edit"),
		readers(on("get list watch", "metrics.k8s.io", "nodes pods")),
		part("admin",
			on("create", "authorization.k8s.io", "localsubjectaccessreviews"),
			on(all, rbacv1.GroupName, "roles rolebindings"),
		),
		part("edit",
			// To read these is to become somebody else: not for viewers.
			on(read, "core", "pods/attach pods/proxy pods/exec pods/portforward secrets services/proxy"),
			on("impersonate", "core", "serviceaccounts"),
			on(write, "core", "pods pods/attach pods/proxy pods/exec pods/portforward"),
			on("create", "core", "pods/eviction"),
			on(write, "core", "replicationcontrollers replicationcontrollers/scale serviceaccounts services services/proxy persistentvolumeclaims configmaps secrets"),
			on(write, "core events.k8s.io", "events"),
			on("create", "core", "serviceaccounts/token"),
			on(write, "apps", "statefulsets statefulsets/scale daemonsets deployments deployments/scale deployments/rollback replicasets replicasets/scale"),
			on(write, "autoscaling", "horizontalpodautoscalers"),
			on(write, "batch", "jobs cronjobs"),
			on(write, "extensions", "daemonsets deployments deployments/scale deployments/rollback ingresses replicasets replicasets/scale replicationcontrollers/scale networkpolicies"),
			on(write, "policy", "poddisruptionbudgets"),
			on(write, "networking.k8s.io", "networkpolicies ingresses"),
			on(all, "coordination.k8s.io", "leases"),
			on(write, "resource.k8s.io", "resourceclaims resourceclaimtemplates"),
		),
		part("view",
			on(read, "core", "pods replicationcontrollers replicationcontrollers/scale serviceaccounts services services/status endpoints persistentvolumeclaims persistentvolumeclaims/status configmaps"),
			on(read, "core", "limitranges resourcequotas bindings pods/status resourcequotas/status namespaces/status replicationcontrollers/status pods/log"),
			on(read, "core events.k8s.io", "events"),
			// In one namespace this is to read that namespace itself.
			on(read, "core", "namespaces"),
			on(read, "discovery.k8s.io", "endpointslices"),
			on(read, "apps", "controllerrevisions statefulsets statefulsets/status statefulsets/scale daemonsets daemonsets/status deployments deployments/status deployments/scale replicasets replicasets/status replicasets/scale"),
			on(read, "autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status"),
			on(read, "batch", "jobs cronjobs cronjobs/status jobs/status"),
			on(read, "extensions", "daemonsets daemonsets/status deployments deployments/scale deployments/status ingresses ingresses/status replicasets replicasets/scale replicasets/status replicationcontrollers/scale networkpolicies"),
			on(read, "policy", "poddisruptionbudgets poddisruptionbudgets/status"),
			on(read, "networking.k8s.io", "networkpolicies ingresses ingresses/status"),
			on(read, "resource.k8s.io", "resourceclaims resourceclaims/status resourceclaimtemplates"),
		),
	}
}

// nodeRules is what every node may do, beyond what Node decides by object.
func nodeRules() []rbacv1.PolicyRule {
	return []rbacv1.PolicyRule{
		// To check who calls the node's own API.
		on("create", "authentication.k8s.io", "tokenreviews"),
		on("create", "authorization.k8s.io", "subjectaccessreviews localsubjectaccessreviews"),
		// For service environment variables.
		on(read, "core", "services"),
		on("create get list watch", "core", "nodes"),
		on("update patch", "core", "nodes/status"),
		on("update patch", "core", "nodes"),
		emits(),
		on(read, "core", "pods"),
		on("create delete", "core", "pods"),
		on("update patch", "core", "pods/status"),
		on("create", "core", "pods/eviction"),
		on(read, "core", "secrets configmaps"),
		on("get", "core", "persistentvolumeclaims persistentvolumes"),
		on("get", "core", "endpoints"),
		on("create get list watch", "certificates.k8s.io", "certificatesigningrequests"),
		on("get create update patch delete", "coordination.k8s.io", "leases"),
		on("get", "storage.k8s.io", "volumeattachments"),
		on("create", "core", "serviceaccounts/token"),
		on("get", "core", "serviceaccounts"),
		on("get update patch", "core", "persistentvolumeclaims/status"),
		on(read, "storage.k8s.io", "csidrivers"),
		on("get create update patch delete", "storage.k8s.io", "csinodes"),
		on(read, "node.k8s.io", "runtimeclasses"),
		on("get", "resource.k8s.io", "resourceclaims"),
		on("deletecollection", "resource.k8s.io", "resourceslices"),
		on(read, "certificates.k8s.io", "clustertrustbundles"),
		on("create get list watch", "certificates.k8s.io", "podcertificaterequests"),
	}
}

func nodeRoles() []rbacv1.ClusterRole {
	return []rbacv1.ClusterRole{
		clusterRole("system:node", nodeRules()...),
		clusterRole("system:node-problem-detector", on("get", "core", "nodes"), on("patch", "core", "nodes/status"), emits()),
		clusterRole("system:kubelet-api-admin",
			on(read, "core", "nodes"),
			on("proxy", "core", "nodes"),
			on("*", "core", "nodes/proxy nodes/metrics nodes/stats nodes/log nodes/pods nodes/healthz nodes/configz")),
		clusterRole("system:node-bootstrapper", on("create get list watch", "certificates.k8s.io", "certificatesigningrequests")),
		clusterRole("system:node-proxier",
			on("list watch", "core", "services endpoints"),
			on(read, "core", "nodes"),
			emits(),
			on("list watch", "discovery.k8s.io", "endpointslices"),
			on("list watch", "networking.k8s.io", "servicecidrs")),
		clusterRole("system:heapster", on(read, "core", "events pods nodes namespaces"), on(read, "extensions", "deployments")),
	}
}

func componentRoles() []rbacv1.ClusterRole {
	return []rbacv1.ClusterRole{
		clusterRole("system:auth-delegator",
			on("create", "authentication.k8s.io", "tokenreviews"),
			on("create", "authorization.k8s.io", "subjectaccessreviews")),
		clusterRole("system:kube-aggregator", on(read, "core", "services endpoints")),
		clusterRole("system:kube-controller-manager",
			emits(),
			on("create", "coordination.k8s.io", "leases"),
			on("get update", "coordination.k8s.io", "leases", "kube-controller-manager"),
			on("create", "core", "secrets serviceaccounts"),
			on("delete", "core", "secrets"),
			on("get", "core", "namespaces secrets serviceaccounts configmaps"),
			on("update", "core", "secrets serviceaccounts"),
			on("create", "authentication.k8s.io", "tokenreviews"),
			on("create", "authorization.k8s.io", "subjectaccessreviews"),
			on("list watch", "*", "*"),
			on("create", "core", "serviceaccounts/token")),
		clusterRole("system:kube-dns", on("list watch", "core", "endpoints services")),
		clusterRole("system:persistent-volume-provisioner",
			on("get list watch create delete", "core", "persistentvolumes"),
			on("get list watch update", "core", "persistentvolumeclaims"),
			on(read, "storage.k8s.io", "storageclasses"),
			on("watch", "core", "events"),
			emits()),
		clusterRole("system:volume-scheduler",
			on(readUpdate, "core", "persistentvolumes"),
			on(read, "storage.k8s.io", "storageclasses"),
			on(readUpdate, "core", "persistentvolumeclaims")),
		clusterRole("system:kube-scheduler",
			emits(),
			on("create", "coordination.k8s.io", "leases"),
			on("get list update watch", "coordination.k8s.io", "leases", "kube-scheduler"),
			on("create delete deletecollection get list patch update watch", "coordination.k8s.io", "leasecandidates"),
			on(read, "core", "nodes"),
			on("get list watch delete", "core", "pods"),
			on("create", "core", "pods/binding bindings"),
			on("patch update", "core", "pods/status"),
			on(read, "core", "services replicationcontrollers"),
			on(read, "apps extensions", "replicasets"),
			on(read, "apps", "statefulsets"),
			on(read, "policy", "poddisruptionbudgets"),
			on(read, "core", "persistentvolumeclaims persistentvolumes"),
			on("create", "authentication.k8s.io", "tokenreviews"),
			on("create", "authorization.k8s.io", "subjectaccessreviews"),
			on(read, "storage.k8s.io", "csinodes"),
			on(read, "core", "namespaces"),
			on(read, "storage.k8s.io", "csidrivers"),
			on(read, "storage.k8s.io", "csistoragecapacities"),
			on(read, "storage.k8s.io", "volumeattachments"),
			on(readUpdate+" create delete", "resource.k8s.io", "resourceclaims"),
			on("update patch", "resource.k8s.io", "resourceclaims/binding"),
			on(readUpdate, "resource.k8s.io", "resourceclaims/status"),
			on(read, "resource.k8s.io", "deviceclasses resourceslices devicetaintrules"),
			on("update", "core", "pods/finalizers")),
	}
}

func certificateRoles() []rbacv1.ClusterRole {
	approver := func(name, signer string) rbacv1.ClusterRole {
		return clusterRole("system:certificates.k8s.io:"+name, on("approve", "certificates.k8s.io", "signers", signer))
	}
	return []rbacv1.ClusterRole{
		clusterRole("system:cluster-trust-bundle-discovery", on(read, "certificates.k8s.io", "clustertrustbundles")),
		clusterRole("system:certificates.k8s.io:certificatesigningrequests:nodeclient",
			on("create", "certificates.k8s.io", "certificatesigningrequests/nodeclient")),
		clusterRole("system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
			on("create", "certificates.k8s.io", "certificatesigningrequests/selfnodeclient")),
		approver("legacy-unknown-approver", "kubernetes.io/legacy-unknown"),
		approver("kubelet-serving-approver", certsv1.KubeletServingSignerName),
		approver("kube-apiserver-client-approver", certsv1.KubeAPIServerClientSignerName),
		approver("kube-apiserver-client-kubelet-approver", certsv1.KubeAPIServerClientKubeletSignerName),
	}
}

// ClusterRoleBindings is the default policy's cluster role bindings.
func ClusterRoleBindings() []rbacv1.ClusterRoleBinding {
	return append([]rbacv1.ClusterRoleBinding{
		bindCluster("cluster-admin", group(user.SystemPrivilegedGroup)),
		bindCluster("system:monitoring", group(user.MonitoringGroup)),
		bindCluster("system:discovery", group(user.AllAuthenticated)),
		bindCluster("system:basic-user", group(user.AllAuthenticated)),
		bindCluster("system:public-info-viewer", group(user.AllAuthenticated), group(user.AllUnauthenticated)),
		bindCluster("system:node-proxier", person(user.KubeProxy)),
		bindCluster("system:kube-controller-manager", person(user.KubeControllerManager)),
		bindCluster("system:kube-dns", account("kube-dns")),
		bindCluster("system:kube-scheduler", person(user.KubeScheduler)),
		bindCluster("system:volume-scheduler", person(user.KubeScheduler)),
		// To nobody: nodes have an authorizer of their own.
		bindCluster("system:node"),
		// All that the API server may do by its certificate for nodes' APIs: a
		// node that gives the API server's own address as its own gains nothing.
		bindCluster("system:kubelet-api-admin", person(certs.KubeletClientUser)),
		bindCluster("system:cluster-trust-bundle-discovery", group(serviceaccount.AllServiceAccountsGroup)),
		bindCluster("system:service-account-issuer-discovery", group(serviceaccount.AllServiceAccountsGroup)),
	}, slices.Concat(controllerBindings(), joinClusterBindings())...)
}

// Roles is the default policy's namespaced roles.
func Roles() []rbacv1.Role {
	return append([]rbacv1.Role{
		role(systemNamespace, "extension-apiserver-authentication-reader",
			on(read, "core", "configmaps", "extension-apiserver-authentication")),
		role(systemNamespace, controllerPrefix+"bootstrap-signer", on(read, "core", "secrets")),
		role(systemNamespace, controllerPrefix+"cloud-provider", on("create get list watch", "core", "configmaps")),
		role(systemNamespace, controllerPrefix+"token-cleaner", on("get list watch delete", "core", "secrets"), emits()),
		role(systemNamespace, "system::leader-locking-kube-controller-manager",
			on("create get list update watch", "coordination.k8s.io", "leases leasecandidates")),
		role(systemNamespace, "system::leader-locking-kube-scheduler",
			on("create get list update watch", "coordination.k8s.io", "leases leasecandidates")),
		role(publicNamespace, controllerPrefix+"bootstrap-signer",
			on(read, "core", "configmaps"),
			on("update", "core", "configmaps", "cluster-info"),
			emits()),
	}, joinRoles()...)
}

// RoleBindings is the default policy's namespaced bindings.
func RoleBindings() []rbacv1.RoleBinding {
	same := func(namespace, name string, subjects ...rbacv1.Subject) rbacv1.RoleBinding {
		return bind(namespace, name, name, subjects...)
	}
	return append([]rbacv1.RoleBinding{
		bind(systemNamespace, "system::extension-apiserver-authentication-reader", "extension-apiserver-authentication-reader",
			person(user.KubeControllerManager), person(user.KubeScheduler)),
		same(systemNamespace, "system::leader-locking-kube-controller-manager", person(user.KubeControllerManager), account("kube-controller-manager"), account("leader-election-controller")),
		same(systemNamespace, "system::leader-locking-kube-scheduler", person(user.KubeScheduler), account("kube-scheduler")),
		same(systemNamespace, controllerPrefix+"bootstrap-signer", account("bootstrap-signer")),
		same(systemNamespace, controllerPrefix+"cloud-provider", account("cloud-provider")),
		same(systemNamespace, controllerPrefix+"token-cleaner", account("token-cleaner")),
		same(publicNamespace, controllerPrefix+"bootstrap-signer", account("bootstrap-signer")),
	}, joinBindings()...)
}
