// Package objects holds the ConfigMaps and Secrets that this node's pods refer
// to, each watched by its own name: a node may not see any others.
//
// A pod registers what it refers to and is told of changes; an object is
// watched from its first user to its last.
package objects

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"
)

// Kind is what sort of object a reference names.
type Kind string

// The kinds that pods refer to by name.
const (
	ConfigMap Kind = "configmap"
	Secret    Kind = "secret"
)

func (k Kind) list() ctrl.ObjectList {
	if k == Secret {
		return &corev1.SecretList{}
	}
	return &corev1.ConfigMapList{}
}

// Ref names one object.
type Ref struct {
	Kind            Kind
	Namespace, Name string
}

// Watcher lists and watches straight from the API server.
type Watcher interface {
	List(ctx context.Context, list ctrl.ObjectList, opts ...ctrl.ListOption) error
	Watch(ctx context.Context, list ctrl.ObjectList, opts ...ctrl.ListOption) (watch.Interface, error)
}

// Store is the set of watched objects. Safe for concurrent use.
type Store struct {
	ctx     context.Context
	watcher Watcher
	log     *slog.Logger

	mu      sync.Mutex
	entries map[Ref]*entry
	users   map[types.UID]*user
	wg      sync.WaitGroup
}

type user struct {
	refs    map[Ref]bool
	changed func()
}

type entry struct {
	users  map[types.UID]bool
	cancel context.CancelFunc
	synced chan struct{} // closed at the first good list

	mu  sync.Mutex
	obj ctrl.Object // nil: there is none
	err error       // of the last list, until one succeeds
}

// New makes a store whose watches end with ctx; Wait then waits for them.
func New(ctx context.Context, watcher Watcher, log *slog.Logger) *Store {
	return &Store{ctx: ctx, watcher: watcher, log: log, entries: map[Ref]*entry{}, users: map[types.UID]*user{}}
}

// Wait returns when every watch has ended.
func (s *Store) Wait() { s.wg.Wait() }

// Register replaces what a pod refers to. changed is called, from any
// goroutine, after one of the objects changed; it must not block.
func (s *Store) Register(pod types.UID, refs map[Ref]bool, changed func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.users[pod]
	s.users[pod] = &user{refs: refs, changed: changed}
	for ref := range refs {
		e := s.entries[ref]
		if e == nil {
			e = s.start(ref)
		}
		e.users[pod] = true
	}
	if old != nil {
		s.drop(pod, old.refs, refs)
	}
}

// Unregister forgets a pod.
func (s *Store) Unregister(pod types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u := s.users[pod]; u != nil {
		s.drop(pod, u.refs, nil)
		delete(s.users, pod)
	}
}

func (s *Store) drop(pod types.UID, refs, keep map[Ref]bool) {
	for ref := range refs {
		e := s.entries[ref]
		if keep[ref] || e == nil {
			continue
		}
		delete(e.users, pod)
		if len(e.users) == 0 {
			e.cancel()
			delete(s.entries, ref)
		}
	}
}

func (s *Store) start(ref Ref) *entry {
	ctx, cancel := context.WithCancel(s.ctx)
	e := &entry{users: map[types.UID]bool{}, cancel: cancel, synced: make(chan struct{})}
	s.entries[ref] = e
	s.wg.Go(func() { s.follow(ctx, ref, e) })
	return e
}

// Get returns an object that a pod has registered, waiting for the first
// answer of the API server. The error of an absent object is upstream's:
// configmap "x" not found. The result is shared: read only.
func (s *Store) Get(ctx context.Context, ref Ref) (ctrl.Object, error) {
	s.mu.Lock()
	e := s.entries[ref]
	s.mu.Unlock()
	if e == nil {
		return nil, fmt.Errorf("object %q/%q not registered", ref.Namespace, ref.Name)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	select {
	case <-e.synced:
	case <-ctx.Done():
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.err != nil {
			return nil, fmt.Errorf("failed to sync %s cache: %w", ref.Kind, e.err)
		}
		return nil, fmt.Errorf("failed to sync %s cache: timed out waiting for the condition", ref.Kind)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.obj == nil {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: string(ref.Kind)}, ref.Name)
	}
	return e.obj, nil
}

// follow keeps one entry as new as the API server until ctx ends.
func (s *Store) follow(ctx context.Context, ref Ref, e *entry) {
	delay := 100 * time.Millisecond
	for ctx.Err() == nil {
		version, err := s.listOne(ctx, ref, e)
		if err == nil {
			delay = 100 * time.Millisecond
			if immutable(e) {
				<-ctx.Done()
				return
			}
			err = s.watchOne(ctx, ref, e, version)
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			e.mu.Lock()
			e.err = err
			e.mu.Unlock()
			s.log.Debug("watch of a referenced object", "kind", ref.Kind, "namespace", ref.Namespace, "name", ref.Name, "err", err)
		}
		timer := time.NewTimer(delay + rand.N(delay))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
		delay = min(2*delay, 30*time.Second)
	}
}

func options(ref Ref) []ctrl.ListOption {
	return []ctrl.ListOption{
		ctrl.InNamespace(ref.Namespace),
		ctrl.MatchingFieldsSelector{Selector: fields.OneTermEqualSelector("metadata.name", ref.Name)},
	}
}

func (s *Store) listOne(ctx context.Context, ref Ref, e *entry) (string, error) {
	list := ref.Kind.list()
	if err := s.watcher.List(ctx, list, options(ref)...); err != nil {
		return "", err
	}
	var found ctrl.Object
	err := meta.EachListItem(list, func(o runtime.Object) error {
		if obj, ok := o.(ctrl.Object); ok && obj.GetName() == ref.Name {
			found = obj
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	s.set(e, found)
	return list.GetResourceVersion(), nil
}

func (s *Store) watchOne(ctx context.Context, ref Ref, e *entry, version string) error {
	timeout := int64(300 + rand.N(300))
	w, err := s.watcher.Watch(ctx, ref.Kind.list(), append(options(ref), &ctrl.ListOptions{Raw: &metav1.ListOptions{
		ResourceVersion: version, AllowWatchBookmarks: true, TimeoutSeconds: &timeout}})...)
	if err != nil {
		return err
	}
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case event, ok := <-w.ResultChan():
			if !ok {
				return nil
			}
			obj, isObject := event.Object.(ctrl.Object)
			switch event.Type {
			case watch.Added, watch.Modified:
				if isObject && obj.GetName() == ref.Name {
					s.set(e, obj)
				}
			case watch.Deleted:
				if isObject && obj.GetName() == ref.Name {
					s.set(e, nil)
				}
			case watch.Error:
				return apierrors.FromObject(event.Object)
			}
		}
	}
}

// set stores the newest state and wakes the users if it differs.
func (s *Store) set(e *entry, obj ctrl.Object) {
	e.mu.Lock()
	same := (obj == nil) == (e.obj == nil) && (obj == nil || obj.GetResourceVersion() == e.obj.GetResourceVersion() && obj.GetUID() == e.obj.GetUID())
	e.obj, e.err = obj, nil
	e.mu.Unlock()
	first := false
	select {
	case <-e.synced:
	default:
		first = true
		close(e.synced)
	}
	if same || first {
		return
	}
	s.mu.Lock()
	var wake []func()
	for uid := range e.users {
		if u := s.users[uid]; u != nil && u.changed != nil {
			wake = append(wake, u.changed)
		}
	}
	s.mu.Unlock()
	for _, f := range wake {
		f()
	}
}

// immutable says that the object can never change again but by deletion, so
// that no watch need be held for it. A pod that runs keeps what it has then.
func immutable(e *entry) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch o := e.obj.(type) {
	case *corev1.ConfigMap:
		return o.Immutable != nil && *o.Immutable
	case *corev1.Secret:
		return o.Immutable != nil && *o.Immutable
	}
	return false
}
