package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/utils/ptr"
)

// DeviceClaims lets nobody have devices, or speak for them, who may not:
// administrators' access to devices is for namespaces with a label, what a claim
// is given is for the scheduler, and what its devices report for their drivers.
// Upstream has it among the validations of the kinds.
type DeviceClaims struct {
	lookup     Lookup
	authorizer authorizer.UnconditionalAuthorizer
}

var _ Validator = (*DeviceClaims)(nil)

// NewDeviceClaims reads namespaces from l and asks a who may write which part of
// a claim's status; nil lets nobody.
func NewDeviceClaims(l Lookup, a authorizer.UnconditionalAuthorizer) *DeviceClaims {
	return &DeviceClaims{l, a}
}

// Name implements Plugin.
func (*DeviceClaims) Name() string { return "DeviceClaims" }

// Validate implements Validator.
func (p *DeviceClaims) Validate(ctx context.Context, a *Attributes) error {
	var errs field.ErrorList
	switch obj := a.Object.(type) {
	case *resourcev1.ResourceClaim:
		old, ok := a.OldObject.(*resourcev1.ResourceClaim)
		switch {
		case a.Operation == Create:
			errs = p.adminRequests(ctx, a.Namespace, obj.Spec.Devices.Requests)
		case a.Operation == Update && a.Subresource == "status" && ok:
			errs = p.status(ctx, a, &obj.Status, &old.Status)
		}
	case *resourcev1.ResourceClaimTemplate:
		if a.Operation == Create {
			errs = p.adminRequests(ctx, a.Namespace, obj.Spec.Spec.Devices.Requests)
		}
	}
	if len(errs) > 0 {
		return apierrors.NewInvalid(a.GVK.GroupKind(), a.Name, errs)
	}
	return nil
}

func (p *DeviceClaims) adminRequests(ctx context.Context, namespace string, list []resourcev1.DeviceRequest) field.ErrorList {
	i := slices.IndexFunc(list, func(r resourcev1.DeviceRequest) bool {
		return r.Exactly != nil && ptr.Deref(r.Exactly.AdminAccess, false)
	})
	if i < 0 {
		return nil
	}
	return p.admin(ctx, field.NewPath("spec", "devices", "requests").Index(i).Child("adminAccess"), namespace)
}

// admin wants the label on a namespace that says who is trusted there.
func (p *DeviceClaims) admin(ctx context.Context, path *field.Path, namespace string) field.ErrorList {
	obj, _ := p.lookup.Get(ctx, corev1.Resource("namespaces"), "", namespace)
	ns, ok := obj.(*corev1.Namespace)
	switch {
	case !ok:
		return field.ErrorList{field.InternalError(path, fmt.Errorf("could not retrieve namespace to verify admin access: namespaces %q not found", namespace))}
	case ns.Labels[resourcev1.DRAAdminNamespaceLabelKey] != "true":
		return field.ErrorList{field.Forbidden(path, fmt.Sprintf("admin access to devices requires the `%s: true` label on the containing namespace", resourcev1.DRAAdminNamespaceLabelKey))}
	}
	return nil
}

func (p *DeviceClaims) status(ctx context.Context, a *Attributes, s, old *resourcev1.ResourceClaimStatus) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("status")
	if i := asAdmin(s); i >= 0 && asAdmin(old) < 0 {
		errs = p.admin(ctx, path.Child("allocation", "devices", "results").Index(i).Child("adminAccess"), a.Namespace)
	}
	verb := "update"
	if _, ok := a.Options.(*metav1.PatchOptions); ok {
		verb = "patch"
	}
	ask := authorizer.AttributesRecord{
		User: a.User, Verb: verb, APIGroup: a.GVR.Group, APIVersion: a.GVR.Version, Resource: a.GVR.Resource, ResourceRequest: true,
	}
	if !equality.Semantic.DeepEqual(s.Allocation, old.Allocation) || !equality.Semantic.DeepEqual(s.ReservedFor, old.ReservedFor) {
		ask.Subresource = resourcev1.SubresourceBinding
		if err := p.ask(ctx, ask); err != nil {
			errs = append(errs, field.Forbidden(path.Child("allocation"),
				fmt.Sprintf(`changing status.allocation or status.reservedFor requires resource="resourceclaims/binding", verb="%s" permission: %s`, verb, err)))
		}
	}
	if s.Allocation == nil {
		return errs // the devices' status goes with them
	}
	verbs := []string{resourcev1.VerbPrefixArbitraryNode + verb}
	if onNode(a.User, nodeOf(s.Allocation)) {
		verbs = slices.Insert(verbs, 0, resourcev1.VerbPrefixAssociatedNode+verb)
	}
	ask.Subresource, ask.Namespace = resourcev1.SubresourceDriver, a.Namespace
	for _, driver := range sets.List(speaking(s.Devices, old.Devices)) {
		ask.Name = driver
		if err := p.askAny(ctx, ask, verbs); err != nil {
			errs = append(errs, field.Forbidden(path.Child("devices"),
				fmt.Sprintf(`changing status.devices requires resource="resourceclaims/driver", verb="%s" permission: %s`, verbs, err)))
		}
	}
	return errs
}

// askAny returns why none of the verbs is allowed, in the words of the first.
func (p *DeviceClaims) askAny(ctx context.Context, ask authorizer.AttributesRecord, verbs []string) error {
	var first error
	for _, verb := range verbs {
		ask.Verb = verb
		err := p.ask(ctx, ask)
		if err == nil {
			return nil
		}
		if first == nil {
			first = err
		}
	}
	return first
}

func (p *DeviceClaims) ask(ctx context.Context, a authorizer.AttributesRecord) error {
	if p.authorizer == nil {
		return errors.New("nobody may")
	}
	decision, reason, err := p.authorizer.Authorize(ctx, a)
	switch {
	case decision == authorizer.DecisionAllow: // whatever else went wrong
		return nil
	case err != nil && reason != "":
		reason = fmt.Sprintf("%v: %s", err, reason)
	case err != nil:
		reason = err.Error()
	}
	return Unauthorized(a, reason)
}

// asAdmin returns the first device that is given to an administrator, -1 for none.
func asAdmin(s *resourcev1.ResourceClaimStatus) int {
	if s.Allocation == nil {
		return -1
	}
	return slices.IndexFunc(s.Allocation.Devices.Results, func(r resourcev1.DeviceRequestAllocationResult) bool { return ptr.Deref(r.AdminAccess, false) })
}

// speaking returns the drivers whose devices report something else than before.
func speaking(now, old []resourcev1.AllocatedDeviceStatus) sets.Set[string] {
	type id struct{ driver, pool, device, share string }
	idOf := func(d *resourcev1.AllocatedDeviceStatus) id {
		return id{d.Driver, d.Pool, d.Device, ptr.Deref(d.ShareID, "")}
	}
	drivers, before := sets.New[string](), map[id]*resourcev1.AllocatedDeviceStatus{}
	for i := range old {
		before[idOf(&old[i])] = &old[i]
	}
	for i := range now {
		d := &now[i]
		if was := before[idOf(d)]; was == nil || !equality.Semantic.DeepEqual(was, d) {
			drivers.Insert(d.Driver)
		}
		delete(before, idOf(d))
	}
	for gone := range before {
		drivers.Insert(gone.driver)
	}
	return drivers
}

// nodeOf returns the node that allocated devices are on, "" if it is not one.
func nodeOf(a *resourcev1.AllocationResult) string {
	if a.NodeSelector == nil || len(a.NodeSelector.NodeSelectorTerms) != 1 {
		return ""
	}
	term := a.NodeSelector.NodeSelectorTerms[0]
	if len(term.MatchExpressions) != 0 || len(term.MatchFields) != 1 {
		return ""
	}
	f := term.MatchFields[0]
	if f.Key != metav1.ObjectNameField || f.Operator != corev1.NodeSelectorOpIn || len(f.Values) != 1 {
		return ""
	}
	return f.Values[0]
}

// onNode says whether somebody is a service account whose pod is on the node.
func onNode(u user.Info, node string) bool {
	if _, _, err := serviceaccount.SplitUsername(u.GetName()); err != nil || node == "" {
		return false
	}
	names := u.GetExtra()[serviceaccount.NodeNameKey]
	return len(names) == 1 && names[0] == node
}
