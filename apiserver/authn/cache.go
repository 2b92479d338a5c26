package authn

import "sync"

// generation is how many credentials one half of a cache holds.
const generation = 4096

// cache remembers verified credentials. It keeps two generations:
// what is used moves to the young one, and when that is full the old one is
// dropped. So it is bounded and the credentials in use stay, without a list
// to maintain on every hit.
type cache[V any] struct {
	mu         sync.RWMutex
	young, old map[string]V
}

func newCache[V any]() *cache[V] {
	return &cache[V]{young: map[string]V{}}
}

func (c *cache[V]) get(key []byte) (V, bool) {
	c.mu.RLock()
	v, ok := c.young[string(key)]
	aged := false
	if !ok {
		v, aged = c.old[string(key)]
	}
	c.mu.RUnlock()
	if aged {
		c.put(key, v)
	}
	return v, ok || aged
}

func (c *cache[V]) put(key []byte, v V) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.young) >= generation {
		c.old, c.young = c.young, make(map[string]V, generation/4)
	}
	c.young[string(key)] = v
}
