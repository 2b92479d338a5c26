package images

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/distribution/reference"
	"k8s.io/apimachinery/pkg/types"
)

// maxSources bounds what is remembered of one repository: who is not among them
// pulls again, which costs a question to the registry.
const maxSources = 64

// record says by what an image was pulled. An image without one, and that nobody
// was pulling when the node stopped, came to the node some other way: it is
// everybody's.
type record struct {
	ID           string            `json:"id"`
	Repositories map[string]access `json:"repositories"`
}

type access struct {
	Everybody bool     `json:"everybody,omitempty"`
	Secrets   []source `json:"secrets,omitempty"`
}

// source is a secret and what it held.
type source struct {
	UID       types.UID `json:"uid"`
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	Hash      string    `json:"hash"`
}

// same says that who has one has the other: the same secret, or what it held.
func (s source) same(o source) bool {
	return s.Hash == o.Hash || (s.UID == o.UID && s.Namespace == o.Namespace && s.Name == o.Name)
}

// records remembers who may use the images that were pulled, over restarts:
// that an image is on the node gives nobody what its registry would refuse.
// Safe for concurrent use.
type records struct {
	pulled, pulling string // directories

	mu    sync.Mutex
	byID  map[string]*record
	begun map[string]int  // by reference: pulls under way
	cut   map[string]bool // by reference: pulls that an earlier life had begun
}

func openRecords(dir string) (*records, error) {
	r := &records{pulled: filepath.Join(dir, "pulled"), pulling: filepath.Join(dir, "pulling"),
		byID: map[string]*record{}, begun: map[string]int{}, cut: map[string]bool{}}
	err := load(r.pulled, func(one *record) { r.byID[one.ID] = one })
	return r, errors.Join(err, load(r.pulling, func(ref *string) { r.cut[*ref] = true }))
}

// load reads every file of a directory, which it makes. A broken one counts as
// none: it is replaced as a whole.
func load[T any](dir string, add func(*T)) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return err
		}
		one := new(T)
		if json.Unmarshal(data, one) == nil {
			add(one)
		}
	}
	return nil
}

func file(dir, name string) string {
	sum := sha256.Sum256([]byte(name))
	return filepath.Join(dir, hex.EncodeToString(sum[:]))
}

func write(dir, name string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	path := file(dir, name)
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	// An empty file after a power failure would make the image everybody's.
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// begin notes a pull before it begins: a crash may come before its end is noted.
func (r *records) begin(ref string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.begun[ref]++
	if r.begun[ref] > 1 {
		return nil
	}
	if err := write(r.pulling, ref, ref); err != nil {
		delete(r.begun, ref)
		return fmt.Errorf("note a pull: %w", err)
	}
	return nil
}

// end notes how a pull ended: by is nil when it needed no secret, id empty when
// it failed.
func (r *records) end(ref, id string, by *source) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.begun[ref]--; r.begun[ref] <= 0 {
		delete(r.begun, ref)
	}
	if id != "" {
		if err := write(r.pulled, id, r.add(ref, id, by)); err != nil {
			r.cut[ref] = true // to the next life, it was cut short
			return
		}
		delete(r.cut, ref)
	}
	if r.begun[ref] == 0 && !r.cut[ref] {
		_ = os.Remove(file(r.pulling, ref)) // if it stays, the next life asks the registry
	}
}

func (r *records) add(ref, id string, by *source) *record {
	one := r.byID[id]
	if one == nil {
		one = &record{ID: id, Repositories: map[string]access{}}
		r.byID[id] = one
	}
	a := one.Repositories[repository(ref)]
	if by == nil {
		a = access{Everybody: true}
	} else if !a.Everybody && !slices.Contains(a.Secrets, *by) && len(a.Secrets) < maxSources {
		a.Secrets = append(a.Secrets, *by)
	}
	one.Repositories[repository(ref)] = a
	return one
}

// may says whether a pod that has these secrets may use the image without a
// question to its registry.
func (r *records) may(ref, id string, secrets func() []source) bool {
	r.mu.Lock()
	one := r.byID[id]
	ours := one != nil || r.begun[ref] > 0 || r.cut[ref]
	var a access
	if one != nil {
		a = one.Repositories[repository(ref)]
	}
	r.mu.Unlock()
	switch {
	case !ours || a.Everybody:
		return true
	case len(a.Secrets) == 0:
		return false
	}
	return slices.ContainsFunc(secrets(), func(s source) bool { return slices.ContainsFunc(a.Secrets, s.same) })
}

// ids lists the images that there are records of.
func (r *records) ids() (ids []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id := range r.byID {
		ids = append(ids, id)
	}
	return ids
}

// forget drops the record of an image that is gone.
func (r *records) forget(id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := os.Remove(file(r.pulled, id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	delete(r.byID, id)
	return nil
}

// repository is a reference without tag and digest: a registry grants all of
// a repository, or nothing.
func repository(ref string) string {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ref
	}
	return reference.TrimNamed(named).String()
}
