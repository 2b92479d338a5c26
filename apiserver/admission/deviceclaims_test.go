package admission_test

import (
	"context"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/utils/ptr"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/admission"
)

// rights are what users may do: "user verb subresource namespace/name".
type rights []string

func (r rights) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if slices.Contains(r, a.GetUser().GetName()+" "+a.GetVerb()+" "+a.GetSubresource()+" "+a.GetNamespace()+"/"+a.GetName()) {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

func requests(admin bool) []resourcev1.DeviceRequest {
	return []resourcev1.DeviceRequest{
		{Name: "a", FirstAvailable: []resourcev1.DeviceSubRequest{{}}},
		{Name: "b", Exactly: &resourcev1.ExactDeviceRequest{AdminAccess: &admin}},
	}
}

func TestAdminAccessToDevices(t *testing.T) {
	trusted := &corev1.Namespace{ObjectMeta: meta("", "trusted")}
	trusted.Labels = map[string]string{resourcev1.DRAAdminNamespaceLabelKey: "true"}
	chain := admission.Default(admission.Config{Source: cluster().Put(res("namespaces"), trusted), Authorizer: rights{"u update binding /"}})
	claim := func(namespace string, admin bool) *resourcev1.ResourceClaim {
		return &resourcev1.ResourceClaim{ObjectMeta: meta(namespace, "c"), Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: requests(admin)}}}
	}
	template := &resourcev1.ResourceClaimTemplate{ObjectMeta: meta("ns", "t")}
	template.Spec.Spec.Devices.Requests = requests(true)
	given := claim("ns", true)
	given.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{{AdminAccess: ptr.To(true)}}}}
	const refused = " is invalid: spec.devices.requests[1].adminAccess: Forbidden: admin access to devices requires the `resource.kubernetes.io/admin-access: true` label on the containing namespace"
	for _, c := range []struct {
		name     string
		resource string
		obj, old api.Object
		want     string
	}{
		{"without", "resourceclaims", claim("ns", false), nil, ""},
		{"trusted", "resourceclaims", claim("trusted", true), nil, ""},
		{"not trusted", "resourceclaims", claim("ns", true), nil, `ResourceClaim.resource.k8s.io "c"` + refused},
		{"template", "resourceclaimtemplates", template, nil, `ResourceClaimTemplate.resource.k8s.io "t"` + refused},
		{"status", "resourceclaims", given, claim("ns", true),
			"ResourceClaim.resource.k8s.io \"c\" is invalid: status.allocation.devices.results[0].adminAccess: Forbidden: admin access to devices requires the `resource.kubernetes.io/admin-access: true` label on the containing namespace"},
		{"status as before", "resourceclaims", given, given, ""},
	} {
		a := attributes(admission.Create, resourcev1.Resource(c.resource), c.obj)
		a.GVK = resourcev1.SchemeGroupVersion.WithKind("ResourceClaim")
		if c.resource == "resourceclaimtemplates" {
			a.GVK.Kind = "ResourceClaimTemplate"
		}
		if c.old != nil {
			a.Operation, a.OldObject, a.Subresource = admission.Update, c.old, "status"
		}
		if got := text(run(chain, a)); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestWhoWritesStatusOfClaims(t *testing.T) {
	const plugin = "system:serviceaccount:ns:plugin"
	chain := admission.Default(admission.Config{Source: cluster(), Authorizer: rights{
		"scheduler update binding /", "scheduler patch binding /", "any arbitrary-node:update driver ns/d", plugin + " associated-node:update driver ns/d",
	}})
	status := func(devices ...resourcev1.AllocatedDeviceStatus) resourcev1.ResourceClaimStatus {
		return resourcev1.ResourceClaimStatus{Devices: devices, Allocation: &resourcev1.AllocationResult{NodeSelector: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{
			{MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{"n1"}}}},
		}}}}
	}
	d, e := resourcev1.AllocatedDeviceStatus{Driver: "d", Pool: "p", Device: "x"}, resourcev1.AllocatedDeviceStatus{Driver: "e", Pool: "p", Device: "y"}
	free, reserved, told := resourcev1.ResourceClaimStatus{}, status(), status(d)
	reserved.ReservedFor = []resourcev1.ResourceClaimConsumerReference{{Resource: "pods", Name: "p"}}
	binding := func(who, verb string) string {
		return `ResourceClaim.resource.k8s.io "c" is invalid: status.allocation: Forbidden: changing status.allocation or status.reservedFor requires resource="resourceclaims/binding", verb="` + verb +
			`" permission: resourceclaims.resource.k8s.io is forbidden: User "` + who + `" cannot ` + verb + ` resource "resourceclaims/binding" in API group "resource.k8s.io" at the cluster scope`
	}
	driver := func(who, driver, verbs, first string) string {
		return `ResourceClaim.resource.k8s.io "c" is invalid: status.devices: Forbidden: changing status.devices requires resource="resourceclaims/driver", verb="` + verbs +
			`" permission: resourceclaims.resource.k8s.io "` + driver + `" is forbidden: User "` + who + `" cannot ` + first + ` resource "resourceclaims/driver" in API group "resource.k8s.io" in the namespace "ns"`
	}
	on := func(node string) user.Info {
		return &user.DefaultInfo{Name: plugin, Extra: map[string][]string{"authentication.kubernetes.io/node-name": {node}}}
	}
	is := func(name string) user.Info { return &user.DefaultInfo{Name: name} }
	update, patch := &metav1.UpdateOptions{}, &metav1.PatchOptions{}
	for _, c := range []struct {
		name     string
		who      user.Info
		options  runtime.Object
		old, now resourcev1.ResourceClaimStatus
		want     string
	}{
		{"the scheduler allocates", is("scheduler"), update, free, status(), ""},
		{"by a patch", is("scheduler"), patch, free, status(), ""},
		{"somebody allocates", is("any"), update, free, status(), binding("any", "update")},
		{"somebody reserves", is("any"), patch, status(), reserved, binding("any", "patch")},
		{"nothing changes", is("nobody"), update, told, told, ""},
		{"a driver anywhere", is("any"), update, status(), told, ""},
		{"a driver of others", is("any"), update, status(), status(d, e), driver("any", "e", "[arbitrary-node:update]", "arbitrary-node:update")},
		{"it removes what another told", is("any"), update, status(d, e), told, driver("any", "e", "[arbitrary-node:update]", "arbitrary-node:update")},
		{"the scheduler tells", is("scheduler"), update, status(), told, driver("scheduler", "d", "[arbitrary-node:update]", "arbitrary-node:update")},
		{"the scheduler takes all back", is("scheduler"), update, told, free, ""},
		{"a plugin of the node", on("n1"), update, status(), told, ""},
		{"a plugin of the node by a patch", on("n1"), patch, status(), told, driver(plugin, "d", "[associated-node:patch arbitrary-node:patch]", "associated-node:patch")},
		{"a plugin of another node", on("n2"), update, status(), told, driver(plugin, "d", "[arbitrary-node:update]", "arbitrary-node:update")},
		{"no plugin", is(plugin), update, status(), told, driver(plugin, "d", "[arbitrary-node:update]", "arbitrary-node:update")},
	} {
		a := attributes(admission.Update, resourcev1.Resource("resourceclaims"), &resourcev1.ResourceClaim{ObjectMeta: meta("ns", "c"), Status: c.now})
		a.GVK = resourcev1.SchemeGroupVersion.WithKind("ResourceClaim")
		a.OldObject, a.Subresource, a.User, a.Options = &resourcev1.ResourceClaim{ObjectMeta: meta("ns", "c"), Status: c.old}, "status", c.who, c.options
		if got := text(run(chain, a)); got != c.want {
			t.Errorf("%s:\n%q, want\n%q", c.name, got, c.want)
		}
	}
}
