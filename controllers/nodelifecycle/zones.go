package nodelifecycle

import (
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/clock"
)

const (
	// largeZone is from how many nodes on a zone counts as large.
	largeZone = 50
	// unhealthy is from which share of nodes down on a zone is disrupted.
	unhealthy = 0.55
	// uncounted is the label of nodes that say nothing about their zone.
	uncounted = "node.kubernetes.io/exclude-disruption"
)

// zones decides how fast nodes that are down may lose their pods. If many are
// down at once the cause is likely elsewhere, and moving everything would make
// it worse. Safe for concurrent use.
type zones struct {
	clock    clock.PassiveClock
	interval time.Duration
	// settle is how long a node must be down first: what fails together is
	// noticed one by one.
	settle time.Duration

	mu    sync.Mutex
	nodes map[string]place
	zones map[string]*zone
	blind bool // every node that counts was down
}

type place struct {
	zone    string
	ready   bool
	counted bool
	since   time.Time // when we learnt that it is so
}

type zone struct {
	nodes       int       // in all
	ready, down int       // of those that count
	next        time.Time // when the next node may be tainted
}

func newZones(c clock.PassiveClock, interval, settle time.Duration) *zones {
	return &zones{clock: c, interval: interval, settle: settle, nodes: map[string]place{}, zones: map[string]*zone{}}
}

func zoneOf(n *corev1.Node) string {
	return n.Labels[corev1.LabelTopologyRegion] + "/" + n.Labels[corev1.LabelTopologyZone]
}

// observe takes in a node's state. It reports true when this is the first node
// to be up after all were down.
func (z *zones) observe(n *corev1.Node) bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	before, known := z.nodes[n.Name]
	z.drop(n.Name)
	r := ready(n)
	p := place{zone: zoneOf(n), ready: r != nil && r.Status == corev1.ConditionTrue, counted: true, since: z.clock.Now()}
	if _, out := n.Labels[uncounted]; out {
		p.counted = false
	}
	if known && before.ready == p.ready {
		p.since = before.since
	}
	z.nodes[n.Name] = p
	in := z.zones[p.zone]
	if in == nil {
		in = &zone{}
		z.zones[p.zone] = in
	}
	in.add(p, 1)
	was := z.blind
	z.judge()
	return was && !z.blind
}

func (z *zones) forget(name string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.drop(name)
	z.judge()
}

func (z *zones) judge() {
	ready, down := 0, 0
	for name, in := range z.zones {
		ready, down = ready+in.ready, down+in.down
		if in.nodes == 0 {
			delete(z.zones, name)
		}
	}
	z.blind = ready == 0 && down > 0
}

// drop takes a node off the counts; its zone stays, for its pace.
func (z *zones) drop(name string) {
	p, ok := z.nodes[name]
	if !ok {
		return
	}
	delete(z.nodes, name)
	z.zones[p.zone].add(p, -1)
}

// add counts n nodes such as p.
func (in *zone) add(p place, n int) {
	in.nodes += n
	switch {
	case !p.counted:
	case p.ready:
		in.ready += n
	default:
		in.down += n
	}
}

// allBlind reports whether no node at all can be heard.
func (z *zones) allBlind() bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.blind
}

// admit reports whether a node may lose its pods now. If not, wait is when to
// ask again; zero is when something changes.
func (z *zones) admit(n *corev1.Node) (ok bool, wait time.Duration) {
	z.mu.Lock()
	defer z.mu.Unlock()
	in := z.zones[zoneOf(n)]
	if in == nil || z.blind {
		return false, 0
	}
	interval := z.interval
	total := in.ready + in.down
	if in.ready > 0 && in.down > 2 && float64(in.down)/float64(total) >= unhealthy {
		if total <= largeZone {
			return false, 0
		}
		interval *= 10
	}
	now := z.clock.Now()
	p := z.nodes[n.Name]
	if p.ready {
		return false, z.settle // what we just wrote has not come back to us
	}
	next := p.since.Add(z.settle)
	if in.next.After(next) {
		next = in.next
	}
	if now.Before(next) {
		return false, next.Sub(now)
	}
	in.next = now.Add(interval)
	return true, 0
}
