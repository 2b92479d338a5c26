// Package history keeps the pod templates that a workload has had.
//
// A revision is a ControllerRevision that a StatefulSet or DaemonSet controls.
// Its data is a strategic merge patch that puts the template back; its number
// orders the templates by when they were last current. kubectl rollout history
// and undo read both.
package history

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	proa "github.com/proa-dev/proa/client"
	"github.com/proa-dev/proa/controllers/internal/index"
	"github.com/proa-dev/proa/controllers/internal/owner"
	"github.com/proa-dev/proa/internal/quantities"
)

// Revision is short for what this package is about.
type Revision = appsv1.ControllerRevision

// Patch is the data of the revision of a template. Equal templates have equal
// patches, byte by byte.
func Patch(t *corev1.PodTemplateSpec) ([]byte, error) {
	data, err := json.Marshal(t)
	if err != nil {
		return nil, fmt.Errorf("encode template: %w", err)
	}
	template := map[string]any{}
	if err := json.Unmarshal(data, &template); err != nil {
		return nil, fmt.Errorf("encode template: %w", err)
	}
	template["$patch"] = "replace"
	// Maps are encoded in the order of their keys.
	return json.Marshal(map[string]any{"spec": map[string]any{"template": template}})
}

// Apply returns a copy of obj as it was at a revision.
func Apply[T any](obj *T, r *Revision) (*T, error) {
	data, err := json.Marshal(obj)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", obj, err)
	}
	patched, err := strategicpatch.StrategicMergePatch(data, r.Data.Raw, obj)
	if err != nil {
		return nil, fmt.Errorf("apply revision %s/%s: %w", r.Namespace, r.Name, err)
	}
	out := new(T)
	// The API server cannot tell what is a quantity in a revision's data.
	if err = quantities.CheckJSON(patched, out); err == nil {
		err = json.Unmarshal(patched, out)
	}
	if err != nil {
		return nil, fmt.Errorf("apply revision %s/%s: %w", r.Namespace, r.Name, err)
	}
	return out, nil
}

// Has reports whether a revision's data is the patch.
func Has(r *Revision, patch []byte) bool {
	return r.Data.Object == nil && bytes.Equal(r.Data.Raw, patch)
}

// List returns the revisions of a claim's owner, oldest first, after adopting
// those that match and have no owner. They are shared with the cache.
func List(ctx context.Context, c *owner.Claim) ([]*Revision, error) {
	var candidates []*Revision
	for _, who := range []string{string(c.Owner.GetUID()), index.Orphan} {
		var list appsv1.ControllerRevisionList
		if err := c.Cluster.Client().List(ctx, &list, index.By(c.Owner.GetNamespace(), index.Controller, who)...); err != nil {
			return nil, fmt.Errorf("list revisions: %w", err)
		}
		for i := range list.Items {
			candidates = append(candidates, &list.Items[i])
		}
	}
	return claimed(ctx, c, candidates)
}

// ListFresh is List past the cache: as new as every acknowledged write. It is
// for those about to make a revision, whose number must be the highest.
func ListFresh(ctx context.Context, c *owner.Claim) ([]*Revision, error) {
	var list appsv1.ControllerRevisionList
	if err := c.Cluster.Reader().List(ctx, &list, client.InNamespace(c.Owner.GetNamespace()),
		client.MatchingLabelsSelector{Selector: c.Selector}); err != nil {
		return nil, fmt.Errorf("list revisions: %w", err)
	}
	var candidates []*Revision
	for i := range list.Items {
		candidates = append(candidates, &list.Items[i])
	}
	return claimed(ctx, c, candidates)
}

func claimed(ctx context.Context, c *owner.Claim, candidates []*Revision) ([]*Revision, error) {
	mine, err := owner.Of(ctx, c, candidates, nil)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(mine, Compare)
	return mine, nil
}

// Compare orders revisions by number, then by age, then by name.
func Compare(a, b *Revision) int {
	return cmp.Or(cmp.Compare(a.Revision, b.Revision), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
}

// Next is the number of the next revision after some in order.
func Next(sorted []*Revision) int64 {
	if len(sorted) == 0 {
		return 1
	}
	return sorted[len(sorted)-1].Revision + 1
}

// Create writes a new revision. taken is another object of that name, if there
// is one: ours from a moment ago when its data is equal, else a collision.
func Create(ctx context.Context, c proa.Cluster, r *Revision) (created, taken *Revision, err error) {
	created = r.DeepCopy()
	err = c.Client().Create(ctx, created)
	if err == nil {
		return created, nil, nil
	}
	if !apierrors.IsAlreadyExists(err) {
		return nil, nil, fmt.Errorf("create revision: %w", err)
	}
	taken = &Revision{}
	if err := c.Reader().Get(ctx, client.ObjectKeyFromObject(r), taken); err != nil {
		return nil, nil, fmt.Errorf("read revision: %w", err)
	}
	return nil, taken, nil
}

// Renumber makes a revision the one of a number, and returns it.
func Renumber(ctx context.Context, c proa.Cluster, r *Revision, n int64) (*Revision, error) {
	if r.Revision == n {
		return r, nil
	}
	out := r.DeepCopy()
	out.Revision = n
	if err := c.Client().Update(ctx, out); err != nil {
		return nil, fmt.Errorf("renumber revision: %w", err)
	}
	return out, nil
}

// Delete removes a revision, but no other of its name.
func Delete(ctx context.Context, c proa.Cluster, r *Revision) error {
	uid := r.UID
	target := &Revision{ObjectMeta: metav1.ObjectMeta{Namespace: r.Namespace, Name: r.Name}}
	err := c.Client().Delete(ctx, target, client.Preconditions{UID: &uid})
	return client.IgnoreNotFound(err)
}

// Labels are those of a template and one more.
func Labels(template map[string]string, key, value string) map[string]string {
	return labels.Merge(template, labels.Set{key: value})
}
