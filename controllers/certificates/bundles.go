package certificates

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/api/certificates"
	"github.com/proa-dev/proa/controllers/internal/loop"
)

// servingSigner is who signs the API server's certificate.
const servingSigner = "kubernetes.io/kube-apiserver-serving"

// publisher keeps the trust bundle of the API server's authority.
type publisher struct {
	env  loop.Env
	want *certificatesv1.ClusterTrustBundle
}

func newPublisher(env loop.Env, ca []byte) (loop.Loop, error) {
	sum := sha256.Sum256(ca)
	p := &publisher{env, &certificatesv1.ClusterTrustBundle{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s%x", certificates.SignerPrefix(servingSigner), sum[:12])},
		Spec:       certificatesv1.ClusterTrustBundleSpec{SignerName: servingSigner, TrustBundle: string(ca)},
	}}
	only := func(_ context.Context, q loop.Queue, b *certificatesv1.ClusterTrustBundle) {
		if b.Spec.SignerName == servingSigner {
			q.Add(loop.Key("", p.want.Name))
		}
	}
	l, err := loop.New(env, "kube-apiserver-serving-clustertrustbundle-publisher-controller", 1, p.reconcile,
		loop.Watch(env.Cluster, &certificatesv1.ClusterTrustBundle{}, loop.On[*certificatesv1.ClusterTrustBundle]{
			Created: only, Deleted: only,
			Updated: func(ctx context.Context, q loop.Queue, _, b *certificatesv1.ClusterTrustBundle) { only(ctx, q, b) },
		}),
		loop.Once(loop.Key("", p.want.Name)),
	)
	return l, err
}

func (p *publisher) reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	api := p.env.Cluster.Client()
	have := &certificatesv1.ClusterTrustBundle{}
	err := api.Get(ctx, key, have)
	switch {
	case apierrors.IsNotFound(err):
		if err = api.Create(ctx, p.want.DeepCopy()); apierrors.IsAlreadyExists(err) {
			return loop.StaleDelay, nil
		}
	case err == nil && have.Spec.TrustBundle != p.want.Spec.TrustBundle:
		have = have.DeepCopy()
		have.Spec.TrustBundle = p.want.Spec.TrustBundle
		err = api.Update(ctx, have)
	}
	if err != nil {
		return 0, err
	}
	var list certificatesv1.ClusterTrustBundleList
	if err := api.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		return 0, err
	}
	var errs []error
	for i := range list.Items {
		if b := &list.Items[i]; b.Spec.SignerName == servingSigner && b.Name != p.want.Name {
			errs = append(errs, client.IgnoreNotFound(api.Delete(ctx, b.DeepCopy())))
		}
	}
	return 0, errors.Join(errs...)
}

// podRequestStays is how long a pod's certificate request stays, as upstream
// has it.
const podRequestStays = 15 * time.Minute

type podCleaner struct{ env loop.Env }

func newPodCleaner(env loop.Env) (loop.Loop, error) {
	c := &podCleaner{env}
	return loop.New(env, "podcertificaterequestcleaner", 1, c.reconcile, loop.Self(env.Cluster, &certificatesv1.PodCertificateRequest{}))
}

func (c *podCleaner) reconcile(ctx context.Context, key types.NamespacedName) (time.Duration, error) {
	r := &certificatesv1.PodCertificateRequest{}
	if err := c.env.Cluster.Client().Get(ctx, key, r); err != nil {
		return 0, client.IgnoreNotFound(err)
	}
	if left := podRequestStays - c.env.Clock.Since(r.CreationTimestamp.Time); left > 0 {
		return left, nil
	}
	return 0, client.IgnoreNotFound(c.env.Cluster.Client().Delete(ctx, r, client.Preconditions{UID: &r.UID}))
}
