package expect_test

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/proa-dev/proa/controllers/internal/expect"
)

func TestTracker(t *testing.T) {
	const owner = types.UID("owner")
	for _, test := range []struct {
		name string
		do   func(*expect.Tracker, *clocktesting.FakeClock)
		want bool
	}{
		{"nothing announced", func(*expect.Tracker, *clocktesting.FakeClock) {}, true},
		{"creations to come", func(e *expect.Tracker, _ *clocktesting.FakeClock) {
			e.ExpectCreations(owner, 3)
			e.Created(owner, 2)
		}, false},
		{"all created, some failed", func(e *expect.Tracker, _ *clocktesting.FakeClock) {
			e.ExpectCreations(owner, 3)
			e.Created(owner, 1)
			e.Created(owner, 2)
		}, true},
		{"somebody else's creations", func(e *expect.Tracker, _ *clocktesting.FakeClock) {
			e.ExpectCreations(owner, 1)
			e.Created("other", 1)
		}, false},
		{"one deletion seen twice is not two", func(e *expect.Tracker, _ *clocktesting.FakeClock) {
			e.ExpectDeletions(owner, []types.UID{"a", "b"})
			e.Deleted(owner, "a")
			e.Deleted(owner, "a")
		}, false},
		{"all deleted", func(e *expect.Tracker, _ *clocktesting.FakeClock) {
			e.ExpectDeletions(owner, []types.UID{"a", "b"})
			e.Deleted(owner, "b")
			e.Deleted(owner, "a")
		}, true},
		{"a creation does not settle deletions", func(e *expect.Tracker, _ *clocktesting.FakeClock) {
			e.ExpectDeletions(owner, []types.UID{"a"})
			e.Created(owner, 1)
		}, false},
		{"an event that never comes", func(e *expect.Tracker, c *clocktesting.FakeClock) {
			e.ExpectCreations(owner, 1)
			c.Step(6 * time.Minute)
		}, true},
		{"forgotten", func(e *expect.Tracker, _ *clocktesting.FakeClock) {
			e.ExpectCreations(owner, 1)
			e.Forget(owner)
		}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := clocktesting.NewFakeClock(time.Unix(0, 0))
			e := expect.NewTracker(c)
			test.do(e, c)
			if got := e.Satisfied(owner); got != test.want {
				t.Errorf("satisfied %v", got)
			}
		})
	}
}
