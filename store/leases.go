package store

import (
	"context"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// leases shares one etcd lease among the objects with the same time to live
// that are written within a minute: a lease each would cost a transaction
// each. Objects may so live a little longer than asked, never shorter.
type leases struct {
	grant func(ctx context.Context, ttl int64) (clientv3.LeaseID, error)

	mu   sync.Mutex
	byTT map[int64]*lease
}

type lease struct {
	id    clientv3.LeaseID
	until time.Time // when it is too old for further objects
	count int
}

const (
	leaseObjects = 1000
	leaseReuse   = time.Minute
)

func (l *leases) get(ctx context.Context, ttl int64) (clientv3.LeaseID, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if have := l.byTT[ttl]; have != nil && have.count < leaseObjects && now.Before(have.until) {
		have.count++
		return have.id, nil
	}
	// A short life is not stretched by much.
	reuse := min(leaseReuse, time.Duration(ttl)*time.Second/20)
	id, err := l.grant(ctx, ttl+int64((reuse+time.Second-1)/time.Second))
	if err != nil {
		return 0, err
	}
	if l.byTT == nil || len(l.byTT) > 100 {
		l.byTT = map[int64]*lease{}
	}
	l.byTT[ttl] = &lease{id: id, until: now.Add(reuse), count: 1}
	return id, nil
}

func (e *etcd) grantLease(ctx context.Context, ttl int64) (clientv3.LeaseID, error) {
	resp, err := e.client.Grant(ctx, ttl)
	if err != nil {
		return 0, err
	}
	return resp.ID, nil
}
