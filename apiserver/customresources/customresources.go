// Package customresources serves what CustomResourceDefinitions define: it
// follows the definitions, decides on their names, keeps the kinds that they
// make in the table of kinds, and removes the objects of a definition that goes.
//
// A definition goes through up to four states: asking for names that somebody
// else has; served, which its condition Established tells; terminating, when its
// objects go first; gone.
//
// When a schema changes, the cache of its objects is read again: what is stored
// is pruned and completed by the new one. That ends watches, as it does upstream;
// requests that began by the old schema end by it.
package customresources

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"time"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/kinds"
	"github.com/proa-dev/proa/apiserver/openapi"
	"github.com/proa-dev/proa/apiserver/registry"
	"github.com/proa-dev/proa/apiserver/webhookclient"
	"github.com/proa-dev/proa/store"
)

// Config is what a Server is made of.
type Config struct {
	Store    *store.Store
	Kinds    *kinds.Table
	Registry *registry.Core
	// Types tells how the fields of metadata merge.
	Types managedfields.TypeConverter
	// Webhooks calls those that convert; nil: definitions that need them are
	// not served.
	Webhooks *webhookclient.Client
	Logger   *slog.Logger
}

// Server keeps the table of kinds.
type Server struct {
	cfg      Config
	kind     *api.Kind // of definitions
	metadata map[string]*spec.Schema
	known    map[string]*state // by name
}

// state is what was made of a definition.
type state struct {
	made
	revision int64   // of the definition, when all was done for it
	family   *family // nil: not served
	failure  error   // why not, though it should be
	former   *family // what requests that began long ago may use
	told     string  // the error that was logged last
}

// made is what a family depends on. It is compared.
type made struct {
	uid     types.UID
	text    [sha256.Size]byte // of its specification and names
	stored  string            // versions
	leaving bool
	served  bool
}

func madeOf(d *definition) made {
	// Not the generation, which grows when the deletion begins. What was read from
	// JSON can be written.
	text, _ := json.Marshal([]any{d.Spec, d.Status.AcceptedNames})
	m := made{
		uid: d.UID, text: sha256.Sum256(text), leaving: d.DeletionTimestamp != nil,
		served: isServed(d),
	}
	if byWebhook(d) {
		m.stored = strings.Join(d.Status.StoredVersions, ",")
	}
	return m
}

// progress is how far a definition got.
type progress int

const (
	// settled: nothing to do until the definition changes.
	settled progress = iota
	// waiting for others to give names free.
	waiting
	// unfinished: it failed, or objects have to go first.
	unfinished
)

// New returns a server that serves nothing yet.
func New(cfg Config) (*Server, error) {
	k := cfg.Kinds.Set().ByResource(apiextensionsv1.SchemeGroupVersion.WithResource("customresourcedefinitions"))
	if k == nil {
		return nil, errors.New("custom resources: definitions of them are not served")
	}
	return &Server{cfg: cfg, kind: k, known: map[string]*state{}}, nil
}

// What is unfinished is looked at again after a while, which grows.
const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = 5 * time.Second
)

// Run follows the definitions until ctx ends. ready is called when all that
// are there are served.
func (s *Server) Run(ctx context.Context, ready func()) error {
	// Its own writes are the server's, not those of whoever asked.
	ctx = request.WithUser(ctx, &user.DefaultInfo{Name: "system:apiserver", Groups: []string{user.SystemPrivilegedGroup, user.AllAuthenticated}})
	var err error
	if s.metadata, err = openapi.Metadata(s.cfg.Kinds.Set(), s.cfg.Types); err != nil {
		return fmt.Errorf("custom resources: %w", err)
	}
	definitions := s.cfg.Store.Resource(s.kind)
	retry := firstRetry
	for first := true; ctx.Err() == nil; first = false {
		snap, err := definitions.Snapshot(ctx, store.MatchLatest, 0)
		if err != nil {
			s.cfg.Logger.Warn("read the definitions of custom resources", "error", err)
			pause(ctx, lastRetry)
			continue
		}
		again := s.all(ctx, snap)
		if first {
			ready()
		}
		if !again {
			retry = firstRetry
			s.await(ctx, definitions, snap.Revision)
			continue
		}
		limited, cancel := context.WithTimeout(ctx, retry)
		s.await(limited, definitions, snap.Revision)
		cancel()
		retry = min(2*retry, lastRetry)
	}
	return nil
}

// await returns when a definition changed since a revision, or ctx ends.
func (s *Server) await(ctx context.Context, definitions *store.Resource, since int64) {
	w, err := definitions.Watch(store.WatchOptions{Since: since})
	if err != nil {
		return // too long ago: look again
	}
	defer w.Stop()
	if _, err := w.Next(ctx, nil); err != nil && ctx.Err() == nil {
		s.cfg.Logger.Warn("watch the definitions of custom resources", "error", err)
		pause(ctx, lastRetry)
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// all brings what is served in line with the definitions; again says that
// something is left to do.
func (s *Server) all(ctx context.Context, snap *store.Snapshot) (again bool) {
	var defs []*definition
	var revisions []int64
	snap.Ascend("", "", func(e *store.Entry) bool {
		if d, ok := e.Object.(*definition); ok {
			defs, revisions = append(defs, d), append(revisions, e.Revision)
		}
		return true
	})
	here := map[string]bool{}
	for _, d := range defs {
		here[d.Name] = true
	}
	for name, st := range s.known {
		if !here[name] {
			s.drop(name, st)
			delete(s.known, name)
		}
	}
	for i, d := range defs {
		st := s.known[d.Name]
		if st == nil {
			st = &state{}
			s.known[d.Name] = st
		}
		if st.revision == revisions[i] {
			continue
		}
		next, at, err := s.one(ctx, st, d.DeepCopy(), defs)
		s.tell(ctx, d, st, err)
		if next != nil {
			defs[i] = next // its names are taken from now on
		}
		switch {
		case err != nil || at == unfinished:
			again = true
		case at == settled:
			st.revision = revisions[i]
		}
	}
	return again
}

// tell logs what went wrong, once.
func (s *Server) tell(ctx context.Context, d *definition, st *state, err error) {
	if err == nil {
		err = st.failure
	}
	if err == nil || ctx.Err() != nil || apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return
	}
	if text := err.Error(); text != st.told {
		st.told = text
		s.cfg.Logger.Warn("serve a custom resource", "definition", d.Name, "error", err)
	}
}

// one does what a definition, which is a copy, asks for.
func (s *Server) one(ctx context.Context, st *state, d *definition, defs []*definition) (*definition, progress, error) {
	before := d.Status.DeepCopy()
	var was apiextensionsv1.CustomResourceDefinitionCondition
	if c := apihelpers.FindCRDCondition(d, apiextensionsv1.Established); c != nil {
		was = *c
	}
	acceptNames(d, defs)
	settling := s.settle(ctx, d, was)
	approve(d)
	structure(d)
	s.serve(ctx, st, d)
	if st.failure != nil && was.Status != apiextensionsv1.ConditionTrue {
		instead(d, was, apiextensionsv1.CustomResourceDefinitionCondition{
			Type: apiextensionsv1.Established, Status: apiextensionsv1.ConditionFalse, Reason: "NotServed", Message: st.failure.Error(),
		})
	}
	if !reflect.DeepEqual(before, &d.Status) {
		// What is told is true: it is served already.
		var err error
		if d, err = s.write(ctx, d); err != nil {
			return nil, unfinished, err
		}
	}
	if d.DeletionTimestamp != nil && apihelpers.CRDHasFinalizer(d, apiextensionsv1.CustomResourceCleanupFinalizer) {
		done, err := s.clean(ctx, st, d)
		if done {
			return d, settled, err
		}
		return d, unfinished, err
	}
	if !apihelpers.IsCRDConditionTrue(d, apiextensionsv1.NamesAccepted) {
		return d, waiting, nil
	}
	if settling {
		return d, unfinished, nil
	}
	return d, settled, nil
}

// serve puts the kinds of d into the table, unless they are there. Where they
// cannot be made, what was served goes on.
func (s *Server) serve(ctx context.Context, st *state, d *definition) {
	want := madeOf(d)
	if st.made == want {
		return
	}
	was := st.made
	st.made, st.failure = want, nil
	old := st.family
	if was.leaving = want.leaving; was == want && old != nil {
		st.family = old.leaving() // by the same schema: watches go on
		s.cfg.Kinds.Put(d.Name, st.family.served)
		s.forget(old)
		return
	}
	var next *family
	if want.served {
		if next, st.failure = s.build(ctx, d); st.failure != nil && was.uid == want.uid {
			return
		}
	}
	st.family = next
	if next == nil {
		s.drop(d.Name, &state{family: old, former: st.former})
		st.former = nil
		return
	}
	s.cfg.Store.Replace(next.stored)
	s.cfg.Kinds.Put(d.Name, next.served)
	s.forget(st.former)
	s.forget(old)
	st.former = old
}

// drop ends the service of a definition.
func (s *Server) drop(name string, st *state) {
	s.forget(st.former)
	if st.family == nil {
		return
	}
	s.cfg.Kinds.Put(name, nil)
	s.forget(st.family)
	s.cfg.Store.Forget(st.family.stored)
}

// forget drops what the registry keeps of kinds that were replaced. A request
// that began before brings it back, so it is done once more later.
func (s *Server) forget(f *family) {
	if f == nil {
		return
	}
	for _, k := range f.served {
		s.cfg.Registry.Forget(k)
	}
	s.cfg.Registry.Forget(f.stored)
}

// write stores the status of d.
func (s *Server) write(ctx context.Context, d *definition) (*definition, error) {
	out, err := s.cfg.Registry.Update(ctx, registry.Target{Kind: s.kind, Name: d.Name, Subresource: "status"}, d.DeepCopy(),
		&metav1.UpdateOptions{FieldManager: "proa"})
	if err != nil {
		return nil, err
	}
	return out.(*definition).DeepCopy(), nil
}
