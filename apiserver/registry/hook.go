package registry

import (
	"context"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/proa-dev/proa/api"
)

// Hook takes part in the writes of one resource whose objects hold something
// that only one may hold, such as a Service its address.
type Hook interface {
	// Claim fills in obj, which it may change, before it is validated. old is
	// nil on create. A dry run claims nothing.
	Claim(ctx context.Context, obj, old api.Object, dryRun bool) (Claim, error)
	// Release gives back all that a deleted object held, at Commit.
	Release(obj api.Object) Claim
}

// Claim is what one write took and may give back: at most one of Commit (the
// object was written) and Rollback (it was not) is called, and none where
// nobody knows.
type Claim interface {
	Commit(ctx context.Context) error
	Rollback(ctx context.Context) error
}

// noClaim is that of resources without a hook.
type noClaim struct{}

func (noClaim) Commit(context.Context) error   { return nil }
func (noClaim) Rollback(context.Context) error { return nil }

// claim asks the hook of t's resource. Subresources claim nothing.
func (c *Core) claim(ctx context.Context, t Target, obj, old api.Object, dryRun bool) (Claim, error) {
	h := c.cfg.Hooks[t.Kind.GR()]
	if h == nil || t.Subresource != "" {
		return noClaim{}, nil
	}
	return h.Claim(ctx, obj, old, dryRun)
}

// settle ends a claim by the outcome of its write. What cannot be given back
// now is found by the hook's own repair, so it does not fail the write. So it
// is with a write of which nobody knows whether it happened: were its claim
// given back, another object could come to hold the same.
func (c *Core) settle(ctx context.Context, claim Claim, outcome error) {
	if uncertain(outcome) {
		return
	}
	ctx = context.WithoutCancel(ctx) // the client may be gone, the claim is not
	end, verb := claim.Commit, "commit"
	if outcome != nil {
		end, verb = claim.Rollback, "roll back"
	}
	if err := end(ctx); err != nil {
		c.report(fmt.Errorf("%s a claim: %w", verb, err))
	}
}

// uncertain says that a write may have happened although it failed.
func uncertain(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) ||
		apierrors.IsTimeout(err) || apierrors.IsServerTimeout(err) || apierrors.IsServiceUnavailable(err)
}

// released gives back what a deleted object held.
func (c *Core) released(ctx context.Context, t Target, obj api.Object) {
	if h := c.cfg.Hooks[t.Kind.GR()]; h != nil {
		c.settle(ctx, h.Release(obj), nil)
	}
}

func (c *Core) report(err error) {
	if c.cfg.Report != nil && !apierrors.IsNotFound(err) {
		c.cfg.Report(err)
	}
}
