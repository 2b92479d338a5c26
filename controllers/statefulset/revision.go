package statefulset

import (
	"context"
	"hash/fnv"
	"maps"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/rand"

	"github.com/proa-dev/proa/controllers/internal/history"
	"github.com/proa-dev/proa/controllers/internal/owner"
)

// hashLabel is on the revisions of StatefulSets.
const hashLabel = "controller.kubernetes.io/hash"

// longestPrefix leaves room for a hash in a revision's name.
const longestPrefix = 223

// revision is a set as it was, or is, at a revision.
type revision struct {
	name string
	set  *appsv1.StatefulSet
}

// findRevisions finds the current and the update revision, and makes the
// latter when the template is new.
func (p *pass) findRevisions(ctx context.Context) error {
	if c := p.set.Status.CollisionCount; c != nil {
		p.collisions = *c
	}
	if p.set.DeletionTimestamp != nil {
		// Nothing is created any more: names are enough to count pods by.
		p.current.name, p.update.name = p.set.Status.CurrentRevision, p.set.Status.UpdateRevision
		return nil
	}
	patch, err := history.Patch(&p.set.Spec.Template)
	if err != nil {
		return err
	}
	if p.revisions, err = history.List(ctx, p.claim); err != nil {
		return err
	}
	update, err := p.updateRevision(ctx, patch)
	if err != nil {
		return err
	}
	current := update
	for _, r := range p.revisions {
		if r.Name == p.set.Status.CurrentRevision {
			current = r
		}
	}
	if p.update, err = p.at(update, patch); err != nil {
		return err
	}
	p.current, err = p.at(current, patch)
	return err
}

// at returns the set at a revision.
func (p *pass) at(r *history.Revision, patch []byte) (revision, error) {
	if history.Has(r, patch) {
		return revision{r.Name, p.set}, nil
	}
	set, err := history.Apply(p.set, r)
	return revision{r.Name, set}, err
}

// updateRevision returns the revision of the set's template: the latest one if
// that is it, an older one moved to the end (a rollback), or a new one.
func (p *pass) updateRevision(ctx context.Context, patch []byte) (*history.Revision, error) {
	if latest := p.latest(); latest != nil && (history.Has(latest, patch) || p.sameByDefaults(latest, patch)) {
		return latest, nil
	}
	// The cache may lack what we made a moment ago, and the number of a new
	// revision must be the highest.
	var err error
	if p.revisions, err = history.ListFresh(ctx, p.claim); err != nil {
		return nil, err
	}
	if latest := p.latest(); latest != nil && (history.Has(latest, patch) || p.sameByDefaults(latest, patch)) {
		return latest, nil
	}
	next := history.Next(p.revisions)
	for i := len(p.revisions) - 1; i >= 0; i-- {
		if history.Has(p.revisions[i], patch) {
			return history.Renumber(ctx, p.env.Cluster, p.revisions[i], next)
		}
	}
	return p.createRevision(ctx, patch, next)
}

func (p *pass) latest() *history.Revision {
	if len(p.revisions) == 0 {
		return nil
	}
	return p.revisions[len(p.revisions)-1]
}

// sameByDefaults reports whether the set would not change if it were put back
// to a revision: the revision may have been written by a release that encoded
// templates or filled in defaults otherwise, and that must not roll out
// anything.
func (p *pass) sameByDefaults(r *history.Revision, patch []byte) bool {
	set, err := history.Apply(p.set, r)
	if err != nil {
		return false
	}
	p.defaults(set)
	again, err := history.Patch(&set.Spec.Template)
	return err == nil && string(again) == string(patch)
}

// createRevision writes a new revision. The name is a hash of the data; when
// another revision has it already the collision count gives the next one.
func (p *pass) createRevision(ctx context.Context, patch []byte, number int64) (*history.Revision, error) {
	for {
		hash := revisionHash(patch, p.collisions)
		created, taken, err := history.Create(ctx, p.env.Cluster, &history.Revision{
			ObjectMeta: metav1.ObjectMeta{
				Namespace:       p.set.Namespace,
				Name:            revisionName(p.set.Name, hash),
				Labels:          history.Labels(p.set.Spec.Template.Labels, hashLabel, hash),
				Annotations:     maps.Clone(p.set.Annotations),
				OwnerReferences: []metav1.OwnerReference{owner.Ref(p.set, kind)},
			},
			Data:     runtime.RawExtension{Raw: patch},
			Revision: number,
		})
		switch {
		case err != nil:
			return nil, err
		case created != nil:
			return created, nil
		case history.Has(taken, patch):
			return taken, nil
		}
		p.collisions++
	}
}

// revisionHash is upstream's, to the letter, so that a cluster that changes
// hands rolls nothing out.
func revisionHash(patch []byte, collisions int32) string {
	h := fnv.New32()
	h.Write(patch)
	h.Write([]byte(strconv.Itoa(int(collisions))))
	return rand.SafeEncodeString(strconv.FormatUint(uint64(h.Sum32()), 10))
}

func revisionName(set, hash string) string {
	return set[:min(len(set), longestPrefix)] + "-" + hash
}

// truncate deletes the oldest revisions that nothing is of, beyond
// spec.revisionHistoryLimit. A negative limit keeps all.
func (p *pass) truncate(ctx context.Context) error {
	limit := int(*p.set.Spec.RevisionHistoryLimit)
	if limit < 0 || p.set.DeletionTimestamp != nil {
		return nil
	}
	live := map[string]bool{p.current.name: true, p.update.name: true}
	for pod := range p.pods() {
		live[revisionOf(pod)] = true
	}
	var old []*history.Revision
	for _, r := range p.revisions {
		if !live[r.Name] {
			old = append(old, r)
		}
	}
	for _, r := range old[:max(0, len(old)-limit)] {
		if err := history.Delete(ctx, p.env.Cluster, r); err != nil {
			return err
		}
	}
	return nil
}
