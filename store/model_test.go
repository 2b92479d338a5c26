package store_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/watch"
	"pgregory.net/rapid"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/store"
)

// history is what happened in one namespace: the state after each revision.
type history struct {
	revisions []int64
	states    []map[string]string
}

func (h *history) at(rev int64) map[string]string {
	state := map[string]string{}
	for i, r := range h.revisions {
		if r <= rev {
			state = h.states[i]
		}
	}
	return state
}

// matching keeps the values that a selection wants.
func matching(state map[string]string, value string) map[string]string {
	out := map[string]string{}
	for k, v := range state {
		if value == "" || v == value {
			out[k] = v
		}
	}
	return out
}

// TestModel writes at random, then compares snapshots at every revision, and
// replays watches from every revision, with what a plain map says.
func TestModel(t *testing.T) {
	s := opened(t)
	r := s.Resource(configMaps())
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		ns := fmt.Sprintf("ns%d", round)
		h := &history{}
		state := map[string]string{}
		note := func(rev int64) {
			h.revisions = append(h.revisions, rev)
			h.states = append(h.states, maps.Clone(state))
		}
		start := create(t, r, fmt.Sprintf("mark-%d", round), "x").Revision
		for range rapid.IntRange(1, 20).Draw(rt, "writes") {
			name := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "name")
			value := rapid.SampledFrom([]string{"1", "2", "3"}).Draw(rt, "value")
			obj := configMap(name, value)
			obj.Namespace = ns
			old := r.Cached(ns + "/" + name)
			var e *store.Entry
			var err error
			switch {
			case old == nil:
				e, err = r.Create(t.Context(), ns+"/"+name, obj, 0)
				state[name] = value
			case rapid.Bool().Draw(rt, "delete"):
				e, err = r.Delete(t.Context(), old)
				delete(state, name)
			default:
				if e, err = r.Update(t.Context(), old, obj); e == old && state[name] == value {
					continue
				}
				state[name] = value
			}
			if err != nil {
				rt.Fatal(err)
			}
			note(e.Revision)
		}
		checkHistory(t, rt, r, ns, start, h)
	})
}

func checkHistory(t *testing.T, rt *rapid.T, r *store.Resource, ns string, start int64, h *history) {
	value := rapid.SampledFrom([]string{"", "1"}).Draw(rt, "selection")
	end := start
	if n := len(h.revisions); n > 0 {
		end = h.revisions[n-1]
	}
	for _, rev := range append([]int64{start}, h.revisions...) {
		snap, err := r.Snapshot(t.Context(), store.MatchExact, rev)
		if err != nil {
			rt.Fatal(err)
		}
		got := map[string]string{}
		snap.Ascend(ns+"/", "", func(e *store.Entry) bool {
			got[e.Object.GetName()] = e.Object.GetLabels()["v"]
			return true
		})
		if want := h.at(rev); !maps.Equal(got, want) {
			rt.Fatalf("at %d: %v, want %v", rev, got, want)
		}
		replay(t, rt, r, ns, rev, end, value, h)
	}
}

// replay applies the events since rev to the state at rev.
func replay(t *testing.T, rt *rapid.T, r *store.Resource, ns string, rev, end int64, value string, h *history) {
	opts := store.WatchOptions{Since: rev, Prefix: ns + "/"}
	if value != "" {
		opts.Match = func(o api.Object) bool { return o.GetLabels()["v"] == value }
	}
	w, err := r.Watch(opts)
	if err != nil {
		rt.Fatal(err)
	}
	defer w.Stop()
	got, want := matching(h.at(rev), value), matching(h.at(end), value)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	last := rev
	expected := 0
	for _, at := range h.revisions {
		before, after := matching(h.at(at-1), value), matching(h.at(at), value)
		if at > rev && !maps.Equal(before, after) {
			expected++
		}
	}
	var buf []store.Event
	for seen := 0; seen < expected; {
		if buf, err = w.Next(ctx, buf); err != nil {
			rt.Fatalf("after %d of %d events: %v", seen, expected, err)
		}
		for _, ev := range buf {
			name := ev.Entry.Object.GetName()
			_, had := got[name]
			if (ev.Type == watch.Added) == had || ev.Revision <= last {
				rt.Fatalf("%s of %s at %d after %d, present: %v", ev.Type, name, ev.Revision, last, had)
			}
			last = ev.Revision
			if ev.Type == watch.Deleted {
				delete(got, name)
			} else {
				got[name] = ev.Entry.Object.GetLabels()["v"]
			}
			// A change to the same value happens when an object was deleted
			// and made again.
			seen++
		}
	}
	if !maps.Equal(got, want) {
		rt.Fatalf("replay since %d: %v, want %v", rev, got, want)
	}
}

type registerOp struct {
	kind  string // read, swap
	key   string
	value string // to be written, "" deletes
	old   int64  // the revision that the swap expects, 0 for none
}

type registerResult struct {
	ok       bool
	value    string
	revision int64
}

type register struct {
	value    string
	revision int64
}

// TestLinearizable has writers and readers at a few keys at once: what they
// saw must be explained by one order of the operations.
func TestLinearizable(t *testing.T) {
	r := opened(t).Resource(configMaps())
	var mu sync.Mutex
	var ops []porcupine.Operation
	do := func(client int, in registerOp, f func() (registerResult, error)) {
		call := time.Now().UnixNano()
		out, err := f()
		ret := time.Now().UnixNano()
		if err != nil {
			t.Error(err)
			return
		}
		mu.Lock()
		ops = append(ops, porcupine.Operation{ClientId: client, Input: in, Call: call, Output: out, Return: ret})
		mu.Unlock()
	}
	var wg sync.WaitGroup
	for c := range 6 {
		wg.Go(func() {
			for i := range 40 {
				key := "ns/" + []string{"a", "b"}[(c+i)%2]
				var old *store.Entry
				do(c, registerOp{kind: "read", key: key}, func() (registerResult, error) {
					e, err := r.Latest(t.Context(), key)
					old = e
					if e == nil {
						return registerResult{}, err
					}
					return registerResult{value: e.Object.GetLabels()["v"], revision: e.Revision}, err
				})
				swap(t, r, c, i, key, old, do)
			}
		})
	}
	wg.Wait()
	if !porcupine.CheckOperations(registerModel(), ops) {
		t.Fatal("the history is not linearizable")
	}
}

func swap(t *testing.T, r *store.Resource, c, i int, key string, old *store.Entry, do func(int, registerOp, func() (registerResult, error))) {
	in := registerOp{kind: "swap", key: key, value: fmt.Sprintf("%d-%d", c, i)}
	obj := configMap(key[len("ns/"):], in.value)
	if old != nil {
		in.old = old.Revision
		if i%7 == 0 {
			in.value = ""
		}
	}
	do(c, in, func() (registerResult, error) {
		var e *store.Entry
		var err error
		switch {
		case old == nil:
			e, err = r.Create(t.Context(), key, obj, 0)
		case in.value == "":
			e, err = r.Delete(t.Context(), old)
		default:
			e, err = r.Update(t.Context(), old, obj)
		}
		if errors.Is(err, store.ErrChanged) || apierrors.IsAlreadyExists(err) {
			return registerResult{}, nil
		}
		if err != nil {
			return registerResult{}, err
		}
		return registerResult{ok: true, revision: e.Revision}, nil
	})
}

func registerModel() porcupine.Model {
	return porcupine.Model{
		Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
			byKey := map[string][]porcupine.Operation{}
			for _, op := range history {
				k := op.Input.(registerOp).key
				byKey[k] = append(byKey[k], op)
			}
			return slices.Collect(maps.Values(byKey))
		},
		Init: func() any { return register{} },
		Step: func(state, input, output any) (bool, any) {
			s, in, out := state.(register), input.(registerOp), output.(registerResult)
			switch {
			case in.kind == "read":
				return out.value == s.value && out.revision == s.revision, s
			case out.ok && in.value == "":
				return s.revision == in.old, register{}
			case out.ok:
				return s.revision == in.old && out.revision > s.revision, register{in.value, out.revision}
			}
			return s.revision != in.old, s
		},
		Equal: func(a, b any) bool { return a == b },
	}
}
