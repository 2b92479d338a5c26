// Package ownership remembers how the owners of fields (managedFields) came out
// of writes.
//
// Who owns what after a write follows from three things alone: who owned what
// before, who writes, and which fields differ: not from their values, but where
// these are keys of a list. The pods of a ReplicaSet, heartbeats, counters that
// go up: nearly all writes are of a shape that was seen before, and then the
// answer is a lookup instead of a comparison by schema.
package ownership

import (
	"bytes"
	"cmp"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Memory is what was seen so far; the zero value has seen nothing.
type Memory struct {
	types layouts
	pool  sync.Pool // of shapes

	mu    sync.RWMutex
	known map[string][]ownedBy // by shape
	size  int                  // of the shapes
}

const (
	// maxShapes bytes are remembered; then it begins anew.
	maxShapes = 8 << 20
	// maxShape is the size of the largest one that is.
	maxShape = 64 << 10
)

// ownedBy is an entry of the outcome. from is the index among the entries
// before the write whose time it keeps, -1 for the time of the write.
type ownedBy struct {
	entry metav1.ManagedFieldsEntry
	from  int
}

// Recall returns the entries of a write of a known shape, made now. What they
// list is shared among the objects of that shape.
func (m *Memory) Recall(s *Shape, before []metav1.ManagedFieldsEntry, now time.Time) ([]metav1.ManagedFieldsEntry, bool) {
	m.mu.RLock()
	owners, ok := m.known[string(s.key)]
	m.mu.RUnlock()
	if !ok {
		return nil, false
	}
	return recall(owners, before, now), true
}

// Remember notes that a write of a shape, by manager, led from the entries
// before to those after.
func (m *Memory) Remember(s *Shape, before, after []metav1.ManagedFieldsEntry, manager, subresource string) {
	owners := remember(before, after, manager, subresource)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known == nil || m.size+len(s.key) > maxShapes {
		m.known, m.size = map[string][]ownedBy{}, 0
	}
	m.known[string(s.key)] = owners
	m.size += len(s.key)
}

// remember derives from the outcome of one write that of others of its shape.
func remember(before, after []metav1.ManagedFieldsEntry, manager, subresource string) []ownedBy {
	out := make([]ownedBy, len(after))
	for i, e := range after {
		out[i] = ownedBy{entry: e, from: -1}
		out[i].entry.Time = nil
		if e.Manager == manager && e.Operation == metav1.ManagedFieldsOperationUpdate && e.Subresource == subresource {
			// Its time is that of the write, unless the write changed nothing.
			if j := slices.IndexFunc(before, func(b metav1.ManagedFieldsEntry) bool { return SameEntry(b, e) }); j < 0 || !e.Time.Equal(before[j].Time) {
				continue
			}
		}
		out[i].from = slices.IndexFunc(before, func(b metav1.ManagedFieldsEntry) bool {
			return b.Manager == e.Manager && b.Operation == e.Operation && b.APIVersion == e.APIVersion && b.Subresource == e.Subresource
		})
	}
	return out
}

func recall(owners []ownedBy, before []metav1.ManagedFieldsEntry, now time.Time) []metav1.ManagedFieldsEntry {
	if len(owners) == 0 {
		return nil
	}
	out := make([]metav1.ManagedFieldsEntry, len(owners))
	for i, o := range owners {
		out[i] = o.entry
		if o.from >= 0 {
			out[i].Time = before[o.from].Time.DeepCopy()
		} else {
			out[i].Time = &metav1.Time{Time: now}
		}
	}
	slices.SortFunc(out, func(a, b metav1.ManagedFieldsEntry) int {
		return cmp.Or(cmp.Compare(a.Operation, b.Operation), cmp.Compare(seconds(a.Time), seconds(b.Time)),
			cmp.Compare(a.Manager, b.Manager), cmp.Compare(a.APIVersion, b.APIVersion), cmp.Compare(a.Subresource, b.Subresource))
	})
	return out
}

func seconds(t *metav1.Time) int64 {
	if t == nil {
		return 0
	}
	return t.Unix()
}

// SameEntry says that two entries differ in their time at most.
func SameEntry(a, b metav1.ManagedFieldsEntry) bool {
	if a.Manager != b.Manager || a.Operation != b.Operation || a.APIVersion != b.APIVersion || a.Subresource != b.Subresource ||
		(a.FieldsV1 == nil) != (b.FieldsV1 == nil) {
		return false
	}
	return a.FieldsV1 == nil || bytes.Equal(a.FieldsV1.Raw, b.FieldsV1.Raw)
}
