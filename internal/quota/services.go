package quota

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

type services struct{}

const countServices corev1.ResourceName = "count/services"

func (services) Tracks(name corev1.ResourceName) bool {
	switch name {
	case countServices, corev1.ResourceServices, corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers:
		return true
	}
	return false
}

// Usage goes by what is asked for: node ports are given out later.
func (services) Usage(obj runtime.Object, _ time.Time) corev1.ResourceList {
	svc, ok := obj.(*corev1.Service)
	if !ok {
		return nil
	}
	nodePorts, balancers := 0, 0
	switch svc.Spec.Type {
	case corev1.ServiceTypeNodePort:
		nodePorts = len(svc.Spec.Ports)
	case corev1.ServiceTypeLoadBalancer:
		balancers = 1
		every := svc.Spec.AllocateLoadBalancerNodePorts == nil || *svc.Spec.AllocateLoadBalancerNodePorts
		for _, p := range svc.Spec.Ports {
			if every || p.NodePort != 0 {
				nodePorts++
			}
		}
	}
	return corev1.ResourceList{
		countServices: pieces(1), corev1.ResourceServices: pieces(1),
		corev1.ResourceServicesNodePorts: pieces(nodePorts), corev1.ResourceServicesLoadBalancers: pieces(balancers),
	}
}

func (services) InScope(corev1.ScopedResourceSelectorRequirement, runtime.Object) bool { return false }

func (services) Lacking([]corev1.ResourceName, runtime.Object) error { return nil }

func (services) Charged(w Write) bool { return w.Subresource == "" && (w.Create || w.Update) }
