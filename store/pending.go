package store

import (
	"bytes"
	"fmt"
	"sync"

	"github.com/proa-dev/proa/api"
)

// pending joins writers with the feed: both learn the revision of a write, in
// either order, and must end up with the same Entry.
type pending struct {
	mu    sync.Mutex
	byKey map[string][]*pendingWrite
	// ahead are entries of writers that were faster than the feed.
	ahead map[int64]*Entry
	// seen is the newest revision the feed has asked for.
	seen int64
}

// pendingWrite is one write on its way to etcd.
type pendingWrite struct {
	key    string
	obj    api.Object
	value  []byte
	leased bool
	old    *Entry // set for a deletion
	entry  *Entry // once made
}

type decoder func(key string, value []byte) (api.Object, error)

func (p *pending) init() {
	p.byKey = map[string][]*pendingWrite{}
	p.ahead = map[int64]*Entry{}
}

func (p *pending) add(w *pendingWrite) {
	p.mu.Lock()
	p.byKey[w.key] = append(p.byKey[w.key], w)
	p.mu.Unlock()
}

// claimed returns w's entry and drops w if the feed has seen it happen.
func (p *pending) claimed(w *pendingWrite) *Entry {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w.entry != nil {
		p.dropLocked(w)
	}
	return w.entry
}

func (p *pending) drop(w *pendingWrite) {
	p.mu.Lock()
	p.dropLocked(w)
	p.mu.Unlock()
}

func (p *pending) dropLocked(w *pendingWrite) {
	list := p.byKey[w.key]
	for i := range list {
		if list[i] != w {
			continue
		}
		if len(list) == 1 {
			delete(p.byKey, w.key)
			return
		}
		list[i] = list[len(list)-1]
		list[len(list)-1] = nil
		p.byKey[w.key] = list[:len(list)-1]
		return
	}
}

// done is called by the writer, who was told the revision.
func (p *pending) done(w *pendingWrite, rev int64, decode decoder) (*Entry, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dropLocked(w)
	switch {
	case w.entry != nil && w.entry.Revision == rev:
		return w.entry, nil
	case w.old != nil:
		w.entry = w.old.at(rev)
	case w.entry != nil: // another process wrote the same bytes, and its event took the object
		obj, err := decode(w.key, w.value)
		if err != nil {
			return nil, fmt.Errorf("decode %s: %w", w.key, err)
		}
		w.entry = newEntry(w.key, obj, rev, w.value, w.leased)
	default:
		w.entry = newEntry(w.key, w.obj, rev, w.value, w.leased)
	}
	if rev > p.seen {
		p.ahead[rev] = w.entry
	}
	return w.entry, nil
}

// claim returns the entry of an event whose writer is in this process, nil
// for others.
func (p *pending) claim(c *change) *Entry {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen = max(p.seen, c.rev)
	if e := p.ahead[c.rev]; e != nil && e.Key == c.key {
		delete(p.ahead, c.rev)
		return e
	}
	list := p.byKey[c.key]
	if len(list) != 1 { // with several it is not clear whose it is
		return nil
	}
	w := list[0]
	switch {
	case w.entry != nil, c.deleted != (w.old != nil):
		return nil
	case c.deleted:
		w.entry = w.old.at(c.rev)
	case bytes.Equal(w.value, c.value):
		w.entry = newEntry(w.key, w.obj, c.rev, w.value, w.leased)
	}
	return w.entry
}

// forget drops entries whose events will not come, after a reload up to rev.
func (p *pending) forget(rev int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen = max(p.seen, rev)
	for r := range p.ahead {
		if r <= rev {
			delete(p.ahead, r)
		}
	}
}
