package admissionregistration

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/validate"
)

func reviewVersions() []string { return []string{"v1", "v1beta1"} }

func harmless() []admissionv1.SideEffectClass {
	return []admissionv1.SideEffectClass{admissionv1.SideEffectClassNone, admissionv1.SideEffectClassNoneOnDryRun}
}

// lenience is what an old object breaks already, and may go on breaking.
type lenience struct {
	conditions  bool // match conditions, which did not change
	sideEffects bool
	versions    bool // of reviews that nobody knows
	names       bool // that come twice
	labels      bool // invalid values in selectors
	known       expressions
}

func webhookLenience(hooks, old []webhook) lenience {
	if old == nil {
		return lenience{}
	}
	l := lenience{known: expressions{}}
	l.conditions = slices.EqualFunc(hooks, old, func(a, b webhook) bool { return api.Equal(&a.MatchConditions, &b.MatchConditions) })
	names := sets.New[string]()
	for _, h := range old {
		l.sideEffects = l.sideEffects || h.SideEffects == nil || !slices.Contains(harmless(), *h.SideEffects)
		l.versions = l.versions || len(h.AdmissionReviewVersions) > 0 && !anyKnown(h.AdmissionReviewVersions)
		l.names = l.names || names.Has(h.Name)
		names.Insert(h.Name)
		for _, s := range []*metav1.LabelSelector{h.NamespaceSelector, h.ObjectSelector} {
			l.labels = l.labels || s != nil && len(validate.Selector(nil, s, false)) > 0
		}
		l.known.conditions(h.MatchConditions)
	}
	return l
}

func anyKnown(versions []string) bool {
	return slices.ContainsFunc(versions, func(v string) bool { return slices.Contains(reviewVersions(), v) })
}

// validateWebhooks checks webhooks in view of the old ones, nil for none.
func validateWebhooks(hooks, old []webhook) field.ErrorList {
	may := webhookLenience(hooks, old)
	names := sets.New[string]()
	var errs field.ErrorList
	for i, h := range hooks {
		path := field.NewPath("webhooks").Index(i)
		errs = append(errs, validateWebhook(path, h, &may)...)
		errs = append(errs, validateVersions(path.Child("admissionReviewVersions"), h.AdmissionReviewVersions, may.versions)...)
		if !may.names && names.Has(h.Name) {
			errs = append(errs, field.Duplicate(path.Child("name"), h.Name))
		}
		if h.Name != "" {
			names.Insert(h.Name)
		}
	}
	return errs
}

func validateWebhook(path *field.Path, h webhook, may *lenience) field.ErrorList {
	errs := validation.IsFullyQualifiedName(path.Child("name"), h.Name)
	for i := range h.Rules {
		errs = append(errs, validateOperations(path.Child("rules").Index(i), &h.Rules[i])...)
	}
	if p := h.FailurePolicy; p != nil {
		errs = append(errs, failurePolicy(path.Child("failurePolicy"), *p)...)
	}
	if p := h.MatchPolicy; p != nil {
		errs = append(errs, matchPolicy(path.Child("matchPolicy"), *p)...)
	}
	allowed := harmless()
	if may.sideEffects {
		allowed = append(allowed, admissionv1.SideEffectClassSome, admissionv1.SideEffectClassUnknown)
	}
	if h.SideEffects == nil {
		names := make([]string, len(allowed))
		for i, a := range allowed {
			names[i] = string(a)
		}
		errs = append(errs, field.Required(path.Child("sideEffects"), "must specify one of "+strings.Join(names, ", ")))
	} else {
		errs = append(errs, validate.OneOf(path.Child("sideEffects"), *h.SideEffects, allowed...)...)
	}
	if t := h.TimeoutSeconds; t != nil && (*t > 30 || *t < 1) {
		errs = append(errs, field.Invalid(path.Child("timeoutSeconds"), *t, "the timeout value must be between 1 and 30 seconds"))
	}
	if h.NamespaceSelector != nil {
		errs = append(errs, validate.Selector(path.Child("namespaceSelector"), h.NamespaceSelector, may.labels)...)
	}
	if h.ObjectSelector != nil {
		errs = append(errs, validate.Selector(path.Child("objectSelector"), h.ObjectSelector, may.labels)...)
	}
	if h.reinvocation != nil {
		errs = append(errs, reinvocation(path.Child("reinvocationPolicy"), *h.reinvocation)...)
	}
	errs = append(errs, validateClient(path.Child("clientConfig"), &h.ClientConfig)...)
	if !may.conditions {
		errs = append(errs, validateConditions(path.Child("matchConditions"), h.MatchConditions, false, may.known)...)
	}
	return errs
}

func failurePolicy(path *field.Path, p admissionv1.FailurePolicyType) field.ErrorList {
	return validate.OneOf(path, p, admissionv1.Fail, admissionv1.Ignore)
}

func matchPolicy(path *field.Path, p admissionv1.MatchPolicyType) field.ErrorList {
	return validate.OneOf(path, p, admissionv1.Equivalent, admissionv1.Exact)
}

func reinvocation(path *field.Path, p admissionv1.ReinvocationPolicyType) field.ErrorList {
	return validate.OneOf(path, p, admissionv1.IfNeededReinvocationPolicy, admissionv1.NeverReinvocationPolicy)
}

func validateVersions(path *field.Path, versions []string, unknown bool) field.ErrorList {
	known := strings.Join(reviewVersions(), ", ")
	if len(versions) == 0 {
		return field.ErrorList{field.Required(path, "must specify one of "+known)}
	}
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, v := range versions {
		if seen.Has(v) {
			errs = append(errs, field.Invalid(path.Index(i), v, "duplicate version"))
			continue
		}
		seen.Insert(v)
		errs = append(errs, validate.Messages(path.Index(i), v, validation.IsDNS1035Label(v))...)
	}
	if !unknown && !anyKnown(versions) {
		errs = append(errs, field.Invalid(path, versions, "must include at least one of "+known))
	}
	return errs
}

func validateClient(path *field.Path, c *admissionv1.WebhookClientConfig) field.ErrorList {
	switch {
	case (c.URL == nil) == (c.Service == nil):
		return field.ErrorList{field.Required(path, "exactly one of url or service is required")}
	case c.URL != nil:
		return validateURL(path.Child("url"), *c.URL)
	}
	s, at := c.Service, path.Child("service")
	errs := validate.Required(at.Child("name"), s.Name)
	errs = append(errs, validate.Required(at.Child("namespace"), s.Namespace)...)
	if s.Port != nil {
		if why := validation.IsValidPortNum(int(*s.Port)); len(why) > 0 {
			errs = append(errs, field.Invalid(at.Child("port"), *s.Port, "port is not valid: "+strings.Join(why, ", ")))
		}
	}
	if s.Path != nil {
		errs = append(errs, validatePath(at.Child("path"), *s.Path)...)
	}
	return errs
}

func validateURL(path *field.Path, text string) field.ErrorList {
	const form = "; desired format: https://host[/path]"
	u, err := url.Parse(text)
	if err != nil {
		return field.ErrorList{field.Required(path, "url must be a valid URL: "+err.Error()+form)}
	}
	var errs field.ErrorList
	if u.Scheme != "https" {
		errs = append(errs, field.Invalid(path, u.Scheme, "'https' is the only allowed URL scheme"+form))
	}
	if u.Host == "" {
		errs = append(errs, field.Invalid(path, u.Host, "host must be specified"+form))
	}
	if u.User != nil {
		errs = append(errs, field.Invalid(path, u.User.String(), "user information is not permitted in the URL"))
	}
	if u.Fragment != "" {
		errs = append(errs, field.Invalid(path, u.Fragment, "fragments are not permitted in the URL"))
	}
	if u.RawQuery != "" {
		errs = append(errs, field.Invalid(path, u.RawQuery, "query parameters are not permitted in the URL"))
	}
	return errs
}

// validatePath wants the path of a URL whose steps are subdomains.
func validatePath(path *field.Path, p string) field.ErrorList {
	switch p {
	case "", "/":
		return nil
	case "//":
		return field.ErrorList{field.Invalid(path, p, "segment[0] may not be empty")}
	}
	var errs field.ErrorList
	if p[0] != '/' {
		errs = append(errs, field.Invalid(path, p, "must start with a '/'"))
	}
	for i, step := range strings.Split(strings.TrimSuffix(p[1:], "/"), "/") {
		if step == "" {
			errs = append(errs, field.Invalid(path, p, fmt.Sprintf("segment[%d] may not be empty", i)))
			continue
		}
		for _, why := range validation.IsDNS1123Subdomain(step) {
			errs = append(errs, field.Invalid(path, p, fmt.Sprintf("segment[%d]: %v", i, why)))
		}
	}
	return errs
}
