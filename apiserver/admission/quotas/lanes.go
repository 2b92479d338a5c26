package quotas

import (
	"context"
	"sync"
)

// lanes lets the requests of one namespace be decided together: whoever has
// the turn decides on all that wait.
type lanes struct {
	mu   sync.Mutex
	byNS map[string]*lane
}

type lane struct {
	turn    chan struct{} // holds a token while nobody has the turn
	waiting []*waiter     // guarded by lanes.mu
	users   int           // who waits or decides, guarded by lanes.mu
}

type waiter struct {
	request *request
	decided chan struct{} // closed when it is
}

// do has r decided, by decide or by whoever has the turn before. A request
// whose context ends first may be charged all the same, as one whose write
// fails is.
func (l *lanes) do(ctx context.Context, namespace string, r *request, decide func([]*request)) error {
	w := &waiter{request: r, decided: make(chan struct{})}
	mine := l.join(namespace, w)
	defer l.leave(namespace, mine)
	select {
	case <-w.decided:
	case <-mine.turn:
		batch := l.take(mine)
		requests := make([]*request, len(batch))
		for i, b := range batch {
			requests[i] = b.request
		}
		if len(batch) > 0 {
			decide(requests)
		}
		for _, b := range batch {
			close(b.decided)
		}
		mine.turn <- struct{}{}
		<-w.decided // in this batch, or in one before
	case <-ctx.Done():
		return ctx.Err()
	}
	return r.err
}

func (l *lanes) join(namespace string, w *waiter) *lane {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.byNS == nil {
		l.byNS = map[string]*lane{}
	}
	mine := l.byNS[namespace]
	if mine == nil {
		mine = &lane{turn: make(chan struct{}, 1)}
		mine.turn <- struct{}{}
		l.byNS[namespace] = mine
	}
	mine.users++
	mine.waiting = append(mine.waiting, w)
	return mine
}

func (l *lanes) take(mine *lane) []*waiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	batch := mine.waiting
	mine.waiting = nil
	return batch
}

func (l *lanes) leave(namespace string, mine *lane) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if mine.users--; mine.users == 0 {
		delete(l.byNS, namespace)
	}
}
