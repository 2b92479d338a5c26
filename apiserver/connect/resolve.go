package connect

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"syscall"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/proa-dev/proa/api"
)

// Resolver finds where Services are served, for all who reach one from the API
// server: it looks at the endpoints, so that it works where Services are not
// routed, on a server without a node.
type Resolver struct{ Source CachedSource }

// CachedSource is a Source that may be asked for what it has at hand.
type CachedSource interface {
	Source
	Get(gr schema.GroupResource, namespace, name string) (api.Object, bool)
}

// Resolve returns the address of one of the ready endpoints of a Service's port,
// picked by chance.
func (r Resolver) Resolve(ctx context.Context, namespace, name string, port int32) (string, error) {
	obj, ok := r.Source.Get(services, namespace, name)
	if !ok { // it may be too new for the cache
		obj, ok = r.Source.Live(ctx, services, namespace, name)
	}
	if !ok {
		return "", apierrors.NewNotFound(services, name)
	}
	svc, ok := obj.(*corev1.Service)
	if !ok {
		return "", apierrors.NewInternalError(fmt.Errorf("unexpected object type: %T", obj))
	}
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		return net.JoinHostPort(svc.Spec.ExternalName, strconv.Itoa(int(port))), nil
	}
	for _, p := range svc.Spec.Ports {
		if p.Port == port {
			return endpoint(r.Source, svc, p.Name)
		}
	}
	return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %d found for service %q", port, name))
}

// endpoint picks one of the ready endpoints of a service by chance.
func endpoint(source Source, svc *corev1.Service, portName string) (string, error) {
	var found []string
	for _, obj := range source.List(schema.GroupResource{Group: "discovery.k8s.io", Resource: "endpointslices"}, svc.Namespace) {
		slice, ok := obj.(*discoveryv1.EndpointSlice)
		if !ok || slice.Labels[discoveryv1.LabelServiceName] != svc.Name {
			continue
		}
		for _, port := range slice.Ports {
			if port.Port == nil || port.Name != nil && *port.Name != portName || port.Name == nil && portName != "" {
				continue
			}
			for _, e := range slice.Endpoints {
				if e.Conditions.Ready != nil && !*e.Conditions.Ready || len(e.Addresses) == 0 || dialable(e.Addresses[0], false) != nil {
					continue
				}
				found = append(found, net.JoinHostPort(e.Addresses[0], strconv.Itoa(int(*port.Port))))
			}
		}
	}
	if len(found) == 0 {
		return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", svc.Name))
	}
	return found[rand.IntN(len(found))], nil
}

// Guard is a net.Dialer's Control: it refuses addresses by which whoever owns a
// Service, or a name that it stands for, would lead the API server to its own
// machine.
func Guard(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("dial %s: %w", address, err)
	}
	if dialable(at.Addr().Unmap().WithZone("").String(), false) != nil {
		return errors.New("address not allowed")
	}
	return nil
}
