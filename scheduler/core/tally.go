package core

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/labels"
)

// topologyIndex counts pods by slot for the terms that were asked about
// lately, and sums terms that pods on nodes carry. Both are kept as pods come
// and go, so that a decision adds columns up instead of looking at pods.
type topologyIndex struct {
	labels  []map[string]string // of the nodes, by slot
	domains map[string]*domains // by topology key
	tallies byNamespace[*tally]
	carried byNamespace[*carried]
	tick    uint64
	serial  uint64 // of the last carried term
}

// Bounds on what is remembered; beyond them the oldest is computed anew.
const (
	maxTallies     = 512
	maxDomainKinds = 128
)

// domains are the values of one node label as small numbers.
type domains struct {
	ids    []int32 // by slot, -1 where the node has no such label
	values map[string]int32
}

// tally counts the pods that match all of its terms.
type tally struct {
	key    string
	terms  []*term
	living bool // terminating pods do not count
	count  counts
	used   uint64
	stale  bool // no longer kept
}

// carried is one affinity term of pods on nodes.
type carried struct {
	term    *term
	id      uint64
	users   int
	apart   counts // pods that refuse the company of what matches
	nApart  int
	near    counts // pods that require it
	nNear   int
	weight  counts // sum of preferences for or against it
	nWeight int
}

// counts is one number a slot; missing ones are zero.
type counts []int64

func (c counts) at(slot int32) int64 {
	if int(slot) < len(c) {
		return c[slot]
	}
	return 0
}

func (c *counts) add(slot int32, n int64) {
	for len(*c) <= int(slot) {
		*c = append(*c, 0)
	}
	(*c)[slot] += n
}

// byNamespace finds entries by key and those that a pod of a namespace may
// concern.
type byNamespace[T any] struct {
	all   map[string]T
	named map[string]map[string]T
	wide  map[string]T // with a namespace selector
}

func newByNamespace[T any]() byNamespace[T] {
	return byNamespace[T]{all: map[string]T{}, named: map[string]map[string]T{}, wide: map[string]T{}}
}

func (b *byNamespace[T]) put(key string, v T, t *term) {
	b.all[key] = v
	if t.nsSelector != nil {
		b.wide[key] = v
		return
	}
	for _, ns := range t.namespaces {
		if b.named[ns] == nil {
			b.named[ns] = map[string]T{}
		}
		b.named[ns][key] = v
	}
}

func (b *byNamespace[T]) drop(key string, t *term) {
	delete(b.all, key)
	delete(b.wide, key)
	for _, ns := range t.namespaces {
		if delete(b.named[ns], key); len(b.named[ns]) == 0 {
			delete(b.named, ns)
		}
	}
}

func (b *byNamespace[T]) each(namespace string, f func(T)) {
	for _, v := range b.named[namespace] {
		f(v)
	}
	for _, v := range b.wide {
		f(v)
	}
}

func newTopologyIndex() topologyIndex {
	return topologyIndex{
		domains: map[string]*domains{},
		tallies: newByNamespace[*tally](),
		carried: newByNamespace[*carried](),
	}
}

func (x *topologyIndex) setLabels(slot int32, set map[string]string) {
	for len(x.labels) <= int(slot) {
		x.labels = append(x.labels, nil)
	}
	x.labels[slot] = set
	for key, d := range x.domains {
		if len(d.values) > 2*len(x.labels)+64 { // mostly values of nodes long gone
			delete(x.domains, key)
			continue
		}
		d.set(slot, set, key)
	}
}

func (x *topologyIndex) domainsOf(key string) *domains {
	d, ok := x.domains[key]
	if !ok {
		if len(x.domains) >= maxDomainKinds {
			clear(x.domains)
		}
		d = &domains{values: map[string]int32{}}
		for slot, set := range x.labels {
			d.set(int32(slot), set, key)
		}
		x.domains[key] = d
	}
	return d
}

func (d *domains) set(slot int32, set map[string]string, key string) {
	for len(d.ids) <= int(slot) {
		d.ids = append(d.ids, -1)
	}
	value, ok := set[key]
	if !ok {
		d.ids[slot] = -1
		return
	}
	id, known := d.values[value]
	if !known {
		id = int32(len(d.values))
		d.values[value] = id
	}
	d.ids[slot] = id
}

func (d *domains) at(slot int32) int32 {
	if int(slot) < len(d.ids) {
		return d.ids[slot]
	}
	return -1
}

// podChanged counts a pod in (sign 1) or out (-1).
func (x *topologyIndex) podChanged(namespaces map[string]labels.Set, pod *Pod, slot int32, sign int64) {
	x.tallies.each(pod.Object.Namespace, func(t *tally) {
		if t.counts(namespaces, pod) {
			t.count.add(slot, sign)
		}
	})
	if pod.affinity == nil {
		return
	}
	for _, t := range pod.affinity.near {
		c := x.carry(t, sign)
		c.near.add(slot, sign)
		c.nNear += int(sign)
	}
	for _, t := range pod.affinity.apart {
		c := x.carry(t, sign)
		c.apart.add(slot, sign)
		c.nApart += int(sign)
	}
	for _, w := range pod.affinity.preferred {
		c := x.carry(w.term, sign)
		c.weight.add(slot, sign*w.weight)
		c.nWeight += int(sign)
	}
}

// carry returns the entry of a term that a pod brings or takes away.
func (x *topologyIndex) carry(t *term, sign int64) *carried {
	c, ok := x.carried.all[t.key]
	if !ok {
		x.serial++
		c = &carried{term: t, id: x.serial}
		x.carried.put(t.key, c, t)
	}
	if c.users += int(sign); c.users == 0 {
		x.carried.drop(t.key, c.term)
	}
	return c
}

// forgetSelected drops the tallies that depend on labels of namespaces.
func (x *topologyIndex) forgetSelected() {
	for _, t := range x.tallies.wide {
		x.forget(t)
	}
}

func (x *topologyIndex) forget(t *tally) {
	t.stale = true
	x.tallies.drop(t.key, t.index())
}

// counts says whether the tally counts a pod. For spreading a selector of
// everything counts nothing, as upstream.
func (t *tally) counts(namespaces map[string]labels.Set, pod *Pod) bool {
	if t.living && (pod.Object.DeletionTimestamp != nil || t.terms[0].selector.Empty()) {
		return false
	}
	return matchesAll(t.terms, namespaces, pod.Object)
}

// index returns the term whose namespaces bound what the tally can count.
func (t *tally) index() *term {
	for _, x := range t.terms {
		if x.nsSelector == nil {
			return x
		}
	}
	return t.terms[0]
}

// tallyOf returns the count of pods that match every term.
func (s *Snapshot) tallyOf(living bool, terms ...*term) *tally {
	x := &s.topology
	x.tick++
	keys := make([]string, 0, len(terms)+1)
	for _, t := range terms {
		keys = append(keys, t.key)
	}
	slices.Sort(keys)
	if living {
		keys = append(keys, "living")
	}
	key := strings.Join(keys, "\x01")
	if t, ok := x.tallies.all[key]; ok {
		t.used = x.tick
		return t
	}
	if len(x.tallies.all) >= maxTallies {
		before := x.tick - maxTallies/2
		for _, t := range x.tallies.all {
			if t.used < before {
				x.forget(t)
			}
		}
	}
	t := &tally{key: key, terms: terms, living: living, used: x.tick}
	for _, at := range s.pods {
		if t.counts(s.namespaces, at.pod) {
			t.count.add(at.slot, 1)
		}
	}
	x.tallies.put(key, t, t.index())
	return t
}
