package queue_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/proa-dev/proa/scheduler/core"
	"github.com/proa-dev/proa/scheduler/queue"
)

func pod(name string, priority int32) *core.Pod {
	return core.NewPod(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}, Spec: corev1.PodSpec{Priority: &priority}}, core.DefaultProfile())
}

var begin = time.Unix(1000, 0)

func pop(t *testing.T, q *queue.Queue, now time.Time, want string) *queue.Item {
	t.Helper()
	it := q.Pop(now)
	got := ""
	if it != nil {
		got = it.Pod.Object.Name
	}
	if got != want {
		t.Fatalf("popped %q, want %q", got, want)
	}
	return it
}

func TestOrder(t *testing.T) {
	q := queue.New(0, 0)
	q.Add(pod("late", 0), begin.Add(time.Second))
	q.Add(pod("early", 0), begin)
	q.Add(pod("high", 5), begin.Add(2*time.Second))
	q.Add(pod("deleted", 9), begin)
	q.Delete("deleted")
	for _, want := range []string{"high", "early", "late", ""} {
		pop(t, q, begin.Add(3*time.Second), want)
	}
}

// A pod that failed waits for an event; its backoff grows, yet costs nothing
// while there is nothing else to do.
func TestFailAndWake(t *testing.T) {
	q := queue.New(0, 0)
	q.Add(pod("p", 0), begin)
	it := pop(t, q, begin, "p")
	q.Fail(it, core.FilterSet(0).With(core.NodePorts), begin)
	pop(t, q, begin.Add(time.Minute), "")
	q.Wake(begin, "", func(it *queue.Item) bool { return it.Failed.Has(core.NodeAffinity) })
	pop(t, q, begin, "")
	q.Wake(begin, "", func(it *queue.Item) bool { return it.Failed.Has(core.NodePorts) })
	q.Add(pod("other", 0), begin)
	pop(t, q, begin, "other")
	pop(t, q, begin, "p")
}

// When room for one wakes many, the others do not all try in vain at once.
func TestHerd(t *testing.T) {
	q := queue.New(0, 0)
	for _, name := range []string{"a", "b", "c"} {
		q.Add(pod(name, 0), begin)
		q.Fail(pop(t, q, begin, name), 0, begin)
	}
	q.Wake(begin, "", func(*queue.Item) bool { return true })
	first := q.Pop(begin) // finds the room
	second := q.Pop(begin)
	if first == nil || second == nil {
		t.Fatal("nobody is taken early")
	}
	q.Fail(second, 0, begin)
	pop(t, q, begin, "")
	next := q.Next()
	if wait := next.Sub(begin); wait <= 0 || wait >= time.Second {
		t.Errorf("the next is taken after %v", wait)
	}
	if q.Pop(next) == nil {
		t.Error("nobody is taken at the time that was told")
	}
}

func TestBackoffAfterErrors(t *testing.T) {
	q := queue.New(0, 0)
	q.Add(pod("p", 0), begin)
	now := begin
	for _, seconds := range []int{1, 2, 4, 8, 10, 10} {
		wait := time.Duration(seconds) * time.Second
		it := pop(t, q, now, "p")
		q.Retry(it, now)
		end := now.Add(wait)
		if next := q.Next(); !next.Equal(end) {
			t.Fatalf("next at %v, want %v", next.Sub(now), wait)
		}
		pop(t, q, end.Add(-1), "")
		now = end
	}
	pop(t, q, now, "p")
}

func TestForgottenPodsAreTriedAgain(t *testing.T) {
	q := queue.New(0, 0)
	for i, name := range []string{"a", "b"} {
		now := begin.Add(time.Duration(i) * time.Minute)
		q.Add(pod(name, 0), now)
		q.Fail(pop(t, q, now, name), 0, now)
	}
	end := begin.Add(queue.MaxUnschedulable)
	if next := q.Next(); !next.Equal(end) {
		t.Fatalf("next at %v, want %v", next, end)
	}
	pop(t, q, end.Add(-1), "")
	pop(t, q, end, "a")
	pop(t, q, end, "")
	pop(t, q, q.Next(), "b")
}

func TestUpdateOfAWaitingPod(t *testing.T) {
	q := queue.New(0, 0)
	q.Add(pod("p", 0), begin)
	q.Add(pod("q", 1), begin)
	q.Update(pod("p", 2), false, begin)
	q.Fail(pop(t, q, begin, "p"), 0, begin)
	q.Update(pod("p", 2), false, begin)
	pop(t, q, begin, "q")
	pop(t, q, begin, "")
	q.Update(pod("p", 2), true, begin.Add(time.Second))
	pop(t, q, begin.Add(time.Second), "p")
}
