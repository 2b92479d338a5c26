package pods

import "sync"

// maxBatch bounds how many requests of one pass are under way at a time.
const maxBatch = 500

// SlowStart calls fn with 0 to n-1 in batches of 1, 2, 4, …, each concurrently,
// and stops after the first batch with a failure: what cannot work (a quota, a
// missing account) costs one request and not hundreds. It returns how often fn
// worked and the first error.
func SlowStart(n int, fn func(i int) error) (int, error) { return StartAt(1, n, fn) }

// StartAt is SlowStart with a first batch of another size, for what has been
// seen to work.
func StartAt(first, n int, fn func(i int) error) (int, error) {
	done, next := 0, 0
	for size := min(first, n, maxBatch); size > 0; size = min(2*size, n-next, maxBatch) {
		var wg sync.WaitGroup
		errs := make(chan error, size)
		for i := next; i < next+size; i++ {
			wg.Go(func() {
				if err := fn(i); err != nil {
					errs <- err
				}
			})
		}
		wg.Wait()
		next += size
		done += size - len(errs)
		if len(errs) > 0 {
			return done, <-errs
		}
	}
	return done, nil
}
