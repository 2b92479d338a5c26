package endpointslicemirroring

import (
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	endpointutil "k8s.io/endpointslice/util"
)

// perSubset bounds the addresses that are taken of one subset: what one slice
// can hold.
const perSubset = 1000

// place is what all endpoints of a slice have in common.
type place struct {
	ports  endpointutil.PortMapKey
	family discoveryv1.AddressType
}

// identity tells endpoints of a place apart: pods may share an address.
type identity struct {
	ip  netip.Addr
	pod types.UID
}

// draft is a slice in the making.
type draft struct {
	*discoveryv1.EndpointSlice
	at map[identity]int // which of its endpoints is which
}

// mirror makes the slices of Endpoints, and counts the addresses that are no
// addresses and those that are too many. What is named twice for the same ports
// is one endpoint, which is ready if it is said to be so each time.
func mirror(e *corev1.Endpoints) (out []*discoveryv1.EndpointSlice, invalid, skipped int) {
	byPlace := map[place]*draft{}
	for i := range e.Subsets {
		ports := portsOf(e.Subsets[i].Ports)
		taken := 0
		add := func(a *corev1.EndpointAddress, ready bool) {
			ip, err := netip.ParseAddr(a.IP)
			if err != nil {
				invalid++
				return
			}
			at := place{ports: endpointutil.NewPortMapKey(ports), family: discoveryv1.AddressTypeIPv4}
			if ip.Is6() && !ip.Is4In6() {
				at.family = discoveryv1.AddressTypeIPv6
			}
			s := byPlace[at]
			if s == nil {
				s = &draft{newSlice(e, ports, at.family), map[identity]int{}}
				byPlace[at] = s
				out = append(out, s.EndpointSlice)
			}
			id := identity{ip: ip.Unmap()}
			if a.TargetRef != nil {
				id.pod = a.TargetRef.UID
			}
			if known, ok := s.at[id]; ok {
				if !ready {
					s.Endpoints[known].Conditions.Ready = &ready
				}
				return
			}
			if taken >= perSubset || len(s.Endpoints) >= perSubset {
				skipped++
				return
			}
			taken++
			s.at[id] = len(s.Endpoints)
			s.Endpoints = append(s.Endpoints, endpoint(a, id.ip, ready))
		}
		for j := range e.Subsets[i].Addresses {
			add(&e.Subsets[i].Addresses[j], true)
		}
		for j := range e.Subsets[i].NotReadyAddresses {
			add(&e.Subsets[i].NotReadyAddresses[j], false)
		}
	}
	for _, s := range out {
		s.Endpoints = sorted(s.Endpoints)
	}
	return out, invalid, skipped
}

func portsOf(ports []corev1.EndpointPort) []discoveryv1.EndpointPort {
	out := make([]discoveryv1.EndpointPort, 0, len(ports))
	for _, p := range ports {
		c := p.DeepCopy()
		out = append(out, discoveryv1.EndpointPort{Name: &c.Name, Port: &c.Port, Protocol: &c.Protocol, AppProtocol: c.AppProtocol})
	}
	return out
}

func endpoint(a *corev1.EndpointAddress, ip netip.Addr, ready bool) discoveryv1.Endpoint {
	a = a.DeepCopy()
	out := discoveryv1.Endpoint{
		Addresses:  []string{ip.String()},
		Conditions: discoveryv1.EndpointConditions{Ready: &ready},
		TargetRef:  a.TargetRef,
		NodeName:   a.NodeName,
	}
	if a.Hostname != "" {
		out.Hostname = &a.Hostname
	}
	return out
}

func newSlice(e *corev1.Endpoints, ports []discoveryv1.EndpointPort, family discoveryv1.AddressType) *discoveryv1.EndpointSlice {
	labels := make(map[string]string, len(e.Labels)+2)
	maps.Copy(labels, e.Labels)
	labels[discoveryv1.LabelServiceName], labels[discoveryv1.LabelManagedBy] = e.Name, managedBy
	annotations := make(map[string]string, len(e.Annotations))
	maps.Copy(annotations, e.Annotations)
	delete(annotations, corev1.EndpointsLastChangeTriggerTime)
	delete(annotations, corev1.LastAppliedConfigAnnotation)
	prefix := e.Name + "-"
	if len(validation.NameIsDNSSubdomain(prefix, true)) != 0 {
		prefix = e.Name
	}
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: e.Namespace, GenerateName: prefix, Labels: labels, Annotations: annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(e, corev1.SchemeGroupVersion.WithKind("Endpoints"))},
		},
		AddressType: family,
		Ports:       ports,
	}
}

func samePlace(a, b *discoveryv1.EndpointSlice) bool {
	return a.AddressType == b.AddressType && endpointutil.NewPortMapKey(slices.Clone(a.Ports)) == endpointutil.NewPortMapKey(slices.Clone(b.Ports))
}

func sameContent(a, b *discoveryv1.EndpointSlice) bool {
	return apiequality.Semantic.DeepEqual(a.Labels, b.Labels) && apiequality.Semantic.DeepEqual(a.Annotations, b.Annotations) &&
		apiequality.Semantic.DeepEqual(a.OwnerReferences, b.OwnerReferences) &&
		apiequality.Semantic.DeepEqual(sorted(a.Endpoints), b.Endpoints)
}

// sorted orders endpoints by address, so that a change of order is no change.
func sorted(list []discoveryv1.Endpoint) []discoveryv1.Endpoint {
	return slices.SortedStableFunc(slices.Values(list), func(a, b discoveryv1.Endpoint) int {
		return slices.Compare(a.Addresses, b.Addresses)
	})
}
