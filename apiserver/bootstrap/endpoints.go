package bootstrap

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	coordv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	leaseSeconds = 15
	renewEvery   = 5 * time.Second

	identityLabel     = "apiserver.kubernetes.io/identity"
	identityValue     = "proa-apiserver"
	addressAnnotation = "proa.dev/apiserver-address"
)

// Endpoints keeps the endpoints of the Service kubernetes: the addresses of
// the API servers that live. Each server renews a Lease that holds its
// address, and each writes the sum of the leases, so that a server that dies
// is taken out by the others.
type Endpoints struct {
	Client ctrl.Client
	Reader ctrl.Reader
	// Address is where this server is reached by pods and nodes.
	Address netip.AddrPort
	Clock   clock.WithTicker
	Logger  *slog.Logger
}

// Run registers this server, calls ready, and keeps the endpoints until ctx
// ends; then it takes this server out.
func (e *Endpoints) Run(ctx context.Context, ready func()) error {
	if e.Address.Addr().IsLoopback() {
		// Endpoints may not be loopback addresses: in a pod's network that
		// would be the pod itself.
		e.Logger.Warn("pods cannot reach the API server: its address is a loopback address", "address", e.Address)
		ready()
		<-ctx.Done()
		return nil
	}
	if err := e.sync(ctx); err != nil {
		if ctx.Err() != nil {
			return e.leave(context.WithoutCancel(ctx))
		}
		return err
	}
	ready()
	ticker := e.Clock.NewTicker(renewEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return e.leave(context.WithoutCancel(ctx))
		case <-ticker.C():
			if err := e.sync(ctx); err != nil && ctx.Err() == nil {
				e.Logger.Warn("endpoints of the API server not renewed", "error", err)
			}
		}
	}
}

func (e *Endpoints) sync(ctx context.Context) error {
	if err := e.renew(ctx); err != nil {
		return err
	}
	return e.publish(ctx)
}

// leave gives the lease back, in the little time that a stop may take.
func (e *Endpoints) leave(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	err := e.Client.Delete(ctx, &coordv1.Lease{ObjectMeta: e.leaseMeta()})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("give back lease: %w", err)
	}
	addresses, err := e.alive(ctx)
	if err != nil {
		return err
	}
	// The last server leaves its address: it comes back, most likely, and
	// until then an empty list helps nobody.
	if len(addresses) == 0 {
		return nil
	}
	return e.write(ctx, addresses)
}

func (e *Endpoints) leaseMeta() metav1.ObjectMeta {
	sum := sha256.Sum256([]byte(e.Address.String()))
	return metav1.ObjectMeta{
		Namespace: metav1.NamespaceSystem, Name: fmt.Sprintf("apiserver-%x", sum[:10]),
		Labels:      map[string]string{identityLabel: identityValue},
		Annotations: map[string]string{addressAnnotation: e.Address.String()},
	}
}

func (e *Endpoints) renew(ctx context.Context) error {
	now := metav1.NewMicroTime(e.Clock.Now())
	seconds := int32(leaseSeconds)
	lease := &coordv1.Lease{ObjectMeta: e.leaseMeta()}
	holder := lease.Name
	err := e.Reader.Get(ctx, ctrl.ObjectKeyFromObject(lease), lease)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("read lease: %w", err)
	}
	missing := err != nil
	if missing {
		lease = &coordv1.Lease{ObjectMeta: e.leaseMeta()}
	}
	meta := e.leaseMeta()
	lease.Labels, lease.Annotations = meta.Labels, meta.Annotations
	lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds, lease.Spec.RenewTime = &holder, &seconds, &now
	if missing {
		err = e.Client.Create(ctx, lease)
	} else {
		err = e.Client.Update(ctx, lease)
	}
	if err != nil {
		return fmt.Errorf("renew lease: %w", err)
	}
	return nil
}

// alive lists the addresses whose leases are valid, in order.
func (e *Endpoints) alive(ctx context.Context) ([]netip.AddrPort, error) {
	var leases coordv1.LeaseList
	err := e.Reader.List(ctx, &leases, ctrl.InNamespace(metav1.NamespaceSystem), ctrl.MatchingLabels{identityLabel: identityValue})
	if err != nil {
		return nil, fmt.Errorf("list leases: %w", err)
	}
	var addresses []netip.AddrPort
	for i := range leases.Items {
		l := &leases.Items[i]
		if l.Spec.RenewTime == nil || l.Spec.LeaseDurationSeconds == nil ||
			e.Clock.Since(l.Spec.RenewTime.Time) > time.Duration(*l.Spec.LeaseDurationSeconds)*time.Second {
			continue
		}
		if a, err := netip.ParseAddrPort(l.Annotations[addressAnnotation]); err == nil {
			addresses = append(addresses, a)
		}
	}
	slices.SortFunc(addresses, netip.AddrPort.Compare)
	return slices.Compact(addresses), nil
}

func (e *Endpoints) publish(ctx context.Context) error {
	addresses, err := e.alive(ctx)
	if err != nil {
		return err
	}
	if !slices.Contains(addresses, e.Address) { // our clock stands far off
		addresses = append(addresses, e.Address)
		slices.SortFunc(addresses, netip.AddrPort.Compare)
	}
	return e.write(ctx, addresses)
}

func (e *Endpoints) write(ctx context.Context, addresses []netip.AddrPort) error {
	return errors.Join(e.writeEndpoints(ctx, addresses), e.writeSlice(ctx, addresses))
}

func (e *Endpoints) writeEndpoints(ctx context.Context, addresses []netip.AddrPort) error {
	want := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{
		Namespace: metav1.NamespaceDefault, Name: serviceName,
		// The slice below is made by us, not mirrored from this.
		Labels: map[string]string{discoveryv1.LabelSkipMirror: "true"},
	}}
	for _, group := range byPort(addresses) {
		subset := corev1.EndpointSubset{Ports: []corev1.EndpointPort{{Name: portName, Port: int32(group[0].Port()), Protocol: corev1.ProtocolTCP}}}
		for _, a := range group {
			subset.Addresses = append(subset.Addresses, corev1.EndpointAddress{IP: a.Addr().String()})
		}
		want.Subsets = append(want.Subsets, subset)
	}
	have := &corev1.Endpoints{}
	return put(ctx, e, have, want, func() bool {
		if equality.Semantic.DeepEqual(have.Subsets, want.Subsets) && have.Labels[discoveryv1.LabelSkipMirror] == "true" {
			return false
		}
		have.Subsets = want.Subsets
		metav1.SetMetaDataLabel(&have.ObjectMeta, discoveryv1.LabelSkipMirror, "true")
		return true
	})
}

func (e *Endpoints) writeSlice(ctx context.Context, addresses []netip.AddrPort) error {
	groups := byPort(addresses)
	if len(groups) == 0 {
		return nil
	}
	// A slice has one set of ports. Servers on several ports are rare: those
	// of this server's port are what is published.
	group := groups[0]
	for _, g := range groups {
		if g[0].Port() == e.Address.Port() {
			group = g
		}
	}
	name, port, protocol, ready := portName, int32(group[0].Port()), corev1.ProtocolTCP, true
	want := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: metav1.NamespaceDefault, Name: serviceName,
			Labels: map[string]string{discoveryv1.LabelServiceName: serviceName},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &protocol}},
	}
	if group[0].Addr().Is6() {
		want.AddressType = discoveryv1.AddressTypeIPv6
	}
	for _, a := range group {
		want.Endpoints = append(want.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{a.Addr().String()}, Conditions: discoveryv1.EndpointConditions{Ready: &ready},
		})
	}
	have := &discoveryv1.EndpointSlice{}
	return put(ctx, e, have, want, func() bool {
		if equality.Semantic.DeepEqual(have.Endpoints, want.Endpoints) && equality.Semantic.DeepEqual(have.Ports, want.Ports) &&
			have.Labels[discoveryv1.LabelServiceName] == serviceName {
			return false
		}
		have.Endpoints, have.Ports = want.Endpoints, want.Ports
		metav1.SetMetaDataLabel(&have.ObjectMeta, discoveryv1.LabelServiceName, serviceName)
		return true
	})
}

// put creates want, or brings have up to date by change; losing a race to
// another server is fine, which wrote the same, or will be corrected at the
// next renewal.
func put(ctx context.Context, e *Endpoints, have, want ctrl.Object, change func() bool) error {
	err := e.Reader.Get(ctx, ctrl.ObjectKeyFromObject(want), have)
	switch {
	case apierrors.IsNotFound(err):
		err = e.Client.Create(ctx, want)
	case err == nil && change():
		err = e.Client.Update(ctx, have)
	}
	if err != nil && !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("write %T %s: %w", want, want.GetName(), err)
	}
	return nil
}

// byPort groups sorted addresses by their port.
func byPort(addresses []netip.AddrPort) [][]netip.AddrPort {
	var groups [][]netip.AddrPort
	for _, a := range addresses {
		i := slices.IndexFunc(groups, func(g []netip.AddrPort) bool { return g[0].Port() == a.Port() })
		if i < 0 {
			groups = append(groups, []netip.AddrPort{a})
			continue
		}
		groups[i] = append(groups[i], a)
	}
	return groups
}
