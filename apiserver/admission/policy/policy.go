// Package policy admits writes by the policies of admissionregistration.k8s.io:
// expressions that change objects (MutatingAdmissionPolicy) or refuse them
// (ValidatingAdmissionPolicy), put in force by bindings.
//
// Policies are compiled when they change, and looked up by every write: a
// cluster without any pays for two reads of a revision.
package policy

import (
	"errors"
	"sync"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/admission"
)

// Config is what the plugins need.
type Config struct {
	Lookup     admission.Lookup
	Authorizer authorizer.UnconditionalAuthorizer
	// Converter and Scheme read and make the objects that mutations change.
	Converter managedfields.TypeConverter
	Scheme    *runtime.Scheme
}

// Validate says what is missing.
func (c Config) Validate() error {
	if c.Lookup.Source == nil || c.Authorizer == nil || c.Converter == nil || c.Scheme == nil {
		return errors.New("policy: every field of the configuration is required")
	}
	return nil
}

func resource(name string) schema.GroupResource {
	return admissionv1.SchemeGroupVersion.WithResource(name).GroupResource()
}

// compiled remembers what was made of the objects of two resources until one
// of them changes.
type compiled[T any] struct {
	policies, bindings schema.GroupResource

	mu   sync.Mutex
	at   [2]int64
	made []T
	old  map[string]T // by the policy's UID and version
}

// get returns what make makes of each policy that has bindings.
func (c *compiled[T]) get(source admission.Source, bind func(binding api.Object) string, make func(policy api.Object) T, join func(T, []api.Object) T) []T {
	at := [2]int64{source.Revision(c.policies), source.Revision(c.bindings)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at == at {
		return c.made
	}
	bindings := map[string][]api.Object{}
	for _, b := range source.List(c.bindings, "") {
		bindings[bind(b)] = append(bindings[bind(b)], b)
	}
	known := map[string]T{}
	c.made = nil
	for _, p := range source.List(c.policies, "") {
		bound := bindings[p.GetName()]
		if len(bound) == 0 {
			continue
		}
		key := string(p.GetUID()) + "/" + p.GetResourceVersion()
		policy, ok := c.old[key]
		if !ok {
			policy = make(p)
		}
		known[key] = policy
		c.made = append(c.made, join(policy, bound))
	}
	c.old, c.at = known, at
	return c.made
}

// exempt says that no policy is asked: about policies themselves, lest one
// locks out who would mend it, about questions that change nothing, and about
// what the server needs to start.
func exempt(a *admission.Attributes) bool {
	switch a.GVR.Group {
	case admissionv1.GroupName:
		return true
	case "authentication.k8s.io", "authorization.k8s.io":
		return true
	}
	return a.Own
}
