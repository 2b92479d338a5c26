package statefulset

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/controllers/internal/history"
	"github.com/proa-dev/proa/controllers/internal/owner"
	"github.com/proa-dev/proa/controllers/internal/pods"
)

// burst bounds how many pods one pass over a parallel set creates.
const burst = 500

// pass is one pass over one set.
type pass struct {
	*controller
	// set is our own copy.
	set   *appsv1.StatefulSet
	claim *owner.Claim
	now   time.Time

	revisions       []*history.Revision
	collisions      int32
	current, update revision

	// start is the first ordinal, end the one after the last. There may be
	// two thousand million between: never walk them but to the first pod
	// that is missing.
	start, end int
	// replicas holds the pods that exist, by ordinal.
	replicas map[int]*corev1.Pod
	// condemned holds pods outside of the range, the highest ordinal first.
	condemned []*corev1.Pod

	status appsv1.StatefulSetStatus

	mu sync.Mutex // the pods of a parallel set are looked after at once
	// again is when to look at finished pods again; zero is never.
	again time.Duration
}

// divide tells replicas from condemned pods.
func (p *pass) divide(mine []*corev1.Pod) {
	if o := p.set.Spec.Ordinals; o != nil {
		p.start = int(o.Start)
	}
	p.end = p.start + int(*p.set.Spec.Replicas)
	p.replicas = make(map[int]*corev1.Pod, len(mine))
	for _, pod := range mine {
		if n := p.ordinal(pod); n >= p.start && n < p.end {
			p.replicas[n] = pod
		} else {
			p.condemned = append(p.condemned, pod)
		}
	}
	slices.SortFunc(p.condemned, func(a, b *corev1.Pod) int { return cmp.Compare(p.ordinal(b), p.ordinal(a)) })
}

func (p *pass) ordinal(pod *corev1.Pod) int { return ordinalOf(p.set.Name, pod.Name) }

func (p *pass) ordered() bool { return p.set.Spec.PodManagementPolicy != appsv1.ParallelPodManagement }

// pods returns all pods that exist, in no order.
func (p *pass) pods() iter.Seq[*corev1.Pod] {
	return func(yield func(*corev1.Pod) bool) {
		for _, pod := range p.replicas {
			if !yield(pod) {
				return
			}
		}
		for _, pod := range p.condemned {
			if !yield(pod) {
				return
			}
		}
	}
}

// run brings the set a step nearer to what is asked for. The status is told and
// old revisions go even when a step fails.
func (p *pass) run(ctx context.Context) error {
	if err := p.findRevisions(ctx); err != nil {
		return err
	}
	err := p.sync(ctx)
	if statusErr := p.writeStatus(ctx); err == nil {
		err = statusErr
	}
	if truncateErr := p.truncate(ctx); err == nil {
		err = truncateErr
	}
	return err
}

// sync takes the steps in the order of their precedence: replicas that are
// missing or broken, then the size, then the rollout.
func (p *pass) sync(ctx context.Context) error {
	p.count()
	if p.set.DeletionTimestamp != nil {
		return nil // the garbage collector deletes the pods, or sets them free
	}
	stop, err := p.keepReplicas(ctx)
	if !stop && err == nil {
		stop, err = p.scaleDown(ctx)
	}
	p.count()
	if stop || err != nil || p.set.Spec.UpdateStrategy.Type != appsv1.RollingUpdateStatefulSetStrategyType {
		return err
	}
	return p.roll(ctx)
}

// keepReplicas looks after each replica, in order up to the first that must be
// waited for. It reports whether to wait.
func (p *pass) keepReplicas(ctx context.Context) (stop bool, err error) {
	if p.ordered() {
		for n := p.start; n < p.end; n++ {
			pod := p.replicas[n]
			if pod == nil {
				pod = p.newPod(n)
			}
			stop, err := p.keep(ctx, n, pod)
			if created(pod) {
				p.replicas[n] = pod
			}
			if stop || err != nil {
				return true, err
			}
		}
		return false, nil
	}
	todo := slices.Sorted(maps.Keys(p.replicas))
	for n, missing := p.start, 0; n < p.end && missing < burst; n++ {
		if p.replicas[n] == nil {
			todo = append(todo, n)
			missing++
		}
	}
	all := make([]*corev1.Pod, len(todo))
	for i, n := range todo {
		if all[i] = p.replicas[n]; all[i] == nil {
			all[i] = p.newPod(n)
		}
	}
	_, err = pods.SlowStart(len(all), func(i int) error {
		_, err := p.keep(ctx, todo[i], all[i])
		return err
	})
	for i, pod := range all {
		if created(pod) {
			p.replicas[todo[i]] = pod
		}
	}
	return err != nil, err
}

// keep creates, replaces or repairs one replica. In an ordered set it reports
// whether those after it must wait.
func (p *pass) keep(ctx context.Context, ordinal int, pod *corev1.Pod) (stop bool, err error) {
	if pods.Finished(pod) {
		// However it ended. Its successor is created when it is gone.
		if !terminating(pod) && p.mayReplace(pod) {
			err = p.delete(ctx, pod)
		}
		return true, err
	}
	if !created(pod) {
		stale, err := p.claimsStale(ctx, ordinal, pod)
		if stale || err != nil {
			return true, err
		}
		return p.ordered(), p.create(ctx, ordinal, pod)
	}
	if pod.Status.Phase == corev1.PodPending && !terminating(pod) {
		// It may wait for a claim that somebody deleted.
		if err := p.ensureClaims(ctx, ordinal, pod); err != nil {
			return true, err
		}
		if _, err := p.ownClaims(ctx, ordinal, pod); err != nil {
			p.tell("Update", pod, err)
			return true, err
		}
	}
	if p.ordered() && (!runningAndReady(pod) || !p.serves(pod)) {
		return true, nil
	}
	if terminating(pod) {
		return false, nil
	}
	return false, p.repair(ctx, ordinal, pod)
}

// mayReplace reports whether it is time to replace a finished pod. If not,
// nextCheck knows when it will be.
func (p *pass) mayReplace(pod *corev1.Pod) bool {
	key := string(p.set.UID) + "/" + pod.Name
	if p.failed.IsInBackOffSinceUpdate(key, p.now) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.again = earlier(p.again, p.failed.Get(key))
		return false
	}
	p.failed.Next(key, p.now)
	return true
}

// create creates a pod after its claims.
func (p *pass) create(ctx context.Context, ordinal int, pod *corev1.Pod) error {
	if err := p.ensureClaims(ctx, ordinal, pod); err != nil {
		p.tell("Create", pod, err)
		return err
	}
	p.expect.Add(p.set.UID, 1)
	err := p.env.Cluster.Client().Create(ctx, pod)
	if err != nil {
		p.expect.Created(p.set.UID, 1)
		pod.UID = ""
		if apierrors.IsAlreadyExists(err) {
			return err // a pod of somebody else has our name, or ours shows up soon
		}
	} else if _, err := p.ownClaims(ctx, ordinal, pod); err != nil {
		p.tell("Update", pod, err)
		return err
	}
	p.tell("Create", pod, err)
	return err
}

// delete deletes a pod, but no other pod of its name.
func (p *pass) delete(ctx context.Context, pod *corev1.Pod) error {
	p.expect.Add(p.set.UID, 0, pod.UID)
	uid := pod.UID
	err := p.env.Cluster.Client().Delete(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name}},
		client.Preconditions{UID: &uid})
	if err != nil {
		p.expect.Deleted(p.set.UID, pod.UID) // no event will come of it
		if err = client.IgnoreNotFound(err); apierrors.IsConflict(err) {
			return err // its successor is there already
		}
	}
	p.tell("Delete", pod, err)
	return err
}

// repair gives a pod its identity and volumes back, and its claims the owners
// that the retention policy wants.
func (p *pass) repair(ctx context.Context, ordinal int, pod *corev1.Pod) error {
	err, changed := error(nil), false
	if !hasIdentity(pod) || !hasVolumes(pod, p.set, ordinal) {
		changed = true
		fixed := pod.DeepCopy()
		setIdentity(fixed, p.set, ordinal)
		setVolumes(fixed, p.set, ordinal)
		if err = p.ensureClaims(ctx, ordinal, pod); err == nil {
			err = p.env.Cluster.Client().Update(ctx, fixed)
		}
		if apierrors.IsConflict(err) {
			return err
		}
	}
	if err == nil {
		var owned bool
		owned, err = p.ownClaims(ctx, ordinal, pod)
		changed = changed || owned
	}
	if changed || err != nil {
		p.tell("Update", pod, err)
	}
	return err
}

// scaleDown deletes condemned pods, the highest ordinal first; in an ordered
// set one at a time, and one that is not healthy only if none below it is
// either. It reports whether to wait.
func (p *pass) scaleDown(ctx context.Context) (stop bool, err error) {
	for _, pod := range p.condemned {
		if _, err := p.ownClaims(ctx, p.ordinal(pod), pod); err != nil {
			return true, err
		}
	}
	if !p.ordered() {
		alive := slices.DeleteFunc(slices.Clone(p.condemned), terminating)
		_, err := pods.SlowStart(len(alive), func(i int) error { return p.delete(ctx, alive[i]) })
		return err != nil, err
	}
	if len(p.condemned) == 0 {
		return false, nil
	}
	// All replicas serve, or we would not be here.
	last := p.condemned[0]
	if terminating(last) {
		return true, nil
	}
	if !runningAndReady(last) || !p.available(last) {
		for _, pod := range p.condemned[1:] {
			if !p.serves(pod) {
				return true, nil
			}
		}
	}
	return true, p.delete(ctx, last)
}

// tell records what became of an attempt on a pod.
func (p *pass) tell(verb string, pod *corev1.Pod, err error) {
	p.record(verb, err, fmt.Sprintf("%s Pod %s in StatefulSet %s successful", verb, pod.Name, p.set.Name),
		fmt.Sprintf("%s Pod %s in StatefulSet %s failed error: %v", verb, pod.Name, p.set.Name, err))
}

func (p *pass) record(verb string, err error, success, failure string) {
	if err == nil {
		p.events.Event(p.set, corev1.EventTypeNormal, "Successful"+verb, success)
		return
	}
	p.events.Event(p.set, corev1.EventTypeWarning, "Failed"+verb, failure)
}
