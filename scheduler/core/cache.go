package core

// cacheOf keeps what was computed for a key, for the keys used most lately.
// When full it drops the older half at once: eviction is then a rare sweep
// and use costs one map lookup.
type cacheOf[T any] struct {
	limit   int
	tick    uint64
	entries map[string]*cacheEntry[T]
}

type cacheEntry[T any] struct {
	value *T
	used  uint64
}

func newCacheOf[T any](limit int) cacheOf[T] {
	return cacheOf[T]{limit: limit, entries: map[string]*cacheEntry[T]{}}
}

// get returns the value of key, made by build when there is none.
func (c *cacheOf[T]) get(key string, build func() *T) *T {
	c.tick++
	if e, ok := c.entries[key]; ok {
		e.used = c.tick
		return e.value
	}
	if len(c.entries) >= c.limit {
		c.evict(c.tick - uint64(c.limit)/2)
	}
	e := &cacheEntry[T]{value: build(), used: c.tick}
	c.entries[key] = e
	return e.value
}

func (c *cacheOf[T]) evict(before uint64) {
	for key, e := range c.entries {
		if e.used < before {
			delete(c.entries, key)
		}
	}
}
