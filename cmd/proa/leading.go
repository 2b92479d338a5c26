package main

import (
	"context"
	"net/netip"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/proa-dev/proa/client"
	"github.com/proa-dev/proa/internal/leader"
	"github.com/proa-dev/proa/scheduler"
)

// lead does work while this server is the one that does. A server with an etcd
// of its own has no rivals; several on one etcd take turns, by upstream's Lease.
func (p *controlPlane) lead(ctx context.Context, name string, as client.Cluster, work func(context.Context) error) error {
	if len(p.cfg.endpoints) == 0 {
		return work(ctx)
	}
	return leader.Run(ctx, leader.Config{
		Client: as.Client(), Reader: as.Reader(), Recorder: as.Recorder(name),
		Namespace: metav1.NamespaceSystem, Name: name, Identity: p.identity(), Logger: p.cfg.logger,
	}, work)
}

// identity tells this server from others. No two processes have one address and
// port, and a server that comes back after a crash has the same.
func (p *controlPlane) identity() string {
	return p.cfg.nodeName + "_" + netip.AddrPortFrom(p.cfg.hostAddr, uint16(p.cfg.port)).String()
}

func (p *controlPlane) runControllers(ctx context.Context, ready func()) error {
	ready()
	return p.lead(ctx, "kube-controller-manager", p.manager, p.controllers.Run)
}

// runScheduler is ready once pods are scheduled, here or by another server.
func (p *controlPlane) runScheduler(ctx context.Context, ready func()) error {
	cfg := p.cfg.scheduling
	cfg.Logger = p.cfg.logger.With("component", "scheduler")
	ready = sync.OnceFunc(ready)
	if len(p.cfg.endpoints) > 0 {
		ready()
	}
	return p.lead(ctx, "kube-scheduler", p.forPods, func(ctx context.Context) error {
		metrics := prometheus.NewRegistry()
		cfg.Metrics = metrics
		s, err := scheduler.New(p.forPods, cfg)
		if err != nil {
			return err
		}
		p.scheduling.Store(metrics)
		defer p.scheduling.Store(nil)
		return s.Run(ctx, ready)
	})
}

// leadingMetrics are those of the controllers and of the scheduler, while they
// run here.
func (p *controlPlane) leadingMetrics() ([]*dto.MetricFamily, error) {
	all := prometheus.Gatherers{p.controllers}
	if r := p.scheduling.Load(); r != nil {
		all = append(all, r)
	}
	return all.Gather()
}
