package webhook

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/proa-dev/proa/apiserver/admission"
	"github.com/proa-dev/proa/apiserver/admission/match"
)

// Validating refuses what webhooks refuse.
type Validating struct{ plugin }

var _ admission.Validator = (*Validating)(nil)

// Name implements admission.Plugin.
func (*Validating) Name() string { return "ValidatingAdmissionWebhook" }

// outcome is what became of one call.
type outcome struct {
	err      error
	warnings []string
	took     time.Duration
}

// one calls a webhook, in a goroutine whose panic would end more than a request.
func (v *Validating) one(ctx context.Context, q question) (o outcome) {
	start := time.Now()
	defer func() {
		if p := recover(); p != nil {
			o.err = &callError{hook: q.name, reason: fmt.Errorf("it has panicked: %v", p), code: http.StatusInternalServerError}
		}
		o.took = time.Since(start)
	}()
	answer, err := v.call(ctx, q, false)
	o.err = err
	if answer != nil {
		o.warnings = answer.Warnings
	}
	return o
}

// Validate implements admission.Validator. All webhooks are waited for; of
// several that refuse the first in order is heard.
func (v *Validating) Validate(ctx context.Context, a *admission.Attributes) error {
	hooks := v.hooks.get(v.cfg.Lookup.Source)
	if len(hooks) == 0 || exempt(a) {
		return nil
	}
	r := match.New(v.cfg.Lookup, a)
	var questions []question
	for _, h := range hooks {
		in, ok, err := v.relevant(ctx, r, h)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		q := ask(r, in)
		if q.broken != nil {
			return q.broken
		}
		questions = append(questions, q)
	}
	if len(questions) == 0 {
		return nil
	}
	if ctx.Err() != nil {
		return timedOut()
	}
	outcomes := make([]outcome, len(questions))
	var all sync.WaitGroup
	for i, q := range questions {
		all.Go(func() {
			outcomes[i] = v.one(ctx, q)
		})
	}
	all.Wait()
	var refusal error
	for i, o := range outcomes {
		for _, w := range o.warnings {
			r.Warn(w)
		}
		if err := v.judge(ctx, r, questions[i].hook, o.took, o.err); err != nil && refusal == nil {
			refusal = err
		}
	}
	return refusal
}
