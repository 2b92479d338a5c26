package certificates

import (
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/validate"
)

type podRequest = certificatesv1.PodCertificateRequest

// defaultSeconds is how long a pod's certificate may live unless it is said.
const defaultSeconds = 24 * 60 * 60

// PodCertificateRequest is the kind by which kubelets ask for pods' certificates.
func PodCertificateRequest() *api.Kind {
	return &api.Kind{
		GVK:         certificatesv1.SchemeGroupVersion.WithKind("PodCertificateRequest"),
		Resource:    "podcertificaterequests",
		Namespaced:  true,
		New:         api.Maker[podRequest](),
		NewList:     api.ListMaker[certificatesv1.PodCertificateRequestList](),
		StoragePath: "podcertificaterequests",
		Default: api.On(func(r *podRequest) {
			if r.Spec.MaxExpirationSeconds == nil {
				r.Spec.MaxExpirationSeconds = ptr.To[int32](defaultSeconds)
			}
		}),
		PrepareCreate: api.On(func(r *podRequest) { r.Status = certificatesv1.PodCertificateRequestStatus{} }),
		PrepareUpdate: api.OnUpdate(func(r, old *podRequest) { r.Status = old.Status }),
		Validate:      api.Check(validatePodRequest),
		ValidateUpdate: api.CheckUpdate(func(r, old *podRequest) field.ErrorList {
			return validate.Unchanged(field.NewPath("spec"), r.Spec, old.Spec)
		}),
		Status: &api.Status{
			PrepareUpdate: api.OnUpdate(func(r, old *podRequest) {
				r.Spec = old.Spec
				metav1.ResetObjectMetaForStatus(&r.ObjectMeta, &old.ObjectMeta)
			}),
			ValidateUpdate: api.CheckUpdate(validatePodRequestStatus),
		},
		Columns: []api.Column{
			api.Col("PodName", "string", "The pod that the certificate is for.", func(r *podRequest) any { return r.Spec.PodName }),
			api.Col("ServiceAccountName", "string", "The pod's service account.", func(r *podRequest) any { return r.Spec.ServiceAccountName }),
			api.Col("NodeName", "string", "The pod's node.", func(r *podRequest) any { return string(r.Spec.NodeName) }),
			api.Col("SignerName", "string", "The requested signer.", func(r *podRequest) any { return r.Spec.SignerName }),
			api.Col("State", "string", "Is the request Pending, Issued, Denied, or Failed?", func(r *podRequest) any { return podState(r) }),
			api.WideCol("UnverifiedUserAnnotations", "string", "What the pod tells the signer.", func(r *podRequest) any { return annotations(r) }),
		},
		Fields: api.FieldsOf(func(r *podRequest) fields.Set {
			return fields.Set{"spec.signerName": r.Spec.SignerName, "spec.podName": r.Spec.PodName, "spec.nodeName": string(r.Spec.NodeName)}
		}),
		FieldNames:             []string{"spec.signerName", "spec.podName", "spec.nodeName"},
		RequireVersionOnUpdate: true,
		ResetFields:            map[string][]string{"": {"status"}, "status": {"metadata", "spec"}},
	}
}

func podState(r *podRequest) string {
	state := "Pending"
	for _, c := range r.Status.Conditions {
		if slices.Contains(podDecisions(), c.Type) {
			state = c.Type
		}
	}
	return state
}

func annotations(r *podRequest) string {
	if len(r.Spec.UnverifiedUserAnnotations) == 0 {
		return "<none>"
	}
	var list []string
	for k, v := range r.Spec.UnverifiedUserAnnotations {
		list = append(list, k+"="+v)
	}
	slices.Sort(list)
	return strings.Join(list, ",")
}

// podDecisions are the conditions that end a request.
func podDecisions() []string {
	return []string{
		certificatesv1.PodCertificateRequestConditionTypeIssued, certificatesv1.PodCertificateRequestConditionTypeDenied,
		certificatesv1.PodCertificateRequestConditionTypeFailed,
	}
}
