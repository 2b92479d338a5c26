// Package customresources serves what CustomResourceDefinitions define: it
// follows the definitions, decides on their names, keeps the kinds that they
// make in the table of kinds, and removes the objects of a definition that goes.
//
// A definition goes through up to four states: asking for names that somebody
// else has; served, which its condition Established tells; terminating, when its
// objects go first; gone.
//
// When a schema changes, the cache of its objects is dropped and read again:
// what is stored is pruned and completed by the new one. That ends watches, as
// it does upstream.
package customresources

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
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
	revision int64 // of the definition, when all was done for it
	uid      types.UID
	spec     int64 // its generation
	names    apiextensionsv1.CustomResourceDefinitionNames
	stored   []string // versions
	leaving  bool
	family   *family
}

// New returns a server that serves nothing yet.
func New(cfg Config) (*Server, error) {
	k := cfg.Kinds.Set().ByResource(apiextensionsv1.SchemeGroupVersion.WithResource("customresourcedefinitions"))
	if k == nil {
		return nil, errors.New("custom resources: definitions of them are not served")
	}
	return &Server{cfg: cfg, kind: k, known: map[string]*state{}}, nil
}

// retry is how long what failed, or waits for objects to go, rests.
const retry = time.Second

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
	for first := true; ctx.Err() == nil; first = false {
		snap, err := definitions.Snapshot(ctx, store.MatchLatest, 0)
		if err != nil {
			s.cfg.Logger.Warn("read the definitions of custom resources", "error", err)
			pause(ctx, retry)
			continue
		}
		again := s.all(ctx, snap)
		if first {
			ready()
		}
		s.await(ctx, definitions, snap.Revision, again)
	}
	return nil
}

// await returns when a definition changed since a revision or, if something is
// left to do, after a while.
func (s *Server) await(ctx context.Context, definitions *store.Resource, since int64, again bool) {
	if again {
		limited, cancel := context.WithTimeout(ctx, retry)
		defer cancel()
		ctx = limited
	}
	w, err := definitions.Watch(store.WatchOptions{Since: since})
	if err != nil {
		return // too long ago: look again
	}
	defer w.Stop()
	if _, err := w.Next(ctx, nil); err != nil && ctx.Err() == nil {
		s.cfg.Logger.Warn("watch the definitions of custom resources", "error", err)
		pause(ctx, retry)
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
	var entries []*store.Entry
	snap.Ascend("", "", func(e *store.Entry) bool {
		if d, ok := e.Object.(*definition); ok {
			defs, entries = append(defs, d), append(entries, e)
		}
		return true
	})
	here := map[string]bool{}
	for _, d := range defs {
		here[d.Name] = true
	}
	for name, st := range s.known {
		if !here[name] {
			s.drop(name, st.family)
			delete(s.known, name)
		}
	}
	for i, d := range defs {
		st := s.known[d.Name]
		if st != nil && st.revision == entries[i].Revision {
			continue
		}
		next, done, err := s.one(ctx, d.DeepCopy(), defs)
		if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) && ctx.Err() == nil {
			s.cfg.Logger.Warn("serve a custom resource", "definition", d.Name, "error", err)
		}
		if next != nil {
			defs[i] = next // its names are taken from now on
		}
		if st = s.known[d.Name]; err == nil && done && st != nil {
			st.revision = entries[i].Revision
		} else {
			again = true
		}
	}
	return again
}

// one does what a definition, which is a copy, asks for. done says that there
// is nothing to wait for.
func (s *Server) one(ctx context.Context, d *definition, defs []*definition) (_ *definition, done bool, err error) {
	before := d.Status.DeepCopy()
	acceptNames(d, defs)
	approve(d)
	serve := apihelpers.IsCRDConditionTrue(d, apiextensionsv1.Established)
	if err := s.serve(ctx, d, serve); err != nil {
		return nil, false, err
	}
	if !reflect.DeepEqual(before, &d.Status) {
		// What is told is true: it is served already.
		if d, err = s.write(ctx, d); err != nil {
			return nil, false, err
		}
	}
	if d.DeletionTimestamp != nil && apihelpers.CRDHasFinalizer(d, apiextensionsv1.CustomResourceCleanupFinalizer) {
		done, err := s.clean(ctx, d, serve)
		return d, done, err
	}
	// Names that are not accepted may become free.
	return d, apihelpers.IsCRDConditionTrue(d, apiextensionsv1.NamesAccepted), nil
}

// serve puts the kinds of d into the table, unless they are there.
func (s *Server) serve(ctx context.Context, d *definition, served bool) error {
	st := s.known[d.Name]
	next := &state{uid: d.UID, spec: d.Generation, names: *d.Status.AcceptedNames.DeepCopy(), stored: slices.Clone(d.Status.StoredVersions), leaving: d.DeletionTimestamp != nil}
	if st != nil && st.uid == next.uid && st.spec == next.spec && st.leaving == next.leaving && reflect.DeepEqual(st.names, next.names) &&
		slices.Equal(st.stored, next.stored) && (st.family != nil) == served {
		return nil
	}
	if served {
		var err error
		if next.family, err = s.build(ctx, d); err != nil {
			return err
		}
	}
	s.known[d.Name] = next
	if next.family != nil {
		s.cfg.Kinds.Put(d.Name, next.family.served)
	}
	if st != nil && st.family != nil {
		if next.family == nil {
			s.drop(d.Name, st.family)
		} else {
			s.forget(st.family)
		}
	}
	return nil
}

// drop ends the service of a definition.
func (s *Server) drop(name string, f *family) {
	s.cfg.Kinds.Put(name, nil)
	s.forget(f)
}

// forget drops the caches of kinds that were replaced.
func (s *Server) forget(f *family) {
	if f == nil {
		return
	}
	for _, k := range f.served {
		s.cfg.Registry.Forget(k)
	}
	s.cfg.Registry.Forget(f.stored)
	s.cfg.Store.Forget(f.stored)
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
