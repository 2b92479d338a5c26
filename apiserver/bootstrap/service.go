package bootstrap

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	serviceName = "kubernetes"
	servicePort = 443
	portName    = "https"
)

// ensureRange makes the first ServiceCIDR. One that names another range stays:
// it is not this server's alone.
func ensureRange(ctx context.Context, cfg Config) error {
	if !cfg.ServiceCIDR.IsValid() {
		return nil
	}
	return ensure(ctx, cfg.Client, &networkingv1.ServiceCIDR{
		ObjectMeta: metav1.ObjectMeta{Name: serviceName},
		Spec:       networkingv1.ServiceCIDRSpec{CIDRs: []string{cfg.ServiceCIDR.String()}},
	})
}

// ensureService makes the Service kubernetes. Its address is in certificates
// and in the environment of every pod: one that has another address is made
// again.
func ensureService(ctx context.Context, cfg Config) error {
	want := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: metav1.NamespaceDefault, Name: serviceName,
			Labels: map[string]string{"component": "apiserver", "provider": "kubernetes"},
		},
		Spec: corev1.ServiceSpec{
			Type:            corev1.ServiceTypeClusterIP,
			ClusterIP:       cfg.ServiceIP.String(),
			ClusterIPs:      []string{cfg.ServiceIP.String()},
			SessionAffinity: corev1.ServiceAffinityNone,
			// The target port is a matter of the endpoints.
			Ports: []corev1.ServicePort{{Name: portName, Protocol: corev1.ProtocolTCP, Port: servicePort, TargetPort: intstr.FromInt32(servicePort)}},
		},
	}
	var have corev1.Service
	err := cfg.Reader.Get(ctx, ctrl.ObjectKeyFromObject(want), &have)
	switch {
	case apierrors.IsNotFound(err):
		return ensure(ctx, cfg.Client, want)
	case err != nil:
		return fmt.Errorf("read Service %s: %w", serviceName, err)
	case have.Spec.ClusterIP == want.Spec.ClusterIP:
		return nil
	}
	uid := have.UID
	if err := cfg.Client.Delete(ctx, &have, ctrl.Preconditions{UID: &uid}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("remove Service %s of another address: %w", serviceName, err)
	}
	return ensure(ctx, cfg.Client, want)
}
