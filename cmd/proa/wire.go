package main

import (
	"context"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"

	"github.com/proa-dev/proa/internal/lifecycle"
	"github.com/proa-dev/proa/scheduler"
)

// serverConfig is the flags, checked and completed.
type serverConfig struct {
	serverOptions
	scheduling          scheduler.Config
	services            netip.Prefix
	apiAddr             netip.Addr
	portFirst, portLast int32
	mode                fs.FileMode
}

// runServer runs every component of a server, in start order:
//
//	etcd ─> API server ─> its first objects ─> controllers ─> scheduler
//	                      └─> containerd ─> pod network ─> kubelet ─> Services ─> DNS
//
// Each needs those before it. They stop in the opposite order; containers and
// the rules of the network stay.
func runServer(ctx context.Context, cfg *serverConfig) error {
	spareProcessor()
	defer runtime.KeepAlive(reserve())
	busy, calm := context.WithCancel(ctx)
	defer calm()
	go watchGC(busy)
	held, err := openDataDir(cfg.dataDir)
	if err != nil {
		return err
	}
	defer held.Close()
	if err := os.MkdirAll(cfg.runDir, 0o700); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	p, err := newControlPlane(ctx, cfg)
	if err != nil {
		return err
	}
	defer p.close()
	components := []lifecycle.Component{
		{Name: "certificates", Run: p.runCertificates},
		{Name: "apiserver", Run: p.runAPIServer},
		{Name: "bootstrap", Run: p.runBootstrap},
		{Name: "custom resources", Run: p.server.ServeCustomResources},
		{Name: "aggregation", Run: p.server.ServeAggregated},
		{Name: "caches", Run: p.runCaches},
		{Name: "service claims", Run: p.runRepair},
		{Name: "token uses", Run: p.runTokenUses},
		{Name: "controllers", Run: p.runControllers},
		{Name: "scheduler", Run: p.runScheduler},
	}
	if !cfg.disableAgent {
		n, err := p.newNode()
		if err != nil {
			return err
		}
		components = append(components, n.components()...)
	}
	group := lifecycle.Group{Logger: cfg.logger, Components: components}
	return group.Run(ctx, func() {
		cfg.logger.Info("Proa is up", "kubeconfig", filepath.Clean(cfg.kubeconfig), "api", p.url())
	})
}

// reserve is memory that is never touched, and so takes none, but counts as
// alive while it is kept. A small cluster's heap of 15 MB would be collected
// after every 15 MB that a burst of requests allocates, again and again: this
// makes it 40.
func reserve() []byte { return make([]byte, 24<<20) }
