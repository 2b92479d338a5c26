// Package pods runs the pods of a node: one goroutine each takes its pod from
// what the API wants and what the runtime has, one step at a time.
//
//	running ──> terminating ──> terminated ──> cleaned ──> (object gone) purged
//	   │ deleted, evicted, past its deadline, or done
//
// Nothing is polled: a worker wakes on the API's and the runtime's news, on
// probes' verdicts and at times that it set itself.
package pods

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"

	"github.com/proa-dev/proa/kubelet/cri"
	"github.com/proa-dev/proa/kubelet/images"
	"github.com/proa-dev/proa/kubelet/metrics"
	"github.com/proa-dev/proa/kubelet/objects"
	"github.com/proa-dev/proa/kubelet/spec"
	"github.com/proa-dev/proa/kubelet/status"
	"github.com/proa-dev/proa/kubelet/volumes"
)

// Annotations of static pods and of their mirrors in the API.
const (
	AnnotationSource = "kubernetes.io/config.source"
	AnnotationMirror = "kubernetes.io/config.mirror"
	AnnotationHash   = "kubernetes.io/config.hash"
	AnnotationSeen   = "kubernetes.io/config.seen"
)

// Cgroups keeps pods' control groups.
type Cgroups interface {
	Parent(pod *corev1.Pod) string
	Ensure(pod *corev1.Pod) error
	Remove(uid types.UID) error
	UIDs() []types.UID
}

// Status takes pods' statuses to the API server.
type Status interface {
	Set(pod *corev1.Pod, status corev1.PodStatus, remove bool)
	Forget(uid types.UID)
}

// Config is what a Manager needs; every field but ContainerLogsDir is required.
type Config struct {
	CRI               *cri.Client
	RuntimeName       string
	RuntimeHandler    func(ctx context.Context, pod *corev1.Pod) (string, error)
	RecursiveReadOnly func() bool
	Cluster           spec.Cluster
	Volumes           *volumes.Manager
	Objects           *objects.Store
	Images            *images.Puller
	Cgroups           Cgroups
	Status            Status
	Services          func(ctx context.Context, namespace string) ([]corev1.Service, error)
	// Node is this node with its labels, capacity and allocatable resources.
	Node             func() *corev1.Node
	HostIPs          func() []string
	Recorder         record.EventRecorder
	Clock            clock.Clock
	Logger           *slog.Logger
	PodLogsDir       string
	ContainerLogsDir string
	SeccompDir       string
	// Unified is set in every container's group: cgroup v2 alone.
	Unified map[string]string
	// AppArmor says that the kernel can confine containers by it.
	AppArmor bool
	// Metrics count what is done; nil counts for nobody.
	Metrics *metrics.Metrics
}

// Manager runs the pods. Safe for concurrent use.
type Manager struct {
	cfg     Config
	ctx     context.Context
	started time.Time
	wg      sync.WaitGroup

	mu      sync.Mutex
	workers map[types.UID]*worker
	mirrors map[types.NamespacedName]*corev1.Pod
	next    map[types.NamespacedName]*corev1.Pod // static pods whose predecessor has not ended
	found   map[string]cri.Pod                   // in the runtime at the start
}

// New makes a manager whose workers end with ctx; it looks at what the runtime
// has once, since pods that run already are not to be judged anew.
func New(ctx context.Context, cfg Config) (*Manager, error) {
	if cfg.ContainerLogsDir != "" {
		if err := os.MkdirAll(cfg.ContainerLogsDir, 0o755); err != nil {
			return nil, fmt.Errorf("links to logs: %w", err)
		}
	}
	if cfg.Metrics == nil {
		cfg.Metrics = metrics.New()
	}
	found, err := cfg.CRI.UIDs(ctx)
	if err != nil {
		return nil, err
	}
	return &Manager{cfg: cfg, ctx: ctx, started: cfg.Clock.Now(), workers: map[types.UID]*worker{},
		mirrors: map[types.NamespacedName]*corev1.Pod{}, next: map[types.NamespacedName]*corev1.Pod{}, found: found}, nil
}

// Wait returns when every worker has ended.
func (m *Manager) Wait() { m.wg.Wait() }

// IsStatic says that a pod comes from a file of the node, not from the API.
func IsStatic(pod *corev1.Pod) bool {
	source := pod.Annotations[AnnotationSource]
	return source != "" && source != "api"
}

// IsMirror says that a pod is the API's image of a static one.
func IsMirror(pod *corev1.Pod) bool {
	_, ok := pod.Annotations[AnnotationMirror]
	return ok
}

func nameOf(pod *corev1.Pod) types.NamespacedName {
	return types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
}

// Update tells of a pod of this node, new or changed.
func (m *Manager) Update(pod *corev1.Pod) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ctx.Err() != nil {
		return
	}
	if IsMirror(pod) {
		old := m.mirrors[nameOf(pod)]
		m.mirrors[nameOf(pod)] = pod
		if old == nil || old.UID != pod.UID {
			m.pokeStatic(nameOf(pod))
		}
		return
	}
	if w := m.workers[pod.UID]; w != nil {
		w.post(func(in *inbox) { in.pod = pod })
		return
	}
	if IsStatic(pod) {
		m.endPredecessors(pod)
		if len(m.static(nameOf(pod))) > 0 {
			m.next[nameOf(pod)] = pod // the two may want the same ports and paths
			return
		}
	}
	w := m.newWorker(pod.UID, pod)
	m.cfg.Metrics.ContainersPerPod.Observe(float64(len(pod.Spec.Containers)))
	_, here := m.found[string(pod.UID)]
	w.measured = here || pod.Status.StartTime != nil
	if here {
		w.recall(pod)
		w.inbox.pod = pod // it may ask for more now
	}
	if !here && !final(pod) && pod.DeletionTimestamp == nil {
		if r := m.admit(pod, m.active(pod.UID), m.cfg.Node()); r != nil {
			w.verdict = &status.Verdict{Phase: corev1.PodFailed, Reason: r.reason, Message: "Pod was rejected: " + r.message, Rejected: true}
			m.cfg.Recorder.Event(pod, corev1.EventTypeWarning, r.reason, r.message)
			m.cfg.Metrics.Rejected(r.reason)
		}
	}
	m.start(w)
}

// endPredecessors ends what runs of a static pod whose manifest was changed
// while no kubelet ran; m.mu is held.
func (m *Manager) endPredecessors(pod *corev1.Pod) {
	for uid, p := range m.found {
		if uid != string(pod.UID) && p.Namespace == pod.Namespace && p.Name == pod.Name && m.workers[types.UID(uid)] == nil {
			m.endOrphan(uid, p, map[string]string{AnnotationSource: pod.Annotations[AnnotationSource]})
		}
	}
}

func (m *Manager) pokeStatic(name types.NamespacedName) {
	for _, w := range m.static(name) {
		w.call(func() { w.reported = false })
	}
}

// static finds the workers of static pods of a name; m.mu is held.
func (m *Manager) static(name types.NamespacedName) (found []*worker) {
	for _, w := range m.workers {
		w.mu.Lock()
		p := w.published.pod
		w.mu.Unlock()
		if p != nil && IsStatic(p) && nameOf(p) == name {
			found = append(found, w)
		}
	}
	return found
}

func (m *Manager) mirror(pod *corev1.Pod) *corev1.Pod {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mirrors[nameOf(pod)]
}

func (m *Manager) newWorker(uid types.UID, pod *corev1.Pod) *worker {
	w := &worker{m: m, uid: uid, pod: pod, wake: make(chan struct{}, 1), done: make(chan struct{}), dirty: true, status: *pod.Status.DeepCopy(),
		log:  m.cfg.Logger.With("pod", pod.Namespace+"/"+pod.Name, "uid", uid),
		seen: m.cfg.Clock.Now(), containers: map[string]*container{}, kills: map[string]*killing{}, killed: map[string]bool{}, renewed: map[string]bool{}, messages: map[string]string{}}
	w.published = published{pod: pod, status: pod.Status}
	return w
}

// start runs a worker; m.mu is held.
func (m *Manager) start(w *worker) {
	m.workers[w.uid] = w
	m.wg.Go(func() {
		w.run(m.ctx)
		if m.ctx.Err() != nil {
			return
		}
		m.mu.Lock()
		delete(m.workers, w.uid)
		delete(m.found, string(w.uid))
		next := m.next[nameOf(w.pod)]
		if next != nil && len(m.static(nameOf(next))) > 0 {
			next = nil
		}
		if next != nil {
			delete(m.next, nameOf(next))
		}
		m.mu.Unlock()
		m.cfg.Status.Forget(w.uid)
		m.cfg.Metrics.Forget(w.pod)
		if next != nil {
			m.Update(next)
		}
		m.Poke()
	})
}

// Poke has pods look again that wait for room.
func (m *Manager) Poke() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range m.workers {
		w.call(func() {
			if w.pending != nil && w.state == running {
				w.m.reallocate(w)
			}
		})
	}
}

func (m *Manager) reallocate(w *worker) {
	if w.asked != nil {
		w.pod = w.allocate(w.asked)
	}
}

// Remove tells that a pod's object is gone.
func (m *Manager) Remove(pod *corev1.Pod) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if IsMirror(pod) {
		if have := m.mirrors[nameOf(pod)]; have != nil && have.UID == pod.UID {
			delete(m.mirrors, nameOf(pod))
		}
		m.cfg.Status.Forget(pod.UID)
		return
	}
	m.cfg.Status.Forget(pod.UID)
	if next := m.next[nameOf(pod)]; next != nil && next.UID == pod.UID {
		delete(m.next, nameOf(pod))
	}
	if w := m.workers[pod.UID]; w != nil {
		w.post(func(in *inbox) { in.pod, in.gone = pod, true })
	}
}

// Stopped tells that a process of a pod has ended, says the runtime.
func (m *Manager) Stopped(uid string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if w := m.workers[types.UID(uid)]; w != nil {
		w.post(func(in *inbox) { in.dirty = true })
	}
}

// Reconcile has every pod look at the runtime anew. orphans also ends what is
// left on the node of pods that are in the API no more; it must be false
// until all pods of the API have been handed in.
func (m *Manager) Reconcile(ctx context.Context, orphans bool) error {
	left, err := m.cfg.CRI.UIDs(ctx)
	if err != nil {
		return err
	}
	if uids, err := m.cfg.Volumes.UIDs(); err == nil {
		for _, uid := range uids {
			if _, ok := left[string(uid)]; !ok {
				left[string(uid)] = cri.Pod{UID: string(uid)}
			}
		}
	}
	for _, uid := range m.cfg.Cgroups.UIDs() {
		if _, ok := left[string(uid)]; !ok {
			left[string(uid)] = cri.Pod{UID: string(uid)}
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range m.workers {
		w.post(func(in *inbox) { in.dirty = true })
	}
	if !orphans || m.ctx.Err() != nil {
		return nil
	}
	for uid, p := range left {
		if m.workers[types.UID(uid)] != nil {
			continue
		}
		m.endOrphan(uid, p, nil)
	}
	return nil
}

// endOrphan ends a pod of which only the runtime knows; m.mu is held.
func (m *Manager) endOrphan(uid string, p cri.Pod, annotations map[string]string) {
	m.cfg.Logger.Info("pod is in the API no more and is ended", "pod", p.Namespace+"/"+p.Name, "uid", uid)
	w := m.newWorker(types.UID(uid), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(uid), Namespace: p.Namespace, Name: p.Name, Annotations: annotations}})
	w.gone, w.measured = true, true
	m.cfg.Metrics.OrphanedPods.Inc()
	m.start(w)
}

// active lists the pods, but one, that take up room on the node; m.mu is held.
func (m *Manager) active(but types.UID) []*corev1.Pod {
	var out []*corev1.Pod
	for uid, w := range m.workers {
		w.mu.Lock()
		p := w.published
		w.mu.Unlock()
		if uid != but && p.pod != nil && p.state < terminated && p.status.Phase != corev1.PodFailed && p.status.Phase != corev1.PodSucceeded && p.pod.Name != "" {
			out = append(out, p.pod)
		}
	}
	return out
}

// fitsResized says why a pod cannot have the resources that it now asks for.
func (m *Manager) fitsResized(pod *corev1.Pod) (reason, message string) {
	m.mu.Lock()
	others := m.active(pod.UID)
	m.mu.Unlock()
	node := m.cfg.Node()
	if r := fits(pod, nil, node); r != nil {
		return corev1.PodReasonInfeasible, r.message
	}
	if r := fits(pod, others, node); r != nil {
		return corev1.PodReasonDeferred, r.message
	}
	return "", ""
}

// Evict ends a pod for good with phase Failed. grace replaces the pod's own.
func (m *Manager) Evict(uid types.UID, verdict status.Verdict, grace *int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	w := m.workers[uid]
	if w == nil {
		return fmt.Errorf("pod %s is not on this node", uid)
	}
	w.post(func(in *inbox) { in.verdict, in.grace = &verdict, grace })
	return nil
}

// Pods lists the pods of the node with their newest statuses.
func (m *Manager) Pods() []*corev1.Pod {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]*corev1.Pod, 0, len(m.workers))
	for _, w := range m.workers {
		if p := w.snapshot(); p != nil {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b *corev1.Pod) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	return out
}

// Get finds a pod by its name, the newest if there are several.
func (m *Manager) Get(namespace, name string) *corev1.Pod {
	var found *corev1.Pod
	for _, p := range m.Pods() {
		if p.Namespace == namespace && p.Name == name {
			found = p
		}
	}
	return found
}

func (w *worker) snapshot() *corev1.Pod {
	w.mu.Lock()
	p := w.published
	w.mu.Unlock()
	if p.pod == nil || p.pod.Name == "" || (p.pod.ResourceVersion == "" && !IsStatic(p.pod)) {
		return nil
	}
	out := *p.pod
	out.Status = p.status
	return &out
}
