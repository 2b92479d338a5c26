// Package quotas is the admission plugin ResourceQuota: nothing is written
// that a quota of its namespace has no room for.
//
// What a write needs is added to the status of the quotas before the object is
// written, each at the version that was read: two servers cannot give away the
// same room. Writes to one namespace that arrive together are charged together.
// What is charged for a write that fails, and what deleted objects used, the
// quota controller takes off again.
package quotas

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/proa-dev/proa/apiserver/admission"
	"github.com/proa-dev/proa/internal/quota"
)

const (
	// timeout bounds how long a write waits for its turn and its charge.
	timeout = 10 * time.Second
	// attempts bounds how often a charge is tried again because somebody else
	// wrote the quota.
	attempts = 10
)

var resource = corev1.Resource("resourcequotas")

// Config is what the plugin needs.
type Config struct {
	Lookup admission.Lookup
	// Replace writes a quota in place of the version that it names; a
	// conflict says that this is not the latest.
	Replace func(ctx context.Context, q *corev1.ResourceQuota) error
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Plugin is the plugin. It comes last: what others refuse is not charged.
type Plugin struct {
	cfg   Config
	lanes lanes
}

var _ admission.Validator = (*Plugin)(nil)

// New returns the plugin.
func New(cfg Config) *Plugin {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Plugin{cfg: cfg}
}

// Name implements admission.Plugin.
func (*Plugin) Name() string { return "ResourceQuota" }

// request is one write to charge.
type request struct {
	*admission.Attributes
	evaluator quota.Evaluator
	done      bool // it is decided, by err
	err       error
}

// Validate implements admission.Validator.
func (p *Plugin) Validate(ctx context.Context, a *admission.Attributes) error {
	if a.Namespace == "" || a.Operation != admission.Create && a.Operation != admission.Update || quota.Ignored(a.GVR.GroupResource()) {
		return nil
	}
	e := quota.For(a.GVR.GroupResource(), view{p.cfg.Lookup.Source})
	if !e.Charged(quota.Write{
		Create: a.Operation == admission.Create, Update: a.Operation == admission.Update,
		Subresource: a.Subresource, Object: a.Object, Old: a.OldObject,
	}) {
		return nil
	}
	if len(p.cfg.Lookup.Source.List(resource, a.Namespace)) == 0 {
		return nil
	}
	r := &request{Attributes: a, evaluator: e}
	if a.DryRun {
		_, err := p.charge(p.cached(a.Namespace), r)
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err := p.lanes.do(ctx, a.Namespace, r, func(batch []*request) {
		// A client that leaves takes nobody's turn with it.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
		defer cancel()
		p.chargeAll(ctx, a.Namespace, batch)
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return apierrors.NewInternalError(errors.New("resource quota evaluation timed out"))
	}
	return err
}

// cached are the quotas of a namespace, for the caller to change.
func (p *Plugin) cached(namespace string) []*corev1.ResourceQuota {
	var out []*corev1.ResourceQuota
	for _, obj := range p.cfg.Lookup.Source.List(resource, namespace) {
		if q, ok := obj.(*corev1.ResourceQuota); ok {
			out = append(out, q.DeepCopy())
		}
	}
	return out
}

// latest reads quotas again, as new as every write.
func (p *Plugin) latest(ctx context.Context, old []*corev1.ResourceQuota) []*corev1.ResourceQuota {
	var out []*corev1.ResourceQuota
	for _, q := range old {
		read := p.cfg.Lookup.Live
		if read == nil {
			read = p.cfg.Lookup.Get
		}
		obj, _ := read(ctx, resource, q.Namespace, q.Name)
		if q, ok := obj.(*corev1.ResourceQuota); ok {
			out = append(out, q.DeepCopy())
		}
	}
	return out
}

// chargeAll decides every request of a batch.
func (p *Plugin) chargeAll(ctx context.Context, namespace string, batch []*request) {
	quotas := p.cached(namespace)
	var lost error
	for range attempts {
		changed := make([]bool, len(quotas))
		waiting := false
		for _, r := range batch {
			if r.done {
				continue
			}
			charged, err := p.charge(quotas, r)
			r.err, r.done = err, len(charged) == 0
			waiting = waiting || !r.done
			for _, i := range charged {
				changed[i] = true
			}
		}
		if !waiting {
			return
		}
		var again []*corev1.ResourceQuota
		for i, q := range quotas {
			if !changed[i] {
				continue
			}
			if err := p.cfg.Replace(ctx, q); err != nil && !apierrors.IsNotFound(err) {
				again, lost = append(again, q), err
			}
		}
		if len(again) == 0 {
			finish(batch, nil)
			return
		}
		if !apierrors.IsConflict(lost) {
			break
		}
		// The others are charged: only what failed is looked at again.
		quotas = p.latest(ctx, again)
	}
	finish(batch, lost)
}

// finish decides what is undecided.
func finish(batch []*request, err error) {
	for _, r := range batch {
		if !r.done {
			r.done, r.err = true, err
		}
	}
}

// charge adds what r needs to the usage in quotas and says which of them that
// changed: all that r concerns, or none of them and an error.
func (p *Plugin) charge(quotas []*corev1.ResourceQuota, r *request) (charged []int, err error) {
	var concerned []int
	for i, q := range quotas {
		tracked := quota.Tracked(r.evaluator, q.Status.Hard)
		if len(tracked) == 0 || !quota.Selects(r.evaluator, &q.Spec, r.Object) {
			continue
		}
		if err := r.evaluator.Lacking(tracked, r.Object); err != nil {
			return nil, admission.Forbidden(r.Attributes, fmt.Errorf("failed quota: %s: %w", q.Name, err))
		}
		for _, name := range tracked {
			if _, known := q.Status.Used[name]; !known {
				return nil, admission.Forbidden(r.Attributes, fmt.Errorf("status unknown for quota: %s, resources: %s", q.Name, join(tracked)))
			}
		}
		concerned = append(concerned, i)
	}
	now := p.cfg.Now()
	usage := r.evaluator.Usage(r.Object, now)
	var negative []corev1.ResourceName
	for _, name := range quota.Names(usage) {
		if q := usage[name]; q.Sign() < 0 {
			negative = append(negative, name)
		}
	}
	if len(negative) > 0 {
		return nil, admission.Forbidden(r.Attributes, fmt.Errorf("quota usage is negative for resource(s): %s", join(negative)))
	}
	used := make([]corev1.ResourceList, len(quotas))
	for _, i := range concerned {
		q, need := quotas[i], usage
		if r.Operation == admission.Update && r.OldObject != nil && quota.Selects(r.evaluator, &q.Spec, r.OldObject) {
			need = quota.Less(usage, r.evaluator.Usage(r.OldObject, now))
		}
		need = quota.Less(quota.Only(need, quota.Names(q.Status.Hard)), nil)
		if len(need) == 0 {
			continue
		}
		used[i] = quota.Add(quota.Only(q.Status.Used, quota.Names(q.Status.Used)), need)
		if over := exceeded(used[i], need, q.Status.Hard); len(over) > 0 && r.Subresource != "status" {
			return nil, admission.Forbidden(r.Attributes, fmt.Errorf("exceeded quota: %s, requested: %s, used: %s, limited: %s",
				q.Name, show(need, over), show(q.Status.Used, over), show(q.Status.Hard, over)))
		}
		charged = append(charged, i)
	}
	for _, i := range charged {
		quotas[i].Status.Used = used[i]
	}
	return charged, nil
}

// exceeded are the resources of need of which more than hard would be used.
func exceeded(used, need, hard corev1.ResourceList) []corev1.ResourceName {
	var out []corev1.ResourceName
	for _, name := range quota.Names(need) {
		if total := used[name]; total.Cmp(hard[name]) > 0 {
			out = append(out, name)
		}
	}
	return out
}

func show(l corev1.ResourceList, names []corev1.ResourceName) string {
	var parts []string
	for _, name := range names {
		if q, ok := l[name]; ok {
			parts = append(parts, string(name)+"="+q.String())
		}
	}
	return strings.Join(parts, ",")
}

func join(names []corev1.ResourceName) string {
	parts := make([]string, len(names))
	for i, name := range names {
		parts[i] = string(name)
	}
	return strings.Join(parts, ",")
}
