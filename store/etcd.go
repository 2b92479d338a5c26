package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
)

// etcd is the connection to etcd: a member in this process, or an outside
// cluster (member is nil).
type etcd struct {
	client *clientv3.Client
	member *embed.Etcd
	kv     pb.KVServer // of member: what a client of another process would talk to
	log    *slog.Logger
	// stopping quiets etcd's log.
	stopping *atomic.Bool

	reads coalesced
	// askProgress makes an outside etcd report how far the watch is.
	askProgress atomic.Pointer[func()]
}

// rawChange is one event, or one stored pair, as etcd gives it.
type rawChange struct {
	key, value []byte
	rev        int64
	lease      int64
	deleted    bool
}

func openEtcd(ctx context.Context, cfg Config) (*etcd, error) {
	if len(cfg.Endpoints) > 0 {
		return connectEtcd(ctx, cfg)
	}
	return startMember(ctx, cfg)
}

func (e *etcd) close() error {
	e.stopping.Store(true)
	err := e.client.Close()
	if errors.Is(err, context.Canceled) {
		err = nil // what an in-process client says
	}
	if e.member != nil {
		e.member.Close()
	}
	return err
}

// write is one put or delete under the condition that the key's revision is
// expect, 0 for an absent key.
type write struct {
	key       string
	value     []byte
	expect    int64
	remove    bool
	lease     clientv3.LeaseID
	keepLease bool
}

// commit carries out w. ok is false when the condition did not hold.
func (e *etcd) commit(ctx context.Context, w write) (rev int64, ok bool, err error) {
	if e.member != nil {
		return e.commitMember(ctx, w)
	}
	var op clientv3.Op
	switch {
	case w.remove:
		op = clientv3.OpDelete(w.key)
	case w.keepLease:
		op = clientv3.OpPut(w.key, string(w.value), clientv3.WithIgnoreLease())
	case w.lease != 0:
		op = clientv3.OpPut(w.key, string(w.value), clientv3.WithLease(w.lease))
	default:
		op = clientv3.OpPut(w.key, string(w.value))
	}
	resp, err := e.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(w.key), "=", w.expect)).Then(op).Commit()
	if err != nil {
		return 0, false, err
	}
	return resp.Header.Revision, resp.Succeeded, nil
}

// currentRevision is at least the revision of every write acknowledged before
// the call. Our member knows it without asking anybody: it listens for no
// peers, so that nothing is acknowledged anywhere that it has not applied.
func (e *etcd) currentRevision(ctx context.Context) (int64, error) {
	if e.member != nil {
		return e.member.Server.KV().Rev(), nil
	}
	return e.readRevision(ctx)
}

// readRevision asks by a linearizable read, one for all who wait.
func (e *etcd) readRevision(ctx context.Context) (int64, error) {
	return e.reads.do(ctx, func(ctx context.Context) (int64, error) {
		resp, err := e.client.Get(ctx, root, clientv3.WithCountOnly(), clientv3.WithLimit(1))
		if err != nil {
			return 0, err
		}
		return resp.Header.Revision, nil
	})
}

// readAll returns all pairs under prefix at one revision.
func (e *etcd) readAll(ctx context.Context, prefix string) (rev int64, out []rawChange, err error) {
	end := clientv3.GetPrefixRangeEnd(prefix)
	for from := prefix; ; {
		opts := []clientv3.OpOption{clientv3.WithRange(end), clientv3.WithLimit(pageSize)}
		if rev > 0 {
			opts = append(opts, clientv3.WithRev(rev))
		}
		resp, err := e.client.Get(ctx, from, opts...)
		if err != nil {
			return 0, nil, fmt.Errorf("read %s: %w", prefix, err)
		}
		if rev == 0 {
			rev = resp.Header.Revision
		}
		for _, kv := range resp.Kvs {
			out = append(out, rawChange{key: kv.Key, value: kv.Value, rev: kv.ModRevision, lease: kv.Lease})
		}
		if !resp.More || len(resp.Kvs) == 0 {
			return rev, out, nil
		}
		from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

// watch calls fn with everything that happens from a revision on, until ctx
// ends or the watch breaks (errCompacted when history is missing).
func (e *etcd) watch(ctx context.Context, from int64, fn func(batch []rawChange, rev int64)) error {
	if e.member != nil {
		return e.watchMember(ctx, from, fn)
	}
	return e.watchOutside(ctx, from, fn)
}

func rawChangeOf(ev *mvccpb.Event) rawChange {
	return rawChange{
		key:     ev.Kv.Key,
		value:   ev.Kv.Value,
		rev:     ev.Kv.ModRevision,
		lease:   ev.Kv.Lease,
		deleted: ev.Type == mvccpb.Event_DELETE,
	}
}

// coalesced lets one call serve all who asked before it began.
type coalesced struct {
	mu      sync.Mutex
	next    *sharedRead
	running bool
}

type sharedRead struct {
	done chan struct{}
	rev  int64
	err  error
}

func (c *coalesced) do(ctx context.Context, read func(context.Context) (int64, error)) (int64, error) {
	c.mu.Lock()
	if c.next == nil {
		c.next = &sharedRead{done: make(chan struct{})}
	}
	mine := c.next
	if !c.running {
		c.running = true
		// Not the first caller's alone: it goes on when that one leaves.
		go c.run(context.WithoutCancel(ctx), read)
	}
	c.mu.Unlock()
	select {
	case <-mine.done:
		return mine.rev, mine.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func (c *coalesced) run(ctx context.Context, read func(context.Context) (int64, error)) {
	for {
		c.mu.Lock()
		s := c.next
		c.next = nil
		if s == nil {
			c.running = false
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		limited, cancel := context.WithTimeout(ctx, catchUpTimeout)
		s.rev, s.err = read(limited)
		cancel()
		close(s.done)
	}
}
