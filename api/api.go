// Package api describes every kind that Proa serves: its names, scope,
// defaults, validation, table columns, selectable fields and subresources.
//
// A kind is data, not code with I/O: nothing here reads the network, the store
// or a clock (but HumanAge and Now). The packages below (api/core, api/apps, …)
// hold one folder a group and one file a kind; api/builtin lists them all.
package api

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/validation/field"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
)

// Object is any API object with metadata. It is the same set of methods as
// controller-runtime's client.Object.
type Object interface {
	metav1.Object
	runtime.Object
}

// Kind is one row of the table of kinds: one resource in one version.
// Function fields that are nil mean "nothing to do".
//
// Functions may mutate their first argument only where said so, and never
// their "old" argument, which is shared with every reader of the cache.
type Kind struct {
	// GVK and Resource name the kind: {"apps","v1","Deployment"}, "deployments".
	GVK      schema.GroupVersionKind
	Resource string
	// Singular defaults to the lower-case kind.
	Singular string
	// ListKind is the kind of lists; empty: Kind with "List" behind it.
	ListKind   string
	ShortNames []string
	Categories []string
	Namespaced bool
	// Verbs lists what is served; nil means every standard verb (create,
	// delete, deletecollection, get, list, patch, update, watch).
	Verbs []string
	// Virtual kinds are answered by the API server and never stored
	// (TokenReview, SubjectAccessReview, …).
	Virtual bool
	// Deprecated is a warning to all who use the kind, empty for none.
	Deprecated string

	// NoCreate says why no object may be made now; empty: some may.
	NoCreate string

	// New and NewList make empty values of the Go types. For custom
	// resources they are unstructured.
	New     func() Object
	NewList func() runtime.Object

	// Coerce brings a custom resource that a client sent into the form of its
	// schema; it mutates obj. unknown are the paths of the fields that it dropped.
	Coerce func(obj Object) (unknown []string, err error)
	// Read does so with what was stored, perhaps by another schema or in another
	// version; it mutates obj.
	Read func(obj Object)
	// Types tells how the fields of a kind without a Go type merge; nil: as
	// their values look.
	Types managedfields.TypeConverter
	// Versions lead an object of any version of a custom resource to the version
	// named, all of which are there. They never mutate what they are given, which
	// may share parts with what they return.
	Versions map[string]func(obj Object) (Object, error)
	// Schema is the OpenAPI schema of a kind without a Go type, and Columns of
	// such kinds may change with it; nil: any fields.
	Schema func(v3 bool) map[string]any

	// StoragePath is upstream's etcd path below /registry/, without slashes at
	// either end: "pods", "services/specs", "minions", "deployments",
	// "apiextensions.k8s.io/customresourcedefinitions".
	StoragePath string
	// Storage is set where this version is not the one that is stored. Kinds
	// that share a StoragePath share one storage and one watch cache.
	Storage *Conversion

	// Default fills in unset fields; it mutates obj.
	Default func(obj Object)
	// PrepareCreate clears what clients may not set (status) and sets the
	// first generation; it mutates obj.
	PrepareCreate func(obj Object)
	// SetRequester records in a new object who made it; it mutates obj, after
	// PrepareCreate.
	SetRequester func(obj Object, by Requester)
	// PrepareUpdate carries over from old what an update of the main resource
	// may not change (status) and bumps metadata.generation when the spec
	// changed; it mutates obj.
	PrepareUpdate func(obj, old Object)
	// Validate and ValidateUpdate name every cause with its field path.
	// metadata is validated by the API server itself (ValidateName says how
	// names look); ValidateUpdate must include what Validate checks.
	Validate       func(obj Object) field.ErrorList
	ValidateUpdate func(obj, old Object) field.ErrorList
	// ValidateName returns what is wrong with a name, nil or empty when it is
	// fine. Nil means a DNS-1123 subdomain. prefix says that the name is a
	// generateName.
	ValidateName func(name string, prefix bool) []string
	// Warnings are sent to the client in Warning headers on create (old is
	// nil) and update.
	Warnings func(obj, old Object) []string

	// Status serves the status subresource, Scale the scale subresource.
	Status *Status
	Scale  *Scale
	// Subresources lists the other subresources by name ("binding", "log",
	// "token", "ephemeralcontainers", …); the API server implements them.
	Subresources []Subresource

	// Columns are kubectl's columns after NAME; nil means AGE alone. Name is
	// the first column unless one of Columns has the format "name": use
	// TableColumns to read the whole table.
	Columns []Column
	// ListColumns are the table's columns for a whole list, where they depend on
	// the list's other objects; nil means TableColumns.
	ListColumns func(objs []Object) []Column
	// RowConditions are the conditions of an object's row in the table.
	RowConditions func(obj Object) []metav1.TableRowCondition
	// Fields returns the selectable fields beyond metadata.name and
	// metadata.namespace, which every kind has.
	Fields func(obj Object) fields.Set
	// FieldNames are the keys that Fields returns: a selector that names
	// another one is a bad request.
	FieldNames []string

	// CreateOnUpdate allows PUT (and server-side apply always does) of an
	// object that does not exist.
	CreateOnUpdate bool
	// RequireVersionOnUpdate refuses an update without a resourceVersion.
	RequireVersionOnUpdate bool
	// GracePeriod returns the seconds that a graceful delete of obj gives;
	// asked are those that the request names, nil for none. A nil function
	// means that objects are removed at once, zero removes this one at once.
	GracePeriod func(obj Object, asked *int64) int64
	// BeginDelete marks an object whose deletion begins, with finalizers of its
	// own if it has to wait for something; it mutates obj.
	BeginDelete func(obj Object)
	// ReturnDeleted makes the object as it was last the answer to its deletion,
	// in place of a Status.
	ReturnDeleted bool
	// OrphanByDefault makes "Orphan" the default propagation policy.
	OrphanByDefault bool
	// Governs marks kinds by whose objects other writes are admitted: the answer to
	// a write of one waits until the server that gives it goes by it.
	Governs bool
	// ResetFields are the fields that server-side apply may not own, per
	// subresource ("" is the main resource), as dotted paths, e.g.
	// {"": {"status"}, "status": {"spec", "metadata.labels"}}.
	ResetFields map[string][]string
}

// GVR returns the kind's group, version and resource.
func (k *Kind) GVR() schema.GroupVersionResource {
	return k.GVK.GroupVersion().WithResource(k.Resource)
}

// GR returns the kind's group and resource.
func (k *Kind) GR() schema.GroupResource { return k.GVR().GroupResource() }

// ListGVK names the kind of lists.
func (k *Kind) ListGVK() schema.GroupVersionKind {
	if k.ListKind != "" {
		return k.GVK.GroupVersion().WithKind(k.ListKind)
	}
	return k.GVK.GroupVersion().WithKind(k.GVK.Kind + "List")
}

// Requester is who makes a request.
type Requester struct {
	Name, UID string
	Groups    []string
	Extra     map[string][]string
}

// Conversion leads between a served version and the stored one. Both
// functions return new objects that may share unchanged parts with the
// argument, and never mutate the argument.
type Conversion struct {
	Kind schema.GroupVersionKind // the stored version
	// Stored is the stored kind where it need not be served itself.
	Stored *Kind
	To     func(obj Object) (Object, error)
	From   func(stored Object) (Object, error)
	// Prepare is set where From is slow for one and not for many (a webhook
	// converts) and where labels may change on the way: From of what was prepared
	// costs nothing for as long as the object is kept. From of custom resources
	// remembers, so it is for stored objects alone, which never change; Versions
	// are for all others.
	Prepare func(stored []Object) error
}

// Status is the status subresource.
type Status struct {
	// PrepareUpdate carries over from old everything but the status (and
	// what of the metadata upstream lets status writers change); mutates obj.
	PrepareUpdate  func(obj, old Object)
	ValidateUpdate func(obj, old Object) field.ErrorList
}

// Scale is the scale subresource.
type Scale struct {
	// Get makes the Scale of obj, metadata included.
	Get func(obj Object) *autoscalingv1.Scale
	// Set writes spec.replicas into obj.
	Set func(obj Object, replicas int32)
	// Unset reports whether obj names no number of replicas; nil for kinds that
	// have a default.
	Unset func(obj Object) bool
	// ReplicasPath is where server-side apply finds the count: ["spec","replicas"].
	ReplicasPath []string
	// OtherPaths are the same for the other versions of the kind, by their names;
	// nil for a version without this subresource. Who owns fields of a version
	// that is not among them loses these when the Scale is written.
	OtherPaths map[string][]string
}

// Subresource is a subresource other than status and scale.
type Subresource struct {
	Name  string
	GVK   schema.GroupVersionKind // the kind it takes and returns, for discovery
	Verbs []string                // as in discovery
	// Update says how the parent is prepared and checked when it is written
	// through this subresource (ephemeralcontainers, resize, finalize). Nil
	// for subresources that do not take the parent's kind.
	Update *Status
	// Body describes what is posted where that is a kind of its own (Binding,
	// Eviction, TokenRequest): New, Default and Validate.
	Body *Kind
}

// Column is one column of kubectl's table.
type Column struct {
	metav1.TableColumnDefinition
	// Value returns a string, an int64, a bool or nil (shown as <none> by
	// clients). Ages are strings made by HumanAge.
	Value func(obj Object) any
}
