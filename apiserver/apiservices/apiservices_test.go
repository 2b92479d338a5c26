package apiservices_test

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/proa-dev/proa/api/builtin"
	"github.com/proa-dev/proa/apiserver/apiservices"
	"github.com/proa-dev/proa/apiserver/kinds"
)

func gv(text string) schema.GroupVersion {
	out, err := schema.ParseGroupVersion(text)
	if err != nil {
		panic(err)
	}
	return out
}

// groups writes the order as text.
func groups(v *apiservices.View) string {
	var out []string
	for _, g := range v.Groups(kinds.New(builtin.Kinds()).Set()) {
		out = append(out, g.Name+"/"+strings.Join(g.Versions, "+"))
	}
	return strings.Join(out, " ")
}

const builtinOrder = "apiregistration.k8s.io/v1 /v1 apps/v1 events.k8s.io/v1 authentication.k8s.io/v1 authorization.k8s.io/v1 autoscaling/v2+v1 batch/v1 " +
	"certificates.k8s.io/v1 networking.k8s.io/v1 policy/v1 rbac.authorization.k8s.io/v1 storage.k8s.io/v1 admissionregistration.k8s.io/v1 " +
	"apiextensions.k8s.io/v1 scheduling.k8s.io/v1 coordination.k8s.io/v1 node.k8s.io/v1 discovery.k8s.io/v1 resource.k8s.io/v1 " +
	"flowcontrol.apiserver.k8s.io/v1 storagemigration.k8s.io/v1"

func TestOrder(t *testing.T) {
	remote := &apiservices.Remote{}
	for name, c := range map[string]struct {
		services map[schema.GroupVersion]apiservices.Service
		want     string
	}{
		"built in": {nil, builtinOrder + " metrics.k8s.io/v1beta1"},
		"others rank as they say": {map[schema.GroupVersion]apiservices.Service{
			gv("late/v1"):   {Priority: apiservices.Priority{Group: 50, Version: 1}, Remote: remote},
			gv("early/v1"):  {Priority: apiservices.Priority{Group: 2000, Version: 1}, Remote: remote},
			gv("among/v1"):  {Priority: apiservices.Priority{Group: 100, Version: 1}, Remote: remote},
			gv("nobody/v1"): {Priority: apiservices.Priority{Group: 3000, Version: 1}}, // no such kind
		}, builtinOrder + " early/v1 among/v1 metrics.k8s.io/v1beta1 late/v1"},
		"a group is as high as its highest version": {map[schema.GroupVersion]apiservices.Service{
			gv("a/v1"):      {Priority: apiservices.Priority{Group: 200, Version: 5}, Remote: remote},
			gv("a/v2beta1"): {Priority: apiservices.Priority{Group: 10, Version: 5}, Remote: remote},
			gv("a/v3alpha"): {Priority: apiservices.Priority{Group: 10, Version: 9}, Remote: remote},
		}, builtinOrder + " a/v3alpha+v1+v2beta1 metrics.k8s.io/v1beta1"},
		"a built-in group may be moved": {map[schema.GroupVersion]apiservices.Service{
			gv("metrics.k8s.io/v1beta1"): {Priority: apiservices.Priority{Group: 20000, Version: 5}},
		}, strings.Replace(builtinOrder, " /v1", " metrics.k8s.io/v1beta1 /v1", 1)},
	} {
		t.Run(name, func(t *testing.T) {
			if got := groups(apiservices.New(c.services)); got != c.want {
				t.Errorf("order\n have %s\n want %s", got, c.want)
			}
		})
	}
	var none *apiservices.View
	if none.Remote(gv("apps/v1")) != nil || none.Remotes() != nil || !strings.HasPrefix(groups(none), "/v1 apps/v1") {
		t.Error("no view is not that of a server alone")
	}
}
