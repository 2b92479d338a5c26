package apiservices

import (
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

// Priority orders groups, and versions within a group: the highest comes first.
type Priority struct{ Group, Version int32 }

var (
	// custom is the priority of what CustomResourceDefinitions define.
	custom = Priority{Group: 1000, Version: 100}
	// add-ons that this server has built in rank as their manifests say.
	addOn = Priority{Group: 100, Version: 100}
	// registration comes before all: it is how the others are found.
	registration = Priority{Group: 20001, Version: 1}
)

// Default is the priority of a group and version that no APIService names.
func Default(gv schema.GroupVersion) Priority {
	switch gv {
	case apiregistrationv1.SchemeGroupVersion:
		return registration
	case metricsv1beta1.SchemeGroupVersion:
		return addOn
	}
	if p, ok := builtin(gv); ok {
		return p
	}
	return custom
}

// builtin is upstream's order of its own groups and versions.
func builtin(gv schema.GroupVersion) (Priority, bool) {
	group, ok := groupPriority(gv.Group)
	if !ok {
		return Priority{}, false
	}
	p := Priority{Group: group, Version: 15}
	switch gv.String() {
	case "v1":
		p.Version = 1
	case "autoscaling/v2":
		p.Version = 30
	case "flowcontrol.apiserver.k8s.io/v1", "resource.k8s.io/v1":
		p.Version = 21
	default:
		if gv.Version != "v1" {
			p.Version = 9 // none is served
		}
	}
	return p, true
}

func groupPriority(group string) (int32, bool) {
	switch group {
	case "":
		return 18000, true
	case "apps":
		return 17800, true
	case "events.k8s.io":
		return 17750, true
	case "authentication.k8s.io":
		return 17700, true
	case "authorization.k8s.io":
		return 17600, true
	case "autoscaling":
		return 17500, true
	case "batch":
		return 17400, true
	case "certificates.k8s.io":
		return 17300, true
	case "networking.k8s.io":
		return 17200, true
	case "policy":
		return 17100, true
	case "rbac.authorization.k8s.io":
		return 17000, true
	case "storage.k8s.io":
		return 16800, true
	case "apiextensions.k8s.io", "admissionregistration.k8s.io":
		return 16700, true
	case "scheduling.k8s.io":
		return 16600, true
	case "coordination.k8s.io":
		return 16500, true
	case "node.k8s.io":
		return 16300, true
	case "discovery.k8s.io", "resource.k8s.io":
		return 16200, true
	case "flowcontrol.apiserver.k8s.io":
		return 16100, true
	case "internal.apiserver.k8s.io":
		return 16000, true
	case "storagemigration.k8s.io":
		return 15800, true
	}
	return 0, false
}
