package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// connectEtcd connects to an etcd cluster of the user's.
func connectEtcd(ctx context.Context, cfg Config) (*etcd, error) {
	stopping := &atomic.Bool{}
	cc := clientv3.Config{
		Endpoints:            cfg.Endpoints,
		DialTimeout:          10 * time.Second,
		DialKeepAliveTime:    30 * time.Second,
		DialKeepAliveTimeout: 10 * time.Second,
		Logger:               zap.New(newLogCore(cfg.Logger, stopping), zap.WithFatalHook(newFatalHook())),
	}
	// gRPC's own waits grow to two minutes: a cluster is to go on soon after
	// its etcd does.
	params := grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: 5 * time.Second}
	params.Backoff.BaseDelay, params.Backoff.MaxDelay = 100*time.Millisecond, 3*time.Second
	cc.DialOptions = []grpc.DialOption{grpc.WithConnectParams(params)}
	if cfg.CAFile != "" || cfg.CertFile != "" || strings.HasPrefix(cfg.Endpoints[0], "https://") {
		info := transport.TLSInfo{TrustedCAFile: cfg.CAFile, CertFile: cfg.CertFile, KeyFile: cfg.KeyFile}
		tls, err := info.ClientConfig()
		if err != nil {
			return nil, fmt.Errorf("store: TLS files of etcd: %w", err)
		}
		cc.TLS = tls
	}
	client, err := clientv3.New(cc)
	if err != nil {
		return nil, fmt.Errorf("store: connect to etcd at %s: %w", strings.Join(cfg.Endpoints, ", "), err)
	}
	return &etcd{client: client, log: cfg.Logger, stopping: stopping}, nil
}

// watchOutside watches our keys alone: the cluster may have other users.
func (e *etcd) watchOutside(ctx context.Context, from int64, fn func([]rawChange, int64)) error {
	watcher := clientv3.NewWatcher(e.client)
	defer watcher.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ctx = clientv3.WithRequireLeader(ctx)
	ask := func() {
		if err := watcher.RequestProgress(ctx); err != nil && ctx.Err() == nil {
			e.log.Debug("cannot ask etcd for the progress of the watch", "err", err)
		}
	}
	e.askProgress.Store(&ask)
	defer e.askProgress.Store(nil)
	responses := watcher.Watch(ctx, root,
		clientv3.WithPrefix(), clientv3.WithRev(from), clientv3.WithProgressNotify())
	for resp := range responses {
		if err := resp.Err(); err != nil {
			if resp.CompactRevision != 0 || errors.Is(err, rpctypes.ErrCompacted) {
				return errCompacted
			}
			return err
		}
		switch {
		case len(resp.Events) > 0:
			batch := make([]rawChange, len(resp.Events))
			for i, ev := range resp.Events {
				batch[i] = rawChangeOf(ev)
			}
			fn(batch, batch[len(batch)-1].rev)
		case resp.IsProgressNotify():
			fn(nil, resp.Header.Revision)
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errors.New("the watch channel was closed")
}

// reach waits until the feed has rev, which etcd has already. In an outside
// etcd others' keys raise the revision too, which only a progress report
// tells us.
func (s *Store) reach(ctx context.Context, rev int64) error {
	if s.etcd.member != nil {
		return s.feed.wait(ctx, rev)
	}
	for wait := 5 * time.Millisecond; ; wait = min(4*wait, time.Second) {
		part, cancel := context.WithTimeout(ctx, wait)
		err := s.feed.wait(part, rev)
		cancel()
		if err == nil || ctx.Err() != nil {
			return err
		}
		if ask := s.etcd.askProgress.Load(); ask != nil {
			(*ask)()
		}
	}
}
