package scheduler

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/scheduler/core"
	"github.com/proa-dev/proa/scheduler/queue"
)

// handler makes two functions of the state out of informer events: seen gets
// each new state, gone the last one known. An object that was replaced under
// its name while nobody watched is gone first.
func handler[T ctrl.Object](seen, gone func(T)) toolscache.ResourceEventHandler {
	return toolscache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) {
			if o, ok := obj.(T); ok {
				seen(o)
			}
		},
		UpdateFunc: func(was, obj any) {
			o, ok := obj.(T)
			if !ok {
				return
			}
			if w, ok := was.(T); ok && w.GetUID() != o.GetUID() {
				gone(w)
			}
			seen(o)
		},
		DeleteFunc: func(obj any) {
			if t, ok := obj.(toolscache.DeletedFinalStateUnknown); ok {
				obj = t.Obj
			}
			if o, ok := obj.(T); ok {
				gone(o)
			}
		},
	}
}

func (s *Scheduler) onNamespace(obj *corev1.Namespace) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.snapshot.SetNamespace(obj.Name, obj.Labels) {
		s.wake(eventNamespace, func(it *queue.Item) bool { return it.Failed.Has(core.InterPodAffinity) })
	}
}

func (s *Scheduler) onNamespaceGone(obj *corev1.Namespace) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.snapshot.RemoveNamespace(obj.Name)
}

func (s *Scheduler) onBudget(obj *policyv1.PodDisruptionBudget) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.budgets[types.NamespacedName{Namespace: obj.Namespace, Name: obj.Name}] = obj
}

func (s *Scheduler) onBudgetGone(obj *policyv1.PodDisruptionBudget) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.budgets, types.NamespacedName{Namespace: obj.Namespace, Name: obj.Name})
}

func (s *Scheduler) onService(obj *corev1.Service) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.snapshot.SetService(obj.Namespace, obj.Name, obj.Spec.Selector)
}

func (s *Scheduler) onServiceGone(obj *corev1.Service) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.snapshot.RemoveService(obj.Namespace, obj.Name)
}

// controllerHandler follows a kind that owns pods and selects them.
func controllerHandler[T ctrl.Object](s *Scheduler, selector func(T) *metav1.LabelSelector) toolscache.ResourceEventHandler {
	return handler(func(obj T) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.snapshot.SetController(obj.GetUID(), selector(obj))
	}, func(obj T) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.snapshot.RemoveController(obj.GetUID())
	})
}

func (s *Scheduler) onNode(obj *corev1.Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change := s.snapshot.SetNode(obj)
	if change == 0 {
		return
	}
	moved := change&^(core.NodeAllocatable|core.NodeFeatures) != 0 // topology may look different
	might := onceAClass(func(p *core.Pod) bool { return s.snapshot.MightFit(p, obj.Name) })
	s.wake(eventNode, func(it *queue.Item) bool {
		return moved && (dependsOnPods(it) || dependsOnVolumes(it)) || might(it.Pod)
	})
}

func (s *Scheduler) onNodeGone(obj *corev1.Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.snapshot.RemoveNode(obj.Name)
	s.wake(eventNodeGone, func(it *queue.Item) bool { return it.Failed.Has(core.PodTopologySpread) })
}

func (s *Scheduler) onPod(obj *corev1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case obj.Status.Phase == corev1.PodSucceeded || obj.Status.Phase == corev1.PodFailed:
		s.podGone(obj.UID)
	case obj.Spec.NodeName != "":
		s.podBound(obj)
	default:
		s.podPending(obj)
	}
}

func (s *Scheduler) onPodGone(obj *corev1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.podGone(obj.UID)
}

// podGone forgets a pod that uses nothing any more.
func (s *Scheduler) podGone(uid types.UID) {
	s.drop(uid)
	delete(s.writing, uid)
	delete(s.binding, uid)
	s.leave(uid)
	if pod, node, ok := s.snapshot.Pod(uid); ok {
		s.snapshot.RemovePod(uid)
		s.freed(pod, node)
	}
}

// leave ends a pod's wait for volumes and devices.
func (s *Scheduler) leave(uid types.UID) {
	if p, ok := s.parked[uid]; ok {
		delete(s.parked, uid)
		s.snapshot.Withdraw(p.plan)
	}
}

// drop takes a pod out of the queue for good.
func (s *Scheduler) drop(uid types.UID) {
	s.queue.Delete(uid)
	delete(s.gated, uid)
	delete(s.away, uid)
	s.denominate(uid)
	delete(s.chores, uid)
}

// denominate gives back the room that is reserved for a pod. Others may have
// been turned down for it.
func (s *Scheduler) denominate(uid types.UID) {
	if pod, node := s.snapshot.Nomination(uid); node != "" {
		s.snapshot.Denominate(uid)
		s.freed(pod, node)
	}
}

// nominateTo reserves room for a pod on a node, and none elsewhere.
func (s *Scheduler) nominateTo(pod *core.Pod, node string) {
	_, was := s.snapshot.Nomination(pod.UID())
	s.snapshot.Nominate(pod, node)
	if was != "" && was != node {
		s.freed(pod, was)
	}
}

func (s *Scheduler) podBound(obj *corev1.Pod) {
	s.drop(obj.UID)
	delete(s.writing, obj.UID)
	pod := core.NewPod(obj, nil)
	was, node, known := s.snapshot.Pod(obj.UID)
	same := known && node == obj.Spec.NodeName && was.SameFootprint(pod)
	s.snapshot.PutPod(pod, obj.Spec.NodeName)
	if same {
		return
	}
	s.joined(pod)
	if known { // smaller, terminating or elsewhere
		s.freed(was, node)
	}
}

func (s *Scheduler) podPending(obj *corev1.Pod) {
	profile, ours := s.profiles[obj.Spec.SchedulerName]
	it, underWay := s.binding[obj.UID]
	if !ours {
		s.drop(obj.UID)
		return
	}
	pod := core.NewPod(obj, profile.Profile)
	if underWay {
		it.Pod = pod // for the case that the bind fails
	}
	switch {
	case obj.DeletionTimestamp != nil:
		s.drop(obj.UID)
		if p, ok := s.parked[obj.UID]; ok { // deleted before it started
			s.giveUp(obj.UID, p, p.doing()+"pod is being deleted")
		}
		return
	case len(obj.Spec.SchedulingGates) > 0 && profile.Gates:
		s.drop(obj.UID)
		s.gated[obj.UID] = true
		s.reportGated(obj)
		return
	}
	delete(s.gated, obj.UID)
	if underWay {
		return
	}
	if known, _, ok := s.snapshot.Pod(obj.UID); ok {
		if known.Object.Spec.NodeName == "" {
			return // bound by us; this is older news
		}
		s.snapshot.RemovePod(obj.UID) // the datastore was taken back to before the bind
	}
	s.enqueue(pod)
}

func (s *Scheduler) enqueue(pod *core.Pod) {
	now := time.Now()
	if a, ok := s.away[pod.UID()]; ok {
		was := a.item.Pod.Object
		a.missed = a.missed || !sameWishes(was, pod.Object)
		a.item.Pod = pod
		return
	}
	it, waiting := s.queue.Get(pod.UID())
	switch {
	case !waiting:
		s.queue.Add(pod, now)
		s.renominate(pod, "")
	default:
		was := it.Pod.Object
		s.queue.Update(pod, !sameWishes(was, pod.Object), now)
		s.renominate(pod, was.Status.NominatedNodeName)
	}
	s.wakeUp()
}

// sameWishes says that nothing changed that could let the pod fit: our own
// writes to its status must not start it over.
func sameWishes(a, b *corev1.Pod) bool {
	return (a.Generation != 0 && a.Generation == b.Generation || equality.Semantic.DeepEqual(&a.Spec, &b.Spec)) &&
		equality.Semantic.DeepEqual(a.Labels, b.Labels) &&
		equality.Semantic.DeepEqual(a.Status.ResourceClaimStatuses, b.Status.ResourceClaimStatuses)
}

// renominate follows a nomination that another component made or withdrew.
func (s *Scheduler) renominate(pod *core.Pod, was string) {
	switch now := pod.Object.Status.NominatedNodeName; now {
	case was:
		if node := s.snapshot.Nominated(pod.UID()); node != "" {
			s.snapshot.Nominate(pod, node) // as the pod is now
		}
	case "":
		s.denominate(pod.UID())
	default:
		s.nominateTo(pod, now)
	}
}

// wake lets the unschedulable pods try again for which f is true, and those
// that extenders turned down: nobody knows what helps them.
func (s *Scheduler) wake(event string, f func(*queue.Item) bool) {
	if s.asked != nil {
		s.asked.note(f)
	}
	if s.queue.Wake(time.Now(), event, func(it *queue.Item) bool { return it.Failed.Has(core.Extenders) || f(it) }) {
		s.wakeUp()
	}
}

// freed wakes the pods that the leaving of a pod may help.
func (s *Scheduler) freed(pod *core.Pod, node string) {
	for _, a := range s.away {
		a.freed = a.freed || a.node == node
	}
	fits := onceAClass(func(p *core.Pod) bool { return s.snapshot.FitsNow(p, node) })
	unreserved := s.snapshot.Unreserved(node)
	s.wake(eventFreed, func(it *queue.Item) bool {
		return dependsOnPods(it) && s.snapshot.Concerns(it.Pod, pod) || dependsOnVolumes(it) || fits(it.Pod) && unreserved(it.Pod)
	})
}

// onceAClass asks f once for all pods that get the same answer: thousands may
// be waiting, and they are mostly alike.
func onceAClass(f func(*core.Pod) bool) func(*core.Pod) bool {
	answers := map[string]bool{}
	return func(p *core.Pod) bool {
		class := p.Class()
		answer, known := answers[class]
		if !known {
			answer = f(p)
			answers[class] = answer
		}
		return answer
	}
}

// joined wakes the pods that wait for the company of one that has a node now.
func (s *Scheduler) joined(pod *core.Pod) {
	if s.asked != nil || s.queue.Any(podFilters) {
		s.wake(eventPlaced, func(it *queue.Item) bool { return dependsOnPods(it) && s.snapshot.Concerns(it.Pod, pod) })
	}
}

const podFilters core.FilterSet = 1<<core.InterPodAffinity | 1<<core.PodTopologySpread

func dependsOnPods(it *queue.Item) bool { return it.Failed&podFilters != 0 }
