package proxy

import (
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// change is the step from one state of a front to the next; old or new is nil
// for one that comes or goes.
type change struct{ old, new *front }

// state is what the kernel holds of our table.
type state struct {
	*table
	programs map[string]program // by front id
	shared   map[element]int    // how many fronts need it
	ranges   []netip.Prefix     // what strays is confined to
}

func newState(t *table) *state {
	return &state{table: t, programs: map[string]program{}, shared: map[element]int{}}
}

// put adds the changes to the open transaction. Within it, chains come before
// the elements that lead to them, and go after these.
func (s *state) put(changes []change) error {
	gone, come := map[element]bool{}, map[element]bool{}
	var removed []chainSpec
	for _, c := range changes {
		var before, after program
		if c.old != nil {
			before = s.programs[c.old.id()]
			delete(s.programs, c.old.id())
		}
		if c.new != nil {
			after = s.compile(c.new)
			s.programs[c.new.id()] = after
		}
		held := map[string]*chainSpec{}
		for i := range before.chains {
			held[before.chains[i].name] = &before.chains[i]
		}
		for _, spec := range after.chains {
			if err := s.write(spec, held[spec.name]); err != nil {
				return err
			}
			delete(held, spec.name)
		}
		for _, spec := range held {
			removed = append(removed, *spec)
		}
		for _, e := range after.elements {
			step(e, come, gone)
		}
		for _, e := range before.elements {
			step(e, gone, come)
		}
		s.count(before.shared, after.shared, gone, come)
	}
	if err := s.elements(gone, come); err != nil {
		return err
	}
	s.removeChains(removed)
	return nil
}

// confine writes the rules for packets to a cluster IP that no front took:
// refused where a Service has the address, dropped where none has it (yet).
// Passing one on would leave a flow behind, and the kernel asks the rules only
// about the first packet of a flow: for two minutes, every connection from the
// same port would miss the Service that has come meanwhile. What this machine
// holds itself, such as the address of DNS, is nobody's stray.
func (s *state) confine(ranges []netip.Prefix) {
	s.ranges = ranges
	s.conn.FlushChain(s.chains[chainStrays])
	s.refuseStrays()
	for _, r := range ranges {
		s.rule(chainStrays, s.inPrefix(s.loadDest(reg), r, expr.CmpOpEq), elsewhere(), []expr.Any{drop()})
	}
}

// step notes that e moves one way, unless that undoes the other way.
func step(e element, way, back map[element]bool) {
	if back[e] {
		delete(back, e)
	} else {
		way[e] = true
	}
}

// count keeps the shared elements' counts, and says which come and go.
func (s *state) count(before, after []element, gone, come map[element]bool) {
	for _, e := range after {
		if s.shared[e]++; s.shared[e] == 1 {
			step(e, come, gone)
		}
	}
	for _, e := range before {
		if s.shared[e]--; s.shared[e] == 0 {
			delete(s.shared, e)
			step(e, gone, come)
		}
	}
}

// elements writes what goes before what comes: a key may change its verdict.
func (s *state) elements(gone, come map[element]bool) error {
	gather := func(list map[element]bool) map[*nftables.Set][]nftables.SetElement {
		sets := map[*nftables.Set][]nftables.SetElement{}
		for e := range list {
			sets[e.set] = append(sets[e.set], e.toKernel())
		}
		return sets
	}
	for set, list := range gather(gone) {
		if err := s.conn.SetDeleteElements(set, list); err != nil {
			return fmt.Errorf("set %s: %w", set.Name, err)
		}
	}
	for set, list := range gather(come) {
		if err := s.conn.SetAddElements(set, list); err != nil {
			return fmt.Errorf("set %s: %w", set.Name, err)
		}
	}
	return nil
}

// removeChains empties all before any goes: one may lead to another.
func (s *state) removeChains(removed []chainSpec) {
	for _, spec := range removed {
		s.conn.FlushChain(s.chains[spec.name])
	}
	for _, spec := range removed {
		s.conn.DelChain(s.chains[spec.name])
		delete(s.chains, spec.name)
		if spec.affinity > 0 {
			s.conn.DelSet(s.affinityMap(spec))
		}
	}
}

// forget removes clients from affinity maps whose endpoint is gone, so that
// they are given another, and says whether there were any.
func (s *state) forget(f *front) (any bool, err error) {
	for _, c := range s.programs[f.id()].chains {
		if c.affinity == 0 {
			continue
		}
		set := s.affinityMap(c)
		held, err := s.conn.GetSetElements(set)
		if err != nil {
			return any, fmt.Errorf("set %s: %w", set.Name, err)
		}
		var stale []nftables.SetElement
		for _, e := range held {
			if !c.serves(e.Val) {
				stale = append(stale, nftables.SetElement{Key: e.Key})
			}
		}
		if len(stale) > 0 {
			any = true
			if err := s.conn.SetDeleteElements(set, stale); err != nil {
				return any, fmt.Errorf("set %s: %w", set.Name, err)
			}
		}
	}
	return any, nil
}
