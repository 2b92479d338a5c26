package core

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Diagnosis is why a pod fits no node.
type Diagnosis struct {
	// Failed are the filters that kept it off some node.
	Failed FilterSet

	refusal    string // that holds for all nodes
	nodes      int
	counts     map[string]int
	candidates []int32 // slots where other pods' leaving might help
}

// noNodes is the message while the cluster has no node at all.
const noNodes = "no nodes available to schedule pods"

// NoNodes says that there is none, and so nobody to drive out.
func (d *Diagnosis) NoNodes() bool { return d.nodes == 0 }

// Message is upstream's text: how many nodes failed for which reason.
func (d *Diagnosis) Message() string {
	switch {
	case d.refusal == noNodes:
		return noNodes
	case d.refusal != "":
		return fmt.Sprintf("0/%d nodes are available: %s.", d.nodes, d.refusal)
	}
	return tell(d.nodes, d.counts)
}

// Rejected is a node that fits but for somebody outside who turned it down.
type Rejected struct {
	Node, Reason string
	// Hopeless says that driving pods out would not change that.
	Hopeless bool
}

// Reject makes the diagnosis of a pod whose feasible nodes were all turned
// down by extenders.
func (s *Snapshot) Reject(p *Pod, rejected []Rejected) *Diagnosis {
	a, d := s.attemptOf(p)
	if d != nil {
		return d
	}
	d = a.diagnose()
	d = &Diagnosis{Failed: d.Failed.With(Extenders), nodes: d.nodes, counts: maps.Clone(d.counts), candidates: slices.Clone(d.candidates)}
	for _, r := range rejected {
		slot, ok := s.slots[r.Node]
		if !ok {
			continue
		}
		d.counts[r.Reason]++
		if r.Hopeless {
			d.candidates = slices.DeleteFunc(d.candidates, func(c int32) bool { return c == slot })
		} else if !slices.Contains(d.candidates, slot) {
			d.candidates = append(d.candidates, slot)
		}
	}
	return d
}

// refuse is the diagnosis of a pod that something keeps off every node.
func (s *Snapshot) refuse(f Filter, reason string) *Diagnosis {
	return &Diagnosis{Failed: FilterSet(0).With(f), nodes: s.live, refusal: reason}
}

// diagnose counts the reasons. Pods of a group share it until something
// changes.
func (a *attempt) diagnose() *Diagnosis {
	s, g := a.s, a.group
	shared := a.claims == nil && a.devices == nil && g.built && len(s.nominated) == 0
	if shared && g.diagnosis != nil {
		return g.diagnosis
	}
	d := &Diagnosis{nodes: s.live, counts: map[string]int{}}
	for i := range s.nodes {
		if s.nodes[i].node == nil {
			continue
		}
		slot := int32(i)
		if !a.allows(slot) {
			d.counts["node(s) didn't satisfy plugin(s) [NodeAffinity]"]++
			d.Failed = d.Failed.With(NodeAffinity)
			continue
		}
		f, reasons, hopeless := a.explain(slot)
		if f == Fits {
			continue
		}
		for _, r := range reasons {
			d.counts[r]++
		}
		d.Failed = d.Failed.With(f)
		if !hopeless {
			d.candidates = append(d.candidates, slot)
		}
	}
	if shared {
		g.diagnosis = d
	}
	return d
}

// explain says which filter a slot fails, in upstream's words: with the pods
// that are nominated to it first.
func (a *attempt) explain(slot int32) (f Filter, reasons []string, hopeless bool) {
	if f, reasons, hopeless, any := a.besideNominated(slot); any && f != Fits {
		return f, reasons, hopeless
	}
	return a.now(slot, false)
}

// tell makes the message: the counted reasons in alphabetical order.
func tell(nodes int, counts map[string]int) string {
	parts := make([]string, 0, len(counts))
	for reason, n := range counts {
		parts = append(parts, fmt.Sprintf("%d %s", n, reason))
	}
	slices.Sort(parts)
	out := fmt.Sprintf("0/%d nodes are available:", nodes)
	if len(parts) > 0 {
		out += " " + strings.Join(parts, ", ") + "."
	}
	return out
}
