// Package evict ends pods when the node runs short of memory, disk or process
// numbers, before the kernel has to.
package evict

import (
	"context"
	"fmt"
	"log/slog"
	"sort"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/resource"
	"k8s.io/utils/clock"

	"github.com/proa-dev/proa/kubelet/cgroups"
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
	RootDir  string
	ImageDir func(ctx context.Context) string
	Pods     func() []*corev1.Pod
	Usage    func(pod *corev1.Pod) cgroups.Usage
	Node     func() cgroups.Usage
	Evict    func(uid types.UID, verdict status.Verdict, grace *int64) error
	// Reclaim frees disk space without ending pods.
	Reclaim func(ctx context.Context) error
	Changed func()
	Clock   clock.Clock
	Logger  *slog.Logger
}

// Evictor watches the node. Safe for concurrent use.
type Evictor struct {
	cfg Config

	mu   sync.Mutex
	last [3]time.Time // when memory, disk, pid were short
	now  [3]bool
}

// New makes an evictor.
func New(cfg Config) *Evictor { return &Evictor{cfg: cfg} }

// Pressure says what the node is, or was lately, short of.
func (e *Evictor) Pressure() (memory, disk, pid bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.now[0], e.now[1], e.now[2]
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
	s, err := node.Measure(e.cfg.RootDir, e.cfg.ImageDir(ctx), int64(e.cfg.Node().WorkingSet))
	if err != nil {
		e.cfg.Logger.Warn("the node's resources cannot be read", "err", err)
		return
	}
	memory, disk, pid := s.Short()
	e.note(memory, disk, pid)
	switch {
	case memory:
		e.evict("memory", "100Mi", fmt.Sprintf("%dKi", s.MemoryAvailable>>10), true)
	case disk:
		if err := e.cfg.Reclaim(ctx); err != nil {
			e.cfg.Logger.Warn("disk space not reclaimed", "err", err)
		}
		if s, err = node.Measure(e.cfg.RootDir, e.cfg.ImageDir(ctx), 0); err == nil {
			if _, still, _ := s.Short(); still {
				e.evict("ephemeral-storage", "10%", fmt.Sprintf("%d%%", s.DiskFree), false)
			}
		}
	case pid:
		e.evict("pids", "2%", fmt.Sprintf("%d%%", s.PIDFree), false)
	}
}

func (e *Evictor) note(short ...bool) {
	e.mu.Lock()
	changed := false
	now := e.cfg.Clock.Now()
	for i, is := range short {
		if is {
			e.last[i] = now
		}
		state := is || (!e.last[i].IsZero() && now.Sub(e.last[i]) < linger)
		changed = changed || state != e.now[i]
		e.now[i] = state
	}
	e.mu.Unlock()
	if changed {
		e.cfg.Changed()
	}
}

// evict ends one pod: first those that use more than they asked for, then the
// least important, then the greatest use.
func (e *Evictor) evict(what, threshold, available string, memory bool) {
	type candidate struct {
		pod           *corev1.Pod
		used, request int64
	}
	var all []candidate
	for _, p := range e.cfg.Pods() {
		if p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded {
			continue
		}
		if p.Spec.Priority != nil && *p.Spec.Priority >= 2000000000 { // what the cluster itself runs on
			continue
		}
		requests := resource.PodRequests(p, resource.PodResourcesOptions{})
		usage := e.cfg.Usage(p)
		c := candidate{pod: p, used: int64(usage.WorkingSet), request: requests.Memory().Value()}
		if !memory {
			c.used, c.request = int64(usage.Processes), 0
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		e.cfg.Logger.Warn("the node is short and no pod can be evicted", "resource", what, "available", available)
		return
	}
	priority := func(p *corev1.Pod) int32 {
		if p.Spec.Priority == nil {
			return 0
		}
		return *p.Spec.Priority
	}
	sort.Slice(all, func(i, j int) bool {
		a, b := all[i], all[j]
		if x, y := a.used > a.request, b.used > b.request; x != y {
			return x
		}
		if x, y := priority(a.pod), priority(b.pod); x != y {
			return x < y
		}
		return a.used-a.request > b.used-b.request
	})
	victim := all[0]
	message := fmt.Sprintf("The node was low on resource: %s. Threshold quantity: %s, available: %s. ", what, threshold, available)
	if memory {
		message += fmt.Sprintf("Pod %s was using %dKi, request is %dKi, has larger consumption of memory. ", victim.pod.Name, victim.used>>10, victim.request>>10)
	}
	grace := int64(1)
	e.cfg.Logger.Warn("pod evicted", "pod", victim.pod.Namespace+"/"+victim.pod.Name, "resource", what, "available", available)
	err := e.cfg.Evict(victim.pod.UID, status.Verdict{Phase: corev1.PodFailed, Reason: "Evicted", Message: message, Disrupted: true}, &grace)
	if err != nil {
		e.cfg.Logger.Warn("pod not evicted", "err", err)
	}
}
