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
)

// Services finds where Services are served. It names endpoints rather than
// cluster addresses, which not every machine with an API server can reach.
type Services struct{ Source Source }

// Address returns an address for a port of a Service.
func (s Services) Address(ctx context.Context, namespace, name string, port int32) (string, error) {
	svc, err := s.service(ctx, namespace, name)
	if err != nil {
		return "", err
	}
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		return net.JoinHostPort(svc.Spec.ExternalName, strconv.Itoa(int(port))), nil
	}
	for _, sp := range svc.Spec.Ports {
		if sp.Port == port {
			return s.endpoint(svc, sp.Name)
		}
	}
	return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %d found for service %q", port, name))
}

func (s Services) service(ctx context.Context, namespace, name string) (*corev1.Service, error) {
	obj, ok := s.Source.Get(services, namespace, name)
	if !ok { // it may be too new for the cache
		obj, ok = s.Source.Live(ctx, services, namespace, name)
	}
	if !ok {
		return nil, apierrors.NewNotFound(services, name)
	}
	svc, ok := obj.(*corev1.Service)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("unexpected object type: %T", obj))
	}
	return svc, nil
}

// endpoint picks one of the ready endpoints of a service by chance.
func (s Services) endpoint(svc *corev1.Service, portName string) (string, error) {
	var found []string
	for _, obj := range s.Source.List(schema.GroupResource{Group: "discovery.k8s.io", Resource: "endpointslices"}, svc.Namespace) {
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
