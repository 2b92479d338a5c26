package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3rpc"
	"go.etcd.io/etcd/server/v3/storage/mvcc"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

const (
	defaultQuota = 8 << 30
	// A socket's path has at most 107 bytes on Linux.
	maxSocketPath = 107
)

// startMember runs etcd in this process. Clients of other processes (backup
// tools) find it at <data-dir>/etcd/client.sock; it opens no port.
func startMember(ctx context.Context, cfg Config) (*etcd, error) {
	dir := filepath.Join(cfg.DataDir, "etcd")
	if err := checkDir(dir); err != nil {
		return nil, err
	}
	stopping := &atomic.Bool{}
	fatal := newFatalHook()
	ec := memberConfig(dir, cfg.Quota, zap.New(newLogCore(cfg.Logger, stopping), zap.WithFatalHook(fatal)))
	type result struct {
		member *embed.Etcd
		err    error
	}
	started := make(chan result, 1)
	go func() {
		var res result
		defer func() {
			if p := recover(); p != nil { // what etcd logs as fatal, or worse
				res.err = fatal.explain(p)
			}
			started <- res
		}()
		res.member, res.err = embed.StartEtcd(ec)
	}()
	var member *embed.Etcd
	select {
	case res := <-started:
		if res.err != nil {
			return nil, fmt.Errorf("store: start etcd in %s: %w", dir, res.err)
		}
		member = res.member
	case <-ctx.Done():
		go func() {
			if res := <-started; res.member != nil {
				res.member.Close()
			}
		}()
		return nil, fmt.Errorf("store: start etcd in %s: %w", dir, ctx.Err())
	}
	select {
	case <-member.Server.ReadyNotify():
	case <-member.Server.StopNotify():
		member.Close()
		return nil, fmt.Errorf("store: etcd in %s stopped while it was starting", dir)
	case <-ctx.Done():
		member.Close()
		return nil, fmt.Errorf("store: etcd in %s did not become ready: %w", dir, ctx.Err())
	}
	return &etcd{client: v3client.New(member.Server), member: member, kv: v3rpc.NewQuotaKVServer(member.Server), log: cfg.Logger, stopping: stopping}, nil
}

func memberConfig(dir string, quota int64, log *zap.Logger) *embed.Config {
	ec := embed.NewConfig()
	ec.Name = "proa"
	ec.Dir = dir
	// Nobody listens at the peer URL: a single member has no peers.
	peer := url.URL{Scheme: "http", Host: "127.0.0.1:2380"}
	ec.ListenPeerUrls = nil
	ec.AdvertisePeerUrls = []url.URL{peer}
	ec.InitialCluster = ec.InitialClusterFromName(ec.Name)
	ec.ListenClientUrls, ec.AdvertiseClientUrls = nil, nil
	if sock := filepath.Join(dir, "client.sock"); len(sock) <= maxSocketPath {
		u := url.URL{Scheme: "unix", Path: sock}
		ec.ListenClientUrls, ec.AdvertiseClientUrls = []url.URL{u}, []url.URL{u}
	}
	ec.EnableGRPCGateway = false
	// A single member waits for nobody: short ticks only make it elect itself
	// soon after the start.
	ec.TickMs, ec.ElectionMs = 20, 100
	if quota == 0 {
		quota = defaultQuota
	}
	ec.QuotaBackendBytes = quota
	ec.MaxTxnOps = 1024
	// The entries of the log since the last snapshot are kept in memory.
	ec.SnapshotCount = 10_000
	ec.SnapshotCatchUpEntries = 1000
	ec.AutoCompactionMode, ec.AutoCompactionRetention = embed.CompactorModePeriodic, "0" // upkeep does it
	ec.WarningApplyDuration = time.Second
	ec.WarningUnaryRequestDuration = 3 * time.Second
	ec.ZapLoggerBuilder = embed.NewZapLoggerBuilder(log)
	return ec
}

// checkDir refuses what is not, or cannot be, etcd's directory, with a better
// explanation than etcd's.
func checkDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("store: data directory: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return fmt.Errorf("store: data directory: %w", err)
	}
	probe, err := os.CreateTemp(dir, ".writable-*")
	if err != nil {
		return fmt.Errorf("store: data directory %s is not writable: %w", dir, err)
	}
	probe.Close()
	if err := os.Remove(probe.Name()); err != nil {
		return fmt.Errorf("store: data directory: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("store: data directory: %w", err)
	}
	for _, e := range entries {
		switch e.Name() {
		case "member", "client.sock", "lost+found":
		default:
			return fmt.Errorf("store: %s holds %q, which is not etcd's: is it another program's directory?", dir, e.Name())
		}
	}
	db := filepath.Join(dir, "member", "snap", "db")
	if err := checkLock(db); err != nil {
		return err
	}
	return checkFile(db)
}

// checkLock fails at once where etcd would wait for ever for its file.
func checkLock(db string) error {
	f, err := os.OpenFile(db, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("store: %s is in use by another process: %w", db, err)
	}
	return nil
}

// checkFile opens the database once, for reading: etcd would end the process
// over one that is damaged.
func checkFile(file string) (err error) {
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	defer func() {
		if p := recover(); p != nil { // what bbolt says to a page that makes no sense
			err = damaged(file, fmt.Errorf("%v", p))
		}
	}()
	db, err := bbolt.Open(file, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return damaged(file, err)
	}
	return db.Close()
}

func damaged(path string, err error) error {
	return fmt.Errorf("store: %s is damaged (%w): restore a snapshot of etcd, or remove the folder etcd to begin with an empty cluster", path, err)
}

// commitMember is commit below etcd's client, which copies what it is given.
func (e *etcd) commitMember(ctx context.Context, w write) (rev int64, ok bool, err error) {
	t := &txn{}
	resp, err := e.kv.Txn(ctx, t.of(w))
	if err != nil {
		return 0, false, err
	}
	return resp.Header.Revision, resp.Succeeded, nil
}

// txn is what a write's transaction is made of, in one piece.
type txn struct {
	request  pb.TxnRequest
	compare  pb.Compare
	revision pb.Compare_ModRevision
	compares [1]*pb.Compare
	op       pb.RequestOp
	ops      [1]*pb.RequestOp
	putOp    pb.RequestOp_RequestPut
	put      pb.PutRequest
	removeOp pb.RequestOp_RequestDeleteRange
	remove   pb.DeleteRangeRequest
}

// of fills t: the write happens if its key is as it was read.
func (t *txn) of(w write) *pb.TxnRequest {
	key := []byte(w.key)
	t.revision.ModRevision = w.expect
	t.compare.Key, t.compare.Target, t.compare.Result, t.compare.TargetUnion = key, pb.Compare_MOD, pb.Compare_EQUAL, &t.revision
	if w.remove {
		t.remove.Key = key
		t.removeOp.RequestDeleteRange = &t.remove
		t.op.Request = &t.removeOp
	} else {
		t.put.Key, t.put.Value, t.put.Lease, t.put.IgnoreLease = key, w.value, int64(w.lease), w.keepLease
		t.putOp.RequestPut = &t.put
		t.op.Request = &t.putOp
	}
	t.compares[0], t.ops[0] = &t.compare, &t.op
	t.request.Compare, t.request.Success = t.compares[:], t.ops[:]
	return &t.request
}

// watchMember reads the watch stream of the member itself, below its client
// and server: one channel instead of four.
func (e *etcd) watchMember(ctx context.Context, from int64, fn func([]rawChange, int64)) error {
	stream := e.member.Server.KV().NewWatchStream()
	defer stream.Close()
	// All keys: whatever raises the revision then raises the feed's.
	if _, err := stream.Watch(ctx, 0, []byte{0}, []byte{}, from); err != nil {
		return err
	}
	for {
		select {
		case resp, ok := <-stream.Chan():
			if !ok {
				return errors.New("the watch stream of etcd was closed")
			}
			if err := deliver(resp, stream.Chan(), fn); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		case <-e.member.Server.StopNotify():
			return errors.New("etcd stopped")
		}
	}
}

// deliver hands on a response, and with it those that wait behind it: each is
// one transaction, and in busy times several come before we do.
func deliver(resp mvcc.WatchResponse, more <-chan mvcc.WatchResponse, fn func([]rawChange, int64)) error {
	var batch []rawChange
	var rev int64
	for ok := true; ok; {
		if resp.CompactRevision != 0 {
			if len(batch) > 0 {
				fn(batch, rev)
			}
			return errCompacted
		}
		for _, ev := range resp.Events {
			batch = append(batch, rawChangeOf(ev))
		}
		// Not resp.Revision: a response to a watch that lags holds only a part
		// of what there is up to it.
		if len(batch) == 0 {
			rev = resp.Revision
		} else {
			rev = batch[len(batch)-1].rev
		}
		ok = false
		if len(batch) < maxBatch {
			select {
			case resp, ok = <-more: // when it is closed, the next read says so
			default:
			}
		}
	}
	fn(batch, rev)
	return nil
}
