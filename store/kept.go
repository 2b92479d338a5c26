package store

import (
	"slices"
	"sync"
	"time"
)

const (
	keptCount = 16
	// keptFor is counted from the first use: who reads pages slowly, or the
	// same one again and again, is told that the list has expired.
	keptFor = 5 * time.Minute
)

// keptSnapshots are past snapshots that were rebuilt for pages of a list.
type keptSnapshots struct {
	mu   sync.Mutex
	list []kept // the latest used last
}

type kept struct {
	snap *Snapshot
	made time.Time
}

func (k *keptSnapshots) get(rev int64) *Snapshot {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i, s := range k.list {
		if s.snap.Revision == rev {
			k.list = append(append(k.list[:i:i], k.list[i+1:]...), s)
			return s.snap
		}
	}
	return nil
}

func (k *keptSnapshots) put(s *Snapshot) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.list) >= keptCount {
		k.list = k.list[1:]
	}
	k.list = append(k.list[:len(k.list):len(k.list)], kept{s, time.Now()})
}

func (k *keptSnapshots) trim(now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.list = slices.DeleteFunc(slices.Clone(k.list), func(s kept) bool { return now.Sub(s.made) > keptFor })
}
