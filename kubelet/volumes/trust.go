package volumes

import (
	"bytes"
	"context"
	"encoding/pem"
	"fmt"
	"sort"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"
)

// trustRefresh is how often a projected trust bundle is brought up to date.
// The bundles are the cluster's, not the pod's, and change rarely.
const trustRefresh = time.Minute

func (p *payloads) addTrust(ctx context.Context, out *payload, s *corev1.ClusterTrustBundleProjection, mode int32) error {
	bundles, err := p.trustBundles(ctx, s)
	if err != nil {
		return err
	}
	if len(bundles) == 0 && !isTrue(s.Optional) {
		if s.Name != nil {
			return fmt.Errorf("requested ClusterTrustBundle is not available: clustertrustbundle %q not found", *s.Name)
		}
		return fmt.Errorf("combination of signerName and labelSelector matched zero ClusterTrustBundles")
	}
	data, err := union(bundles)
	if err != nil {
		return err
	}
	out.files[s.Path] = file{data: data, mode: mode}
	out.refresh = soonest(out.refresh, p.tokens.now().Add(trustRefresh))
	return nil
}

func (p *payloads) trustBundles(ctx context.Context, s *corev1.ClusterTrustBundleProjection) ([]string, error) {
	if s.Name != nil {
		var one certificatesv1.ClusterTrustBundle
		err := p.reader.Get(ctx, ctrl.ObjectKey{Name: *s.Name}, &one)
		if apierrors.IsNotFound(err) {
			return nil, nil
		}
		return []string{one.Spec.TrustBundle}, err
	}
	if s.SignerName == nil {
		return nil, fmt.Errorf("clusterTrustBundle names neither a bundle nor a signer")
	}
	selector, err := metav1.LabelSelectorAsSelector(s.LabelSelector)
	if err != nil {
		return nil, err
	}
	if selector == nil || selector == labels.Nothing() {
		return nil, nil
	}
	var list certificatesv1.ClusterTrustBundleList
	if err := p.reader.List(ctx, &list, ctrl.MatchingLabelsSelector{Selector: selector}); err != nil {
		return nil, err
	}
	var out []string
	for i := range list.Items {
		if list.Items[i].Spec.SignerName == *s.SignerName {
			out = append(out, list.Items[i].Spec.TrustBundle)
		}
	}
	return out, nil
}

// union joins bundles to one without duplicates, in a stable order.
func union(bundles []string) ([]byte, error) {
	seen := map[string][]byte{}
	for _, b := range bundles {
		rest := []byte(b)
		for {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			seen[string(block.Bytes)] = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: block.Bytes})
		}
	}
	keys := make([]string, 0, len(seen))
	for k := range seen {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	var out bytes.Buffer
	for _, k := range keys {
		if _, err := out.Write(seen[k]); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), nil
}
