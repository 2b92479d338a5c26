package endpoints

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// capacity bounds the addresses of one object.
const capacity = 1000

// packer groups addresses and ports into subsets: ports with the very same
// addresses share one.
type packer struct {
	ports     map[string]*portAddresses
	addresses map[addressKey]corev1.EndpointAddress
}

type addressKey struct {
	ip  string
	pod types.UID
}

type portAddresses struct {
	port  []corev1.EndpointPort // one, or none for a Service without ports
	ready map[addressKey]bool
}

func newPacker() *packer {
	return &packer{ports: map[string]*portAddresses{}, addresses: map[addressKey]corev1.EndpointAddress{}}
}

func (p *packer) add(port corev1.EndpointPort, hasPort bool, a corev1.EndpointAddress, ready bool) {
	id := ""
	if hasPort {
		id = fmt.Sprintf("%s/%d/%s/%s", port.Name, port.Port, port.Protocol, ptr.Deref(port.AppProtocol, ""))
	}
	pa := p.ports[id]
	if pa == nil {
		pa = &portAddresses{ready: map[addressKey]bool{}}
		if hasPort {
			pa.port = []corev1.EndpointPort{port}
		}
		p.ports[id] = pa
	}
	k := addressKey{ip: a.IP, pod: a.TargetRef.UID}
	p.addresses[k] = a
	pa.ready[k] = ready
}

// subsets returns the groups, all in a fixed order.
func (p *packer) subsets() []corev1.EndpointSubset {
	groups := map[string]*corev1.EndpointSubset{}
	for _, id := range slices.Sorted(maps.Keys(p.ports)) {
		pa := p.ports[id]
		keys := slices.SortedFunc(maps.Keys(pa.ready), func(a, b addressKey) int {
			return cmp.Or(cmp.Compare(a.ip, b.ip), cmp.Compare(a.pod, b.pod))
		})
		var group strings.Builder
		for _, k := range keys {
			fmt.Fprintf(&group, "%s %s %t\n", k.ip, k.pod, pa.ready[k])
		}
		s := groups[group.String()]
		if s == nil {
			s = &corev1.EndpointSubset{}
			for _, k := range keys {
				if pa.ready[k] {
					s.Addresses = append(s.Addresses, p.addresses[k])
				} else {
					s.NotReadyAddresses = append(s.NotReadyAddresses, p.addresses[k])
				}
			}
			groups[group.String()] = s
		}
		s.Ports = append(s.Ports, pa.port...)
	}
	out := make([]corev1.EndpointSubset, 0, len(groups))
	for _, k := range slices.Sorted(maps.Keys(groups)) {
		out = append(out, *groups[k])
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// truncate cuts subsets to the capacity, each in proportion to its size, ready
// addresses first, and reports whether it had to.
func truncate(subsets []corev1.EndpointSubset) bool {
	ready, notReady := 0, 0
	for i := range subsets {
		ready += len(subsets[i].Addresses)
		notReady += len(subsets[i].NotReadyAddresses)
	}
	if ready+notReady <= capacity {
		return false
	}
	cutReady := ready > capacity
	room, total := capacity-ready, notReady
	if cutReady {
		room, total = capacity, ready
	}
	left := room
	for i := range subsets {
		s := &subsets[i]
		list := &s.NotReadyAddresses
		if cutReady {
			s.NotReadyAddresses = nil
			list = &s.Addresses
		}
		keep := min(left, int(math.Ceil(float64(len(*list))/float64(total)*float64(room))))
		*list = (*list)[:keep]
		left -= keep
	}
	return true
}
