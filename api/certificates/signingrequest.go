package certificates

import (
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/proa-dev/proa/api"
)

// LegacyUnknown is the signer of requests that old versions of the API let name
// none.
const LegacyUnknown = "kubernetes.io/legacy-unknown"

type csr = certificatesv1.CertificateSigningRequest

// CertificateSigningRequest is the kind of certificate signing requests.
func CertificateSigningRequest() *api.Kind {
	gvk := certificatesv1.SchemeGroupVersion.WithKind("CertificateSigningRequest")
	return &api.Kind{
		GVK:         gvk,
		Resource:    "certificatesigningrequests",
		ShortNames:  []string{"csr"},
		New:         api.Maker[csr](),
		NewList:     api.ListMaker[certificatesv1.CertificateSigningRequestList](),
		StoragePath: "certificatesigningrequests",
		PrepareCreate: api.On(func(c *csr) {
			// Nobody names another one as the requester, or approves by creating.
			c.Spec.Username, c.Spec.UID, c.Spec.Groups, c.Spec.Extra = "", "", nil, nil
			c.Status = certificatesv1.CertificateSigningRequestStatus{}
		}),
		SetRequester: func(obj api.Object, by api.Requester) {
			spec := &obj.(*csr).Spec
			spec.Username, spec.UID, spec.Groups = by.Name, by.UID, by.Groups
			for k, v := range by.Extra {
				if spec.Extra == nil {
					spec.Extra = map[string]certificatesv1.ExtraValue{}
				}
				spec.Extra[k] = v
			}
		},
		PrepareUpdate:  api.OnUpdate(func(c, old *csr) { c.Spec, c.Status = old.Spec, old.Status }),
		Validate:       api.Check(validateNew),
		ValidateUpdate: api.CheckUpdate(updateCheck{}.validate),
		ValidateName:   func(string, bool) []string { return nil },
		Status: &api.Status{
			PrepareUpdate:  api.OnUpdate(prepareStatus),
			ValidateUpdate: api.CheckUpdate(updateCheck{mayIssue: true}.validate),
		},
		Subresources: []api.Subresource{{
			Name: "approval", GVK: gvk, Verbs: []string{"get", "patch", "update"},
			Update: &api.Status{
				PrepareUpdate:  api.OnUpdate(prepareApproval),
				ValidateUpdate: api.CheckUpdate(updateCheck{mayApprove: true}.validate),
			},
		}},
		Columns:    columns(),
		Fields:     api.FieldsOf(func(c *csr) fields.Set { return fields.Set{"spec.signerName": c.Spec.SignerName} }),
		FieldNames: []string{"spec.signerName"},
		ResetFields: map[string][]string{
			"":         {"spec", "status"},
			"status":   {"spec", "status.conditions"},
			"approval": {"spec", "status.certificate"},
		},
	}
}

func columns() []api.Column {
	return []api.Column{
		api.AgeColumn(),
		api.Col("SignerName", "string", "The requested signer.", func(c *csr) any { return c.Spec.SignerName }),
		api.Col("Requestor", "string", "Who made the request.", func(c *csr) any { return c.Spec.Username }),
		api.Col("RequestedDuration", "string", "The requested duration of validity of the issued certificate.", func(c *csr) any {
			if c.Spec.ExpirationSeconds == nil {
				return "<none>"
			}
			return duration.HumanDuration(time.Duration(*c.Spec.ExpirationSeconds) * time.Second)
		}),
		api.Col("Condition", "string", "How far the request is.", func(c *csr) any { return state(c) }),
	}
}

// state sums up how far a request is.
func state(c *csr) string {
	has := map[certificatesv1.RequestConditionType]bool{}
	for _, cond := range c.Status.Conditions {
		has[cond.Type] = true
	}
	text := "Pending"
	switch {
	case has[certificatesv1.CertificateDenied]:
		text = "Denied"
	case has[certificatesv1.CertificateApproved]:
		text = "Approved"
	}
	if has[certificatesv1.CertificateFailed] {
		text += ",Failed"
	}
	if len(c.Status.Certificate) > 0 {
		text += ",Issued"
	}
	return text
}

// prepareStatus keeps the spec and what was decided.
func prepareStatus(c, old *csr) {
	c.Spec = old.Spec
	for _, t := range []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied} {
		at, before := indices(c, t), indices(old, t)
		if len(at) != len(before) {
			continue // an added or removed one is for the validation to refuse
		}
		for i := range at {
			c.Status.Conditions[at[i]] = old.Status.Conditions[before[i]]
		}
	}
	stampConditions(c, old)
}

// prepareApproval takes the conditions alone.
func prepareApproval(c, old *csr) {
	stampConditions(c, old)
	conditions := c.Status.Conditions
	c.Spec, c.Status = old.Spec, old.Status
	c.Status.Conditions = conditions
}

func indices(c *csr, t certificatesv1.RequestConditionType) []int {
	var list []int
	for i := range c.Status.Conditions {
		if c.Status.Conditions[i].Type == t {
			list = append(list, i)
		}
	}
	return list
}

// stampConditions fills in the times that are missing: a condition that was
// there before with this status keeps its transition.
func stampConditions(c, old *csr) {
	now := api.Now()
	for i := range c.Status.Conditions {
		cond := &c.Status.Conditions[i]
		if cond.LastUpdateTime.IsZero() {
			cond.LastUpdateTime = now
		}
		if !cond.LastTransitionTime.IsZero() {
			continue
		}
		cond.LastTransitionTime = now
		for _, before := range old.Status.Conditions {
			if before.Type == cond.Type && before.Status == cond.Status && !before.LastTransitionTime.IsZero() {
				cond.LastTransitionTime = before.LastTransitionTime
				break
			}
		}
	}
}
