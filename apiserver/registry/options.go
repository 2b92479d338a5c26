package registry

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	internalvalidation "k8s.io/apimachinery/pkg/apis/meta/internalversion/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/store"
)

// selection is what a list or watch asks for.
type selection struct {
	labels labels.Selector
	fields fields.Selector
	// name is set when the fields ask for exactly one name.
	name string
}

func newSelection(t Target, opts *metav1.ListOptions, forWatch bool) (*selection, error) {
	in := internalversion.ListOptions{
		Continue: opts.Continue, ResourceVersion: opts.ResourceVersion,
		ResourceVersionMatch: opts.ResourceVersionMatch, SendInitialEvents: opts.SendInitialEvents,
		Watch: forWatch,
	}
	if errs := internalvalidation.ValidateListOptions(&in, true); len(errs) > 0 {
		return nil, apierrors.NewInvalid(schema.GroupKind{Group: metav1.GroupName, Kind: "ListOptions"}, "", errs)
	}
	s := &selection{name: t.Name}
	if opts.LabelSelector != "" {
		sel, err := labels.Parse(opts.LabelSelector)
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		if !sel.Empty() {
			s.labels = sel
		}
	}
	if opts.FieldSelector != "" {
		sel, err := fields.ParseSelector(opts.FieldSelector)
		if err != nil {
			return nil, apierrors.NewBadRequest(err.Error())
		}
		if err := checkFieldNames(t.Kind, sel); err != nil {
			return nil, err
		}
		if name, ok := sel.RequiresExactMatch("metadata.name"); ok {
			if s.name != "" && s.name != name {
				return nil, apierrors.NewBadRequest(fmt.Sprintf("field metadata.name: %q does not match the name %q", name, s.name))
			}
			s.name = name
		}
		if !sel.Empty() {
			s.fields = sel
		}
	}
	return s, nil
}

func checkFieldNames(k *api.Kind, sel fields.Selector) error {
	for _, r := range sel.Requirements() {
		if r.Field == "metadata.name" || (r.Field == "metadata.namespace" && k.Namespaced) {
			continue
		}
		known := false
		for _, f := range k.FieldNames {
			known = known || f == r.Field
		}
		switch {
		case known:
		case r.Field == "metadata.namespace" && len(k.FieldNames) == 0:
		case len(k.FieldNames) == 0:
			return apierrors.NewBadRequest(fmt.Sprintf("%q is not a known field selector: only \"metadata.name\", \"metadata.namespace\"", r.Field))
		default:
			return apierrors.NewBadRequest("field label not supported: " + r.Field)
		}
	}
	return nil
}

// reads says that matching needs objects as they are served.
func (s *selection) reads(r *resource) bool {
	return (s.labels != nil || s.fields != nil) && r.kind.Storage != nil && r.kind.Storage.Prepare != nil
}

// matcher returns nil when everything matches. What cannot be served matches:
// clients are told why, rather than that it does not exist.
func (s *selection) matcher(r *resource) func(api.Object) bool {
	if s.labels == nil && s.fields == nil && s.name == "" {
		return nil
	}
	reads := s.reads(r)
	return func(obj api.Object) bool {
		if s.name != "" && obj.GetName() != s.name {
			return false
		}
		if reads {
			served, err := r.served(&store.Entry{Object: obj})
			if err != nil {
				return true
			}
			obj = served
		}
		if s.labels != nil && !s.labels.Matches(labels.Set(obj.GetLabels())) {
			return false
		}
		return s.fields == nil || s.fields.Matches(objectFields{resource: r, obj: obj})
	}
}

// objectFields answers a field selector; the kind's own fields are only made
// when one of them is asked for.
type objectFields struct {
	resource *resource
	obj      api.Object
}

// Has implements fields.Fields.
func (f objectFields) Has(name string) bool { return true }

// Get implements fields.Fields.
func (f objectFields) Get(name string) string {
	switch name {
	case "metadata.name":
		return f.obj.GetName()
	case "metadata.namespace":
		return f.obj.GetNamespace()
	}
	return f.resource.fields.of(f.resource, f.obj).Get(name)
}

// fieldCache keeps the selectable fields of the objects that were asked for
// last: every node watches the pods bound to it, so each change of a pod is
// matched as often as there are nodes.
type fieldCache [256]atomic.Pointer[fieldsOf]

type fieldsOf struct {
	obj api.Object
	set fields.Set
}

func (c *fieldCache) of(r *resource, obj api.Object) fields.Set {
	if r.kind.Fields == nil {
		return nil
	}
	slot := &c[slotOf(obj.GetResourceVersion())]
	if f := slot.Load(); f != nil && f.obj == obj {
		return f.set
	}
	served := obj
	if r.kind.Storage != nil && obj.GetObjectKind().GroupVersionKind() != r.kind.GVK {
		var err error
		if served, err = r.served(&store.Entry{Object: obj}); err != nil {
			return nil
		}
	}
	f := &fieldsOf{obj: obj, set: r.kind.Fields(served)}
	slot.Store(f)
	return f.set
}

// slotOf spreads versions, which are consecutive numbers.
func slotOf(version string) uint8 {
	var n uint8
	for i := range len(version) {
		n = n*10 + version[i] - '0'
	}
	return n
}

// parseVersion reads a resourceVersion of the options; "" is 0.
func parseVersion(rv string) (int64, error) {
	if rv == "" {
		return 0, nil
	}
	v, err := strconv.ParseUint(rv, 10, 63)
	if err != nil {
		return 0, apierrors.NewBadRequest(fmt.Sprintf("Invalid value: %q: %v", rv, err))
	}
	return int64(v), nil
}

// formatVersion writes a revision as a resourceVersion.
func formatVersion(rev int64) string { return strconv.FormatInt(rev, 10) }

// continueToken is upstream's: the key to go on from, relative to the
// resource, and the revision that the list is read at (-1: the latest).
type continueToken struct {
	APIVersion      string `json:"v"`
	ResourceVersion int64  `json:"rv"`
	StartKey        string `json:"start"`
}

const continueVersion = "meta.k8s.io/v1"

// encodeContinue makes a token that goes on after key, which is without the
// list's prefix.
func encodeContinue(key string, rev int64) string {
	data, _ := json.Marshal(continueToken{APIVersion: continueVersion, ResourceVersion: rev, StartKey: key + "\x00"})
	return base64.RawURLEncoding.EncodeToString(data)
}

func decodeContinue(token string) (from string, rev int64, err error) {
	bad := func(err error) error {
		return apierrors.NewBadRequest(fmt.Sprintf("continue key is not valid: %v", err))
	}
	data, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return "", 0, bad(err)
	}
	var c continueToken
	if err := json.Unmarshal(data, &c); err != nil {
		return "", 0, bad(err)
	}
	switch {
	case c.APIVersion != continueVersion:
		return "", 0, bad(fmt.Errorf("server does not recognize this encoded version %q", c.APIVersion))
	case c.StartKey == "":
		return "", 0, bad(fmt.Errorf("encoded start key empty (version %s)", c.APIVersion))
	case c.ResourceVersion == 0:
		return "", 0, bad(fmt.Errorf("incorrect encoded start resourceVersion (version %s)", c.APIVersion))
	case strings.Contains(c.StartKey, "/../"), strings.HasPrefix(c.StartKey, "../"):
		return "", 0, bad(fmt.Errorf("invalid start key %q", c.StartKey))
	}
	return c.StartKey, c.ResourceVersion, nil
}

// listRevision turns the options into a way to read.
func listRevision(opts *metav1.ListOptions) (store.Match, int64, error) {
	rev, err := parseVersion(opts.ResourceVersion)
	if err != nil {
		return 0, 0, err
	}
	switch {
	case opts.ResourceVersion == "":
		return store.MatchLatest, 0, nil
	case opts.ResourceVersionMatch == metav1.ResourceVersionMatchExact:
		return store.MatchExact, rev, nil
	case opts.ResourceVersionMatch == "" && opts.Limit > 0 && rev > 0:
		return store.MatchExact, rev, nil // how limits meant a version before matches were named
	}
	return store.MatchNotOlder, rev, nil
}
