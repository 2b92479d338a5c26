// Package scheduler gives every pod a node.
//
//	informers ──> snapshot + queue ──> decision ──> assumed at once
//	                    ▲                               │ written behind by many writers
//	                    └───── forgotten, retried <──fails──┴──> bound, event
//
// Decisions are made one by one by the pure core (package core), under one
// lock that informer handlers share: each takes microseconds, while API calls
// are made outside of it. Nothing is kept that a restart would miss: what is
// bound or nominated is read from the pods themselves.
package scheduler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	configv1 "k8s.io/kube-scheduler/config/v1"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/client"
	"github.com/proa-dev/proa/scheduler/core"
	"github.com/proa-dev/proa/scheduler/devices"
	"github.com/proa-dev/proa/scheduler/extender"
	"github.com/proa-dev/proa/scheduler/queue"
)

// Config is what a scheduler may be told. The zero value is upstream's default
// profile.
type Config struct {
	Logger *slog.Logger
	// Profiles are the rules of pods, by spec.schedulerName; DefaultProfile.
	Profiles []*core.Profile
	// Extenders have a say in the choice of nodes.
	Extenders []configv1.Extender
	// InitialBackoff and MaxBackoff are how long a pod that failed rests.
	InitialBackoff, MaxBackoff time.Duration
	// Writers is how many API calls may be under way at once; 256.
	Writers int
	// Seed breaks ties between nodes of equal score.
	Seed uint64
	// Metrics is where to register them; nil is nowhere.
	Metrics prometheus.Registerer
}

// Validate says what is wrong.
func (c *Config) Validate() error {
	if c.Writers < 0 {
		return fmt.Errorf("scheduler: %d writers", c.Writers)
	}
	names := map[string]bool{}
	for _, p := range c.Profiles {
		if p == nil || p.Name == "" || names[p.Name] {
			return errors.New("scheduler: profiles need names of their own")
		}
		names[p.Name] = true
	}
	return nil
}

// Scheduler assigns pods to nodes until its context ends.
type Scheduler struct {
	cluster   client.Cluster
	logger    *slog.Logger
	profiles  map[string]*profile
	extenders []*extender.Extender
	writers   chan struct{}
	kick      chan struct{} // something may be ready in the queue

	mu       sync.Mutex
	snapshot *core.Snapshot
	devices  *devices.Devices // made by Run
	queue    *queue.Queue
	// binding are the pods whose bind is being written. They are in the
	// snapshot already.
	binding map[types.UID]*queue.Item
	// parked are those among them that wait for volumes or devices.
	parked map[types.UID]*parked
	// away are waiting pods that are not in the queue: extenders are asked
	// about them, or others are being evicted for them.
	away map[types.UID]*absence
	// asked is the one about whom extenders are asked.
	asked   *absence
	budgets map[types.NamespacedName]*policyv1.PodDisruptionBudget
	// chores are API calls that others than the worker want made, by pod.
	chores map[types.UID]task
	// writing is closed when the last task that concerns a pod is done.
	writing map[types.UID]chan struct{}
	// gated are pods that nobody may try yet.
	gated  map[types.UID]bool
	counts *metrics
}

// profile is the rules of some pods, and who speaks to them.
type profile struct {
	*core.Profile
	recorder record.EventRecorder
}

// absence is a pod that is neither in the queue nor on a node.
type absence struct {
	item   *queue.Item
	node   string                   // that is being cleared for it
	freed  bool                     // something left that node meanwhile
	missed bool                     // something happened meanwhile that may help it
	noted  []func(*queue.Item) bool // what happened helps it if one is true
}

// task is what remains to be written after a decision.
type task func(ctx context.Context)

// step is what follows from a decision.
type step struct {
	do task
	// alone comes first, and no other decision is made before it is done.
	alone func(ctx context.Context) step
}

// New returns a scheduler for the cluster.
func New(cluster client.Cluster, cfg Config) (*Scheduler, error) {
	if cluster == nil {
		return nil, errors.New("scheduler: no cluster")
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if len(cfg.Profiles) == 0 {
		cfg.Profiles = []*core.Profile{core.DefaultProfile()}
	}
	s := &Scheduler{
		cluster:  cluster,
		logger:   cfg.Logger,
		profiles: map[string]*profile{},
		writers:  make(chan struct{}, cmp.Or(cfg.Writers, 256)),
		kick:     make(chan struct{}, 1),
		snapshot: core.NewSnapshot(cfg.Seed),
		queue:    queue.New(cfg.InitialBackoff, cfg.MaxBackoff),
		binding:  map[types.UID]*queue.Item{},
		parked:   map[types.UID]*parked{},
		away:     map[types.UID]*absence{},
		budgets:  map[types.NamespacedName]*policyv1.PodDisruptionBudget{},
		chores:   map[types.UID]task{},
		gated:    map[types.UID]bool{},
		writing:  map[types.UID]chan struct{}{},
	}
	for _, p := range cfg.Profiles {
		s.profiles[p.Name] = &profile{Profile: p, recorder: cluster.Recorder(p.Name)}
	}
	for _, spec := range cfg.Extenders {
		e, err := extender.New(spec)
		if err != nil {
			return nil, err
		}
		s.extenders = append(s.extenders, e)
	}
	var err error
	s.counts, err = newMetrics(s, cfg.Metrics)
	return s, err
}

// Run schedules until ctx ends. It calls ready once the cluster's state is
// known.
func (s *Scheduler) Run(ctx context.Context, ready func()) error {
	s.devices = devices.New(ctx)
	for name, p := range s.profiles {
		s.devices.SetLimits(name, devices.Limits{Filter: p.FilterTimeout, Binding: p.BindingTimeout})
	}
	s.snapshot.SetDevices(s.devices)
	stop, err := s.observe(ctx)
	defer stop()
	if err != nil {
		return err
	}
	ready()
	return s.work(ctx)
}

// source is one kind that decisions depend on.
type source struct {
	object  ctrl.Object
	handler toolscache.ResourceEventHandler
}

func (s *Scheduler) sources() []source {
	return []source{
		{&storagev1.StorageClass{}, handler(s.onClass, s.onClassGone)},
		{&storagev1.CSIDriver{}, handler(s.onDriver, s.onDriverGone)},
		{&storagev1.CSINode{}, handler(s.onStorageNode, s.onStorageNodeGone)},
		{&storagev1.CSIStorageCapacity{}, handler(s.onCapacity, s.onCapacityGone)},
		{&storagev1.VolumeAttachment{}, handler(s.onAttachment, s.onAttachmentGone)},
		{&corev1.PersistentVolume{}, handler(s.onVolume, s.onVolumeGone)},
		{&corev1.PersistentVolumeClaim{}, handler(s.onClaim, s.onClaimGone)},
		{&resourcev1.DeviceClass{}, handler(s.onDeviceClass, s.onDeviceClassGone)},
		{&resourcev1.ResourceSlice{}, handler(s.onSlice, s.onSliceGone)},
		{&resourcev1.DeviceTaintRule{}, handler(s.onTaintRule, s.onTaintRuleGone)},
		{&resourcev1.ResourceClaim{}, handler(s.onResourceClaim, s.onResourceClaimGone)},
		{&corev1.Service{}, handler(s.onService, s.onServiceGone)},
		{&corev1.ReplicationController{}, controllerHandler(s, func(o *corev1.ReplicationController) *metav1.LabelSelector {
			return &metav1.LabelSelector{MatchLabels: o.Spec.Selector}
		})},
		{&appsv1.ReplicaSet{}, controllerHandler(s, func(o *appsv1.ReplicaSet) *metav1.LabelSelector { return o.Spec.Selector })},
		{&appsv1.StatefulSet{}, controllerHandler(s, func(o *appsv1.StatefulSet) *metav1.LabelSelector { return o.Spec.Selector })},
		{&corev1.Namespace{}, handler(s.onNamespace, s.onNamespaceGone)},
		{&corev1.Node{}, handler(s.onNode, s.onNodeGone)},
		{&policyv1.PodDisruptionBudget{}, handler(s.onBudget, s.onBudgetGone)},
		{&corev1.Pod{}, handler(s.onPod, s.onPodGone)},
	}
}

// observe subscribes to everything that decisions depend on, and returns when
// the first state of it all has been seen. No decision is made before.
func (s *Scheduler) observe(ctx context.Context) (stop func(), err error) {
	var undo []func()
	stop = func() {
		for _, f := range undo {
			f()
		}
	}
	var registrations []toolscache.ResourceEventHandlerRegistration
	for _, source := range s.sources() {
		informer, err := s.cluster.Cache().GetInformer(ctx, source.object, cache.BlockUntilSynced(false))
		if meta.IsNoMatchError(err) || runtime.IsNotRegisteredError(err) {
			s.logger.Info("kind is not served, scheduling without", "kind", fmt.Sprintf("%T", source.object))
			continue
		}
		if err != nil {
			return stop, fmt.Errorf("watch %T: %w", source.object, err)
		}
		r, err := informer.AddEventHandler(source.handler)
		if err != nil {
			return stop, fmt.Errorf("watch %T: %w", source.object, err)
		}
		undo = append(undo, func() {
			if err := informer.RemoveEventHandler(r); err != nil {
				s.logger.Warn("stop watching", "error", err)
			}
		})
		registrations = append(registrations, r)
	}
	for _, r := range registrations {
		select {
		case <-r.HasSyncedChecker().Done():
		case <-ctx.Done():
			return stop, ctx.Err()
		}
	}
	return stop, nil
}

// work takes pods from the queue one by one and hands what is to be written to
// the writers. When all are busy it waits: the queue is where pods wait.
func (s *Scheduler) work(ctx context.Context) error {
	var writing sync.WaitGroup
	defer writing.Wait()
	for {
		do, next := s.next(time.Now())
		idle := do.do == nil && do.alone == nil
		for do.alone != nil {
			do = do.alone(ctx)
		}
		if do.do == nil {
			if idle && !s.rest(ctx, next) || ctx.Err() != nil {
				return nil
			}
			continue
		}
		select {
		case s.writers <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		writing.Go(func() {
			defer func() { <-s.writers }()
			do.do(ctx)
		})
	}
}

// rest waits until the queue may have something; false is the end.
func (s *Scheduler) rest(ctx context.Context, next time.Time) bool {
	var due <-chan time.Time
	if !next.IsZero() {
		timer := time.NewTimer(time.Until(next))
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-s.kick:
	case <-due:
	case <-ctx.Done():
		return false
	}
	return true
}

// next makes decisions until one leaves something to write; without one it
// says when to look again.
func (s *Scheduler) next(now time.Time) (step, time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	expiry := s.expire(now)
	for uid, do := range s.chores {
		delete(s.chores, uid)
		return step{do: s.inOrder(uid, do)}, time.Time{}
	}
	for {
		item := s.queue.Pop(now)
		if item == nil {
			next := s.queue.Next()
			if next.IsZero() || !expiry.IsZero() && expiry.Before(next) {
				next = expiry
			}
			return step{}, next
		}
		if do := s.decide(item, now); do.do != nil || do.alone != nil {
			return do, time.Time{}
		}
	}
}

// wakeUp makes the worker look at the queue.
func (s *Scheduler) wakeUp() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}
