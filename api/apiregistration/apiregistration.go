// Package apiregistration describes the kinds of apiregistration.k8s.io.
package apiregistration

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/validate"
)

type service = apiregistrationv1.APIService

// Kinds lists the kinds of the group.
func Kinds() []*api.Kind { return []*api.Kind{APIService()} }

// APIService is the kind that names who serves a group's version.
func APIService() *api.Kind {
	return &api.Kind{
		GVK:         apiregistrationv1.SchemeGroupVersion.WithKind("APIService"),
		Resource:    "apiservices",
		Categories:  []string{"api-extensions"},
		New:         api.Maker[service](),
		NewList:     api.ListMaker[apiregistrationv1.APIServiceList](),
		StoragePath: "apiregistration.k8s.io/apiservices",
		Columns: []api.Column{
			api.Col("Service", "string", "The Service that serves it.", func(s *service) any {
				if s.Spec.Service == nil {
					return "Local"
				}
				return s.Spec.Service.Namespace + "/" + s.Spec.Service.Name
			}),
			api.Col("Available", "string", "Whether it is served.", func(s *service) any { return available(s) }),
			api.AgeColumn(),
		},
		Default: api.On(func(s *service) {
			if r := s.Spec.Service; r != nil && r.Port == nil {
				r.Port = ptr.To[int32](443)
			}
		}),
		PrepareCreate: api.On(func(s *service) {
			s.Status = apiregistrationv1.APIServiceStatus{}
			if s.Spec.Service == nil {
				s.Status.Conditions = []apiregistrationv1.APIServiceCondition{{
					Type: apiregistrationv1.Available, Status: apiregistrationv1.ConditionTrue, LastTransitionTime: api.Now(),
					Reason: "Local", Message: "Local APIServices are always available",
				}}
			}
		}),
		PrepareUpdate:  api.OnUpdate(func(s, old *service) { s.Status = old.Status }),
		ValidateName:   func(string, bool) []string { return nil }, // it depends on the spec: see validateService
		Validate:       api.Check(validateService),
		ValidateUpdate: api.CheckUpdate(func(s, _ *service) field.ErrorList { return validateService(s) }),
		Status: &api.Status{
			PrepareUpdate: api.OnUpdate(func(s, old *service) {
				s.Spec, s.Labels, s.Annotations, s.Finalizers, s.OwnerReferences = old.Spec, old.Labels, old.Annotations, old.Finalizers, old.OwnerReferences
			}),
			ValidateUpdate: api.CheckUpdate(func(s, _ *service) field.ErrorList {
				var errs field.ErrorList
				for i, c := range s.Status.Conditions {
					errs = append(errs, validate.OneOf(field.NewPath("status", "conditions").Index(i).Child("status"), c.Status,
						apiregistrationv1.ConditionTrue, apiregistrationv1.ConditionFalse, apiregistrationv1.ConditionUnknown)...)
				}
				return errs
			}),
		},
		RequireVersionOnUpdate: true,
		ResetFields:            map[string][]string{"": {"status"}, "status": {"spec", "metadata"}},
	}
}

func available(s *service) string {
	for _, c := range s.Status.Conditions {
		if c.Type != apiregistrationv1.Available {
			continue
		}
		if c.Status != apiregistrationv1.ConditionTrue && c.Reason != "" {
			return fmt.Sprintf("%s (%s)", c.Status, c.Reason)
		}
		return string(c.Status)
	}
	return string(apiregistrationv1.ConditionUnknown)
}

func validateService(s *service) field.ErrorList {
	spec, path := &s.Spec, field.NewPath("spec")
	var errs field.ErrorList
	name := field.NewPath("metadata", "name")
	if why := content.IsPathSegmentName(s.Name); len(why) > 0 {
		errs = append(errs, validate.Messages(name, s.Name, why)...)
	} else if want := spec.Version + "." + spec.Group; s.Name != want {
		errs = append(errs, field.Invalid(name, s.Name, fmt.Sprintf("must be `spec.version+\".\"+spec.group`: %q", want)))
	}
	if spec.Group == "" && spec.Version != "v1" {
		errs = append(errs, field.Required(path.Child("group"), "only v1 may have an empty group and it better be legacy kube"))
	}
	if spec.Group != "" {
		errs = append(errs, validate.Subdomain(path.Child("group"), spec.Group)...)
	}
	errs = append(errs, validate.Messages(path.Child("version"), spec.Version, validation.IsDNS1035Label(spec.Version))...)
	if p := spec.GroupPriorityMinimum; p <= 0 || p > 20000 {
		errs = append(errs, field.Invalid(path.Child("groupPriorityMinimum"), p, "must be positive and less than 20000"))
	}
	if p := spec.VersionPriority; p <= 0 || p > 1000 {
		errs = append(errs, field.Invalid(path.Child("versionPriority"), p, "must be positive and less than 1000"))
	}
	if spec.Service == nil {
		if n := len(spec.CABundle); n != 0 {
			errs = append(errs, field.Invalid(path.Child("caBundle"), fmt.Sprintf("%d bytes", n), "local APIServices may not have a caBundle"))
		}
		if spec.InsecureSkipTLSVerify {
			errs = append(errs, field.Invalid(path.Child("insecureSkipTLSVerify"), true, "local APIServices may not have insecureSkipTLSVerify"))
		}
		return errs
	}
	at := path.Child("service")
	errs = append(errs, validate.Required(at.Child("namespace"), spec.Service.Namespace)...)
	errs = append(errs, validate.Required(at.Child("name"), spec.Service.Name)...)
	if port := ptr.Deref(spec.Service.Port, 0); len(validation.IsValidPortNum(int(port))) > 0 {
		errs = append(errs, field.Invalid(at.Child("port"), port, "port is not valid: "+strings.Join(validation.IsValidPortNum(int(port)), ", ")))
	}
	if spec.InsecureSkipTLSVerify && len(spec.CABundle) > 0 {
		errs = append(errs, field.Invalid(path.Child("insecureSkipTLSVerify"), true, "may not be true if caBundle is present"))
	}
	return errs
}
