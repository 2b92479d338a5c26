package stats

import (
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/utils/clock"
)

// A request waits once for all that is not known yet, not for one after the
// other.
func TestPatience(t *testing.T) {
	dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	synctest.Test(t, func(t *testing.T) {
		w := newWalks(t.Context(), clock.RealClock{})
		for range walkers {
			w.slots <- struct{}{} // others are measured, and take long
		}
		begin := time.Now()
		for _, dir := range dirs {
			if _, known := w.size(t.Context(), dir, begin.Add(walkPatience)); known {
				t.Error("known before it is measured")
			}
		}
		if took := time.Since(begin); took != walkPatience {
			t.Errorf("waited %s for three", took)
		}
		for range walkers {
			<-w.slots
		}
		for _, dir := range dirs {
			if got, known := w.size(t.Context(), dir, time.Now().Add(walkPatience)); !known || got.Inodes != 1 {
				t.Errorf("%+v, %v", got, known)
			}
		}
		w.wg.Wait()
	})
}
