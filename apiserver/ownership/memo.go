package ownership

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"reflect"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/proa-dev/proa/api"
)

var metaType = reflect.TypeFor[metav1.ObjectMeta]()

const (
	// generation bounds a memo: it keeps the results of twice as many changes.
	generation = 256
	// Above this the oldest managers may be merged, which depends on times.
	maxManagers = 9
)

// Memo remembers what changes do to the owners of fields. Most writes repeat
// the shape of an earlier one: a status by its kubelet, the renewal of a lease,
// the label that a script sets on each object in turn. Safe for concurrent use.
type Memo struct {
	builder    *Builder
	mu         sync.Mutex
	young, old map[[sha256.Size]byte][]outcome
}

// NewMemo returns an empty memo for objects of b's kind, nil without b.
func NewMemo(b *Builder) *Memo {
	if b == nil {
		return nil
	}
	return &Memo{builder: b, young: map[[sha256.Size]byte][]outcome{}}
}

// outcome is one entry as a change leaves it: its time is that of the entry
// before, or that of the change.
type outcome struct {
	entry metav1.ManagedFieldsEntry
	from  int // the entry before; -1 for a new one
	fresh bool
}

// Change is an update whose effect on the owners is asked for. Was and Is may
// lack what is equal in both; Entries are the owners before it.
type Change struct {
	Was, Is              api.Object
	Subresource, Manager string
	Entries              []metav1.ManagedFieldsEntry
	key                  [sha256.Size]byte
}

// Recall returns the entries that a change at now leads to, if a change like
// it was remembered. known is false when it cannot be.
func (m *Memo) Recall(c *Change, now time.Time) (entries []metav1.ManagedFieldsEntry, found, known bool) {
	if m == nil || len(c.Entries) == 0 || len(c.Entries) > maxManagers {
		return nil, false, false
	}
	out := make([]byte, 0, 4096)
	out, ok := m.builder.shape(out, c.Was, c.Is)
	if !ok {
		return nil, false, false
	}
	text := func(s string) {
		out = binary.AppendUvarint(out, uint64(len(s)))
		out = append(out, s...)
	}
	if c.Was.GetUID() == "" {
		text("new")
	}
	text(c.Subresource)
	text(c.Manager)
	for i := range c.Entries {
		e := &c.Entries[i]
		if e.FieldsV1 == nil {
			return nil, false, false
		}
		text(e.Manager)
		text(string(e.Operation))
		text(e.APIVersion)
		text(e.Subresource)
		text(e.FieldsType)
		text(string(e.FieldsV1.Raw))
	}
	c.key = sha256.Sum256(out)
	outcomes, ok := m.get(c.key)
	if !ok {
		return nil, false, true
	}
	entries = make([]metav1.ManagedFieldsEntry, len(outcomes))
	for i, o := range outcomes {
		entries[i] = o.entry
		if o.fresh {
			entries[i].Time = &metav1.Time{Time: now.UTC()}
		} else {
			entries[i].Time = c.Entries[o.from].Time
		}
	}
	slices.SortStableFunc(entries, order)
	return entries, true, true
}

// Remember keeps what a change that Recall did not find led to.
func (m *Memo) Remember(c *Change, result []metav1.ManagedFieldsEntry) {
	for i, e := range c.Entries {
		if slices.ContainsFunc(c.Entries[:i], func(b metav1.ManagedFieldsEntry) bool { return sameManager(e, b) }) {
			return // which of them counts is the library's matter
		}
	}
	outcomes := make([]outcome, len(result))
	for i, e := range result {
		o := outcome{entry: e, from: slices.IndexFunc(c.Entries, func(b metav1.ManagedFieldsEntry) bool { return sameManager(e, b) })}
		o.fresh = o.from < 0 || !e.Time.Equal(c.Entries[o.from].Time)
		if o.fresh && (e.Manager != c.Manager || e.Operation != metav1.ManagedFieldsOperationUpdate || e.Time == nil) {
			return // not of this change
		}
		o.entry.Time = nil
		outcomes[i] = o
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.young) >= generation {
		m.old, m.young = m.young, make(map[[sha256.Size]byte][]outcome, generation)
	}
	m.young[c.key] = outcomes
}

func (m *Memo) get(key [sha256.Size]byte) ([]outcome, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok := m.young[key]
	if !ok {
		if o, ok = m.old[key]; ok {
			m.young[key] = o
		}
	}
	return o, ok
}

// sameManager says that two entries are one manager's; appliers keep theirs
// when they change the version.
func sameManager(a, b metav1.ManagedFieldsEntry) bool {
	return a.Manager == b.Manager && a.Operation == b.Operation && a.Subresource == b.Subresource &&
		(a.APIVersion == b.APIVersion || a.Operation == metav1.ManagedFieldsOperationApply)
}

// order is that of the entries of an object.
func order(a, b metav1.ManagedFieldsEntry) int {
	return cmp.Or(
		cmp.Compare(a.Operation, b.Operation), cmp.Compare(seconds(a.Time), seconds(b.Time)),
		cmp.Compare(a.Manager, b.Manager), cmp.Compare(a.APIVersion, b.APIVersion), cmp.Compare(a.Subresource, b.Subresource),
	)
}

func seconds(t *metav1.Time) int64 {
	if t == nil {
		return 0
	}
	return t.Unix()
}
