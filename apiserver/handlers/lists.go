package handlers

import (
	"slices"
	"sync"
	"weak"

	"github.com/proa-dev/proa/apiserver/codec"
)

const (
	// joinAbove is the size from which the items of a list are worth keeping in
	// one piece.
	joinAbove = 256 << 10
	keptLists = 8
)

// listBodies are the items of large lists as they were sent last. Many clients
// that list the same at a time, as after a restart, then share one body. It is
// there for as long as somebody sends it or the garbage collector takes; a
// list that nobody asks for twice is never joined.
type listBodies struct {
	mu    sync.Mutex
	once  [keptLists]any // lists that were asked for
	known [keptLists]knownList
	next  int
}

type knownList struct {
	same any // registry.Found.Same
	body weak.Pointer[listBody]
}

type listBody struct{ items codec.Parts } // one piece

// get returns the items of the list that same stands for; collect is called
// where they are not known.
func (l *listBodies) get(same any, collect func() (codec.Parts, error)) (codec.Parts, error) {
	l.mu.Lock()
	for i := range l.known {
		if l.known[i].same == same {
			if b := l.known[i].body.Value(); b != nil {
				l.mu.Unlock()
				return b.items, nil
			}
		}
	}
	if !slices.Contains(l.once[:], same) {
		l.once[l.next%keptLists] = same
		l.next++
		l.mu.Unlock()
		return collect()
	}
	defer l.mu.Unlock() // who wants the same waits for it
	items, err := collect()
	if err != nil || items.Size() < joinAbove {
		return items, err
	}
	b := &listBody{codec.Parts{items.Join()}}
	l.known[l.next%keptLists] = knownList{same, weak.Make(b)}
	l.next++
	return b.items, nil
}
