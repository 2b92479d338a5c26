package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/proa-dev/proa/store"
)

// Objects may be stored that cannot be read. Caches and watches go on without
// them: one must not stop a cluster. But nobody who asks for the state as it is
// may take them for gone, least of all who deletes what depends on them: reads
// by name and consistent lists fail, as upstream's do, until somebody mends
// what is stored or deletes it unseen.

const (
	// unsafeDelete is the verb for that.
	unsafeDelete = "unsafe-delete-ignore-read-errors"
	// maxUnreadable is how many objects an error names.
	maxUnreadable = 100
)

// removeUnreadable deletes an object that cannot be read, whatever waits for it
// or depends on it. Nobody could tell what admission would be asked about.
func (c *Core) removeUnreadable(ctx context.Context, t Target, opts *metav1.DeleteOptions) (runtime.Object, bool, error) {
	if err := c.mayRemoveUnseen(ctx, t); err != nil {
		return nil, false, err
	}
	r, err := c.resource(t.Kind)
	if err != nil {
		return nil, false, err
	}
	done := &metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusSuccess, Code: http.StatusOK,
		Details: &metav1.StatusDetails{Name: t.Name, Kind: t.Kind.GVK.Kind},
	}
	for range maxAttempts {
		remove, err := r.unseen(ctx, t)
		if err != nil {
			return nil, false, storeError(err, t.Kind.GR(), "delete")
		}
		if dryRun(opts.DryRun) {
			return done, true, nil
		}
		switch err := remove(ctx); {
		case err == nil:
			return done, true, nil
		case !errors.Is(err, store.ErrChanged):
			return nil, false, storeError(err, t.Kind.GR(), "delete")
		}
	}
	return nil, false, conflict(t, errors.New(modifiedText))
}

func (c *Core) mayRemoveUnseen(ctx context.Context, t Target) error {
	attrs, err := attributesOf(ctx, unsafeDelete, t)
	if err != nil {
		return err
	}
	forbidden := func(err error) error { return apierrors.NewForbidden(t.Kind.GR(), t.Name, err) }
	decision, reason, err := c.cfg.Authorizer.Authorize(ctx, attrs)
	switch {
	case err != nil:
		return forbidden(fmt.Errorf("error while checking permission for %q, %w", unsafeDelete, err))
	case decision != authorizer.DecisionAllow:
		return forbidden(fmt.Errorf("not permitted to do %q, reason: %s", unsafeDelete, reason))
	}
	return nil
}

// unseen finds what is stored of t and cannot be served, and how to remove it.
func (r *resource) unseen(ctx context.Context, t Target) (remove func(context.Context) error, err error) {
	e, err := r.store.Latest(ctx, t.key())
	var unreadable *store.Unreadable
	switch {
	case errors.As(err, &unreadable):
		return func(ctx context.Context) error { return r.store.Remove(ctx, unreadable) }, nil
	case err != nil:
		return nil, err
	case e == nil:
		return nil, apierrors.NewNotFound(t.Kind.GR(), t.Name)
	}
	if _, err := r.served(e); err == nil {
		return nil, conflict(t, invalidObject(r, t, "unsafe deletion is not allowed because the object is decodable from storage"))
	}
	// It was read, but cannot be made the version that is served.
	return func(ctx context.Context) error {
		_, err := r.store.Delete(ctx, e)
		return err
	}, nil
}

// whole fails where a list would lack objects that cannot be read; name, if not
// empty, is the only one wanted.
func (r *resource) whole(prefix, name string) error {
	var causes []metav1.StatusCause
	first, n := "", 0
	for _, u := range r.store.Unreadable(prefix) {
		if name != "" && !strings.HasSuffix(u.Path, "/"+name) {
			continue
		}
		switch n++; {
		case n == 1:
			first = u.Error()
			fallthrough
		case n <= maxUnreadable:
			causes = append(causes, metav1.StatusCause{Type: metav1.CauseTypeUnexpectedServerResponse, Field: u.Path, Message: u.Error()})
		}
	}
	if n == 0 {
		return nil
	}
	if n > maxUnreadable {
		causes = append(causes, metav1.StatusCause{Type: metav1.CauseTypeTooMany, Message: "too many errors, the list is truncated"})
	}
	gr := r.kind.GR()
	text := fmt.Sprintf("failed to read one or more %s from the storage: %s", gr.String(), first)
	if n > 1 {
		text = fmt.Sprintf("%s (and %d more)", text, min(n, maxUnreadable)-1)
	}
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusInternalServerError, Reason: metav1.StatusReasonStoreReadError, Message: text,
		Details: &metav1.StatusDetails{Group: gr.Group, Kind: gr.Resource, Name: "list", Causes: causes},
	}}
}
