package kubelet

import (
	"context"
	"fmt"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/client"
)

// certificates asks signers for pods' certificates.
type certificates struct {
	cluster client.Cluster
	nodeUID func() uidType
}

// Request implements volumes.Certificates.
func (c certificates) Request(ctx context.Context, request *certificatesv1.PodCertificateRequest) (*certificatesv1.PodCertificateRequest, error) {
	account := &corev1.ServiceAccount{}
	key := ctrl.ObjectKey{Namespace: request.Namespace, Name: request.Spec.ServiceAccountName}
	if err := c.cluster.Reader().Get(ctx, key, account); err != nil {
		return nil, fmt.Errorf("service account of the pod: %w", err)
	}
	request.Spec.ServiceAccountUID, request.Spec.NodeUID = account.UID, c.nodeUID()
	return request, c.cluster.Client().Create(ctx, request)
}

// Await implements volumes.Certificates.
func (c certificates) Await(ctx context.Context, request *certificatesv1.PodCertificateRequest) (*certificatesv1.PodCertificateRequest, error) {
	opts := []ctrl.ListOption{ctrl.InNamespace(request.Namespace),
		ctrl.MatchingFieldsSelector{Selector: fields.OneTermEqualSelector("metadata.name", request.Name)}}
	w, err := c.cluster.Client().Watch(ctx, &certificatesv1.PodCertificateRequestList{}, opts...)
	if err != nil {
		return nil, fmt.Errorf("watch PodCertificateRequest: %w", err)
	}
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case event, ok := <-w.ResultChan():
			if !ok {
				return nil, fmt.Errorf("the watch of PodCertificateRequest %s/%s ended", request.Namespace, request.Name)
			}
			got, isRequest := event.Object.(*certificatesv1.PodCertificateRequest)
			switch {
			case event.Type == watch.Deleted:
				return nil, fmt.Errorf("PodCertificateRequest %s/%s was deleted", request.Namespace, request.Name)
			case isRequest && got.Name == request.Name && len(got.Status.Conditions) > 0:
				return got, nil
			}
		}
	}
}
