// Package evict ends pods when the node runs short of memory, disk or process
// numbers, before the kernel has to.
package evict

import (
	"context"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"

	"github.com/proa-dev/proa/kubelet/node"
	"github.com/proa-dev/proa/kubelet/status"
)

// How often the node is looked at, and how long a shortage stays announced
// after it has passed.
const (
	period = 10 * time.Second
	linger = 5 * time.Minute
)

// Config is what an Evictor needs.
type Config struct {
	Thresholds node.Thresholds
	// Measure reads what the node has left.
	Measure func(ctx context.Context) (map[node.Signal]node.Level, error)
	// Pods lists the node's pods.
	Pods func() []*corev1.Pod
	// Use says what a pod uses of a resource, as a whole and by container.
	Use func(ctx context.Context, pod *corev1.Pod, of corev1.ResourceName) Use
	// Storage says what a pod takes of the node's disk.
	Storage func(ctx context.Context, pod *corev1.Pod) (Storage, error)
	Evict   func(uid types.UID, verdict status.Verdict, grace *int64) error
	// Reclaim frees disk space of which a signal says that it is short, without
	// ending pods.
	Reclaim func(ctx context.Context, short node.Signal) error
	// Changed is told when Pressure says something new.
	Changed func()
	// Evicted is told of every pod that a signal ended; may be nil.
	Evicted  func(signal node.Signal)
	Node     func() *corev1.ObjectReference
	Recorder record.EventRecorder
	Clock    clock.Clock
	Logger   *slog.Logger
}

// Use is what a pod uses of one resource.
type Use struct {
	Total int64
	// Containers is by name, and may be empty.
	Containers map[string]int64
}

// Evictor watches the node. Safe for concurrent use.
type Evictor struct {
	cfg Config

	mu   sync.Mutex
	last map[corev1.NodeConditionType]time.Time // when the node was short
	now  map[corev1.NodeConditionType]bool
}

// New makes an evictor.
func New(cfg Config) *Evictor {
	return &Evictor{cfg: cfg, last: map[corev1.NodeConditionType]time.Time{}, now: map[corev1.NodeConditionType]bool{}}
}

// Pressure says what the node is, or was lately, short of.
func (e *Evictor) Pressure() (memory, disk, pid bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.now[corev1.NodeMemoryPressure], e.now[corev1.NodeDiskPressure], e.now[corev1.NodePIDPressure]
}

// Run watches until ctx ends.
func (e *Evictor) Run(ctx context.Context) {
	for {
		t := e.cfg.Clock.NewTimer(period)
		select {
		case <-t.C():
		case <-ctx.Done():
			t.Stop()
			return
		}
		e.look(ctx)
	}
}

func (e *Evictor) look(ctx context.Context) {
	levels, err := e.cfg.Measure(ctx)
	if err != nil {
		e.cfg.Logger.Warn("the node's resources cannot be read", "err", err)
		return
	}
	short := e.cfg.Thresholds.Met(levels)
	e.note(short)
	if e.enforce(ctx) || len(short) == 0 {
		return
	}
	e.cfg.Recorder.Eventf(e.cfg.Node(), corev1.EventTypeWarning, "EvictionThresholdMet", "Attempting to reclaim %s", short[0].Resource())
	if short[0].Condition() == corev1.NodeDiskPressure {
		if err := e.cfg.Reclaim(ctx, short[0]); err != nil {
			e.cfg.Logger.Warn("disk space not reclaimed", "err", err)
		}
		if levels, err = e.cfg.Measure(ctx); err != nil {
			e.cfg.Logger.Warn("the node's resources cannot be read", "err", err)
			return
		}
		if short = e.cfg.Thresholds.Met(levels); len(short) == 0 {
			return
		}
	}
	e.evict(ctx, short[0], levels[short[0]])
}

// note keeps what is told of shortages: they linger, so that no pod comes back
// at once to where one was just ended.
func (e *Evictor) note(short []node.Signal) {
	e.mu.Lock()
	changed := false
	now := e.cfg.Clock.Now()
	for _, s := range short {
		e.last[s.Condition()] = now
	}
	for condition, at := range e.last {
		state := now.Sub(at) < linger
		changed = changed || state != e.now[condition]
		e.now[condition] = state
	}
	e.mu.Unlock()
	if changed {
		e.cfg.Changed()
	}
}
