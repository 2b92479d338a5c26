package store

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// Unreadable is the error of something that is stored but is no object of its
// resource: damaged, encrypted, or of a version that nobody knows. The cache
// leaves it out, so that the others are served; who asks for it by name is told.
type Unreadable struct {
	Path     string // in etcd
	Revision int64
	Err      error // why

	key string // as in Entry
}

// Error is upstream's text.
func (u *Unreadable) Error() string {
	return fmt.Sprintf("StorageError: corrupt object, Code: 7, Key: %s, ResourceVersion: 0, AdditionalErrorMsg: object not decodable revision=%d: %v", u.Path, u.Revision, u.Err)
}

// Unwrap leads to the reason.
func (u *Unreadable) Unwrap() error { return u.Err }

// noteLocked remembers whether the latest that is stored under c's key can be
// read.
func (r *Resource) noteLocked(c *change) {
	if c.unreadable == nil {
		delete(r.unreadable, c.key)
		return
	}
	if r.unreadable == nil {
		r.unreadable = map[string]*Unreadable{}
	}
	r.unreadable[c.key] = c.unreadable
}

// Unreadable is what the cache leaves out of the keys with a prefix, as far as
// it has come.
func (r *Resource) Unreadable(prefix string) []*Unreadable {
	r = r.now()
	r.mu.RLock()
	defer r.mu.RUnlock()
	var out []*Unreadable
	for key, u := range r.unreadable {
		if strings.HasPrefix(key, prefix) {
			out = append(out, u)
		}
	}
	slices.SortFunc(out, func(a, b *Unreadable) int { return strings.Compare(a.key, b.key) })
	return out
}

// Remove deletes what Latest could not read, if it is still there, else it
// returns ErrChanged.
func (r *Resource) Remove(ctx context.Context, u *Unreadable) error {
	r = r.now()
	obj := r.kind.New() // in the place of what nobody knows
	obj.GetObjectKind().SetGroupVersionKind(r.kind.GVK)
	_, err := r.Delete(ctx, &Entry{Key: u.key, Object: obj, Revision: u.Revision})
	return err
}
