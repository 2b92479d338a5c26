package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/rest"
	"k8s.io/utils/clock"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/builtin"
	"github.com/proa-dev/proa/apiserver"
	"github.com/proa-dev/proa/apiserver/admission"
	"github.com/proa-dev/proa/apiserver/admission/policy"
	"github.com/proa-dev/proa/apiserver/admission/quotas"
	"github.com/proa-dev/proa/apiserver/admission/webhook"
	"github.com/proa-dev/proa/apiserver/authn"
	"github.com/proa-dev/proa/apiserver/authz"
	"github.com/proa-dev/proa/apiserver/bootstrap"
	"github.com/proa-dev/proa/apiserver/connect"
	"github.com/proa-dev/proa/apiserver/health"
	"github.com/proa-dev/proa/apiserver/live"
	"github.com/proa-dev/proa/apiserver/registry"
	"github.com/proa-dev/proa/apiserver/services"
	"github.com/proa-dev/proa/apiserver/typeschema"
	"github.com/proa-dev/proa/apiserver/virtual"
	"github.com/proa-dev/proa/apiserver/webhookclient"
	"github.com/proa-dev/proa/client"
	"github.com/proa-dev/proa/client/join"
	"github.com/proa-dev/proa/client/local"
	"github.com/proa-dev/proa/controllers"
	"github.com/proa-dev/proa/controllers/certificates"
	"github.com/proa-dev/proa/internal/certs"
	"github.com/proa-dev/proa/scheduler"
	"github.com/proa-dev/proa/store"
)

// controlPlane is the parts of a server that every node shares.
type controlPlane struct {
	cfg       *serverConfig
	authority *certs.Authority
	store     *store.Store
	services  *services.Allocator
	// authenticator also makes tokens.
	authenticator *authn.Authenticator
	server        *apiserver.Server
	listener      net.Listener
	webhooks      *webhookclient.Client

	bootstrapped atomic.Bool

	// The components' views, each under its own identity.
	admin       client.Cluster
	manager     client.Cluster
	forPods     client.Cluster
	controllers *controllers.Controllers

	// metrics are what /metrics shows, resources what /metrics/resources does,
	// and scheduling those of the scheduler, anew each time that it leads.
	metrics, resources *prometheus.Registry
	scheduling         atomic.Pointer[prometheus.Registry]
}

// newControlPlane opens what may fail for reasons of the machine: the port,
// the data directory, the datastore.
func newControlPlane(ctx context.Context, cfg *serverConfig) (p *controlPlane, err error) {
	made := &controlPlane{cfg: cfg}
	p = made
	defer func() {
		if err != nil {
			made.close()
		}
	}()
	at := netip.AddrPortFrom(netip.MustParseAddr(cfg.bindAddress), uint16(cfg.port)).String()
	if p.listener, err = (&net.ListenConfig{}).Listen(ctx, "tcp", at); err != nil {
		return nil, fmt.Errorf("API server: %w (another port: --https-listen-port)", err)
	}
	if p.authority, err = certs.Open(filepath.Join(cfg.dataDir, "tls"), clock.RealClock{}, cfg.logger); err != nil {
		return nil, err
	}
	scheme := builtin.Scheme()
	if p.store, err = store.Open(ctx, store.Config{
		DataDir: cfg.dataDir, Endpoints: cfg.endpoints,
		CAFile: cfg.datastoreCA, CertFile: cfg.datastoreCert, KeyFile: cfg.datastoreKey,
		Scheme: scheme, Lookup: lookup(), Logger: cfg.logger.With("component", "store"),
	}); err != nil {
		return nil, err
	}
	if err = p.newServer(); err != nil {
		return nil, err
	}
	return p, p.newClusters(ctx)
}

// lookup finds built-in kinds.
func lookup() func(schema.GroupVersionKind) *api.Kind {
	kinds := map[schema.GroupVersionKind]*api.Kind{}
	for _, k := range builtin.Kinds() {
		kinds[k.GVK] = k
	}
	return func(gvk schema.GroupVersionKind) *api.Kind { return kinds[gvk] }
}

// extensions admit by the policies and webhooks of the cluster's users, in
// upstream's order.
func extensions(policies policy.Config, webhooks webhook.Config) (admission.Chain, error) {
	mutating, err := policy.NewMutating(policies)
	if err != nil {
		return nil, err
	}
	validating, err := policy.NewValidating(policies)
	if err != nil {
		return nil, err
	}
	access, err := policy.NewAccess(policies)
	if err != nil {
		return nil, err
	}
	asking, refusing, err := webhook.New(webhooks)
	return admission.Chain{mutating, asking, access, validating, refusing}, err
}

func (p *controlPlane) newServer() error {
	cfg := p.cfg
	serving, err := p.authority.Server(p.names())
	if err != nil {
		return err
	}
	toKubelets, err := p.authority.Client(certs.KubeletClientUser)
	if err != nil {
		return err
	}
	frontProxy, err := p.authority.FrontProxyClient(certs.FrontProxyUser)
	if err != nil {
		return err
	}
	kinds := builtin.Kinds()
	objects := live.New(p.store, kinds)
	p.authenticator, err = authn.New(authn.Config{
		Key: p.authority.SigningKey(), ClientCAs: p.authority.Pool(), FrontProxyCAs: p.authority.FrontProxyPool(),
		FrontProxyNames: []string{certs.FrontProxyUser},
		Source:          objects, Live: objects.Live, Clock: clock.RealClock{},
	})
	if err != nil {
		return err
	}
	paths, err := p.authenticator.Discovery("")
	if err != nil {
		return err
	}
	maps.Copy(paths, profiles())
	authorizer := authz.New(objects)
	types := typeschema.Converter(builtin.Scheme())
	lookup := admission.Lookup{Source: objects, Live: objects.Live}
	p.metrics, p.resources = prometheus.NewRegistry(), prometheus.NewRegistry()
	if err := p.metrics.Register(buildInfo()); err != nil {
		return err
	}
	p.webhooks = webhookclient.New(connect.Services{Source: objects}.Address,
		webhookclient.WithSelf(webhookclient.Self{Identity: frontProxy.GetClientCertificate, CAs: p.authority.Pool()}))
	extended, err := extensions(policy.Config{
		Lookup: lookup, Authorizer: authorizer, Converter: types, Scheme: builtin.Scheme(),
	}, webhook.Config{
		Lookup: lookup, Authorizer: authorizer, Client: p.webhooks, Metrics: p.metrics, Logger: cfg.logger.With("component", "webhooks"),
	})
	if err != nil {
		return err
	}
	p.services = services.New(services.Config{
		Store: p.store, CIDR: cfg.services, PortFirst: cfg.portFirst, PortLast: cfg.portLast, Now: metav1.Now,
	})
	paths["/metrics/resources"] = promhttp.HandlerFor(p.resources, promhttp.HandlerOpts{})
	p.server, err = apiserver.New(apiserver.Config{
		Store: p.store, Kinds: kinds, Scheme: builtin.Scheme(), Types: types,
		Authenticator: p.authenticator, Authorizer: authorizer,
		Admission: append(append(admission.Default(admission.Config{Source: objects, Live: objects.Live, Authorizer: authorizer}), extended...),
			authz.NewEscalation(authorizer, lookup),
			quotas.New(quotas.Config{Lookup: lookup, Replace: func(ctx context.Context, q *corev1.ResourceQuota) error {
				return objects.Replace(ctx, corev1.Resource("resourcequotas"), q)
			}})),
		Virtual: virtual.Functions(virtual.Config{Tokens: p.authenticator, Authorizer: authorizer}),
		Token:   p.authenticator.IssueToken,
		Kubelet: &http.Transport{
			TLSClientConfig:     &tls.Config{RootCAs: p.authority.Pool(), GetClientCertificate: toKubelets.GetClientCertificate, MinVersion: tls.VersionTLS12},
			MaxIdleConnsPerHost: 25, IdleConnTimeout: 90 * time.Second, TLSHandshakeTimeout: 10 * time.Second,
		},
		Webhooks: p.webhooks, FrontProxy: frontProxy.GetClientCertificate,
		Components: []health.Check{
			// They run in this process from the end of bootstrapping to its own end,
			// or stand by for another server's.
			{Name: "controller-manager", Run: p.bootstrapping}, {Name: "etcd-0", Run: p.store.Healthy}, {Name: "scheduler", Run: p.bootstrapping},
		},
		Paths: paths, Ready: []health.Check{{Name: "poststarthook/bootstrap", Run: p.bootstrapping}},
		Hooks: map[schema.GroupResource]registry.Hook{{Resource: "services"}: p.services},
		TLS: &tls.Config{
			GetCertificate: serving.GetCertificate, ClientCAs: p.authority.Pool(),
			ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS12,
		},
		// Those of controller-runtime and client-go: queues, requests, this process.
		Metrics: p.metrics, OtherMetrics: []prometheus.Gatherer{prometheus.GathererFunc(libraryMetrics), prometheus.GathererFunc(p.leadingMetrics)}, Logger: cfg.logger.With("component", "apiserver"),
	})
	if err != nil {
		return err
	}
	objects.Follow(p.server.Kinds()) // policies have custom resources for parameters
	return nil
}

// names are those under which the API server is reached.
func (p *controlPlane) names() certs.Names {
	ips := append(hostIPs(), net.IP(p.cfg.hostAddr.AsSlice()))
	return certs.APIServerNames(p.cfg.clusterDomain, net.IP(p.cfg.apiAddr.AsSlice()), p.cfg.nodeName, ips, p.cfg.tlsSANs)
}

// newNode makes the server's own node: it sees the cluster in this process,
// and its certificate comes from the authority itself.
func (p *controlPlane) newNode() (*node, error) {
	cfg := &p.cfg.nodeConfig
	self, err := p.view(local.Config{Only: ownObjects(cfg.nodeName), Host: cfg.nodeName}, "system:node:"+cfg.nodeName, user.NodesGroup)
	if err != nil {
		return nil, err
	}
	services, err := p.as(user.KubeProxy)
	if err != nil {
		return nil, err
	}
	serving, err := p.authority.Server(certs.Names{
		CommonName: "system:node:" + cfg.nodeName, Organizations: []string{user.NodesGroup},
		DNS: []string{cfg.nodeName}, IPs: append(hostIPs(), net.IP(cfg.hostAddr.AsSlice())),
	})
	if err != nil {
		return nil, err
	}
	return newNode(cfg, self, services, nodeTLS(serving.GetCertificate, p.authority.Pool()))
}

// newClusters makes the in-process clients. Each identity is that of
// upstream's component, with the same rights.
func (p *controlPlane) newClusters(ctx context.Context) (err error) {
	if p.admin, err = p.as("system:apiserver", user.SystemPrivilegedGroup); err != nil {
		return err
	}
	// One identity for all controllers, as upstream without
	// --use-service-account-credentials.
	if p.manager, err = p.as("system:kube-controller-manager", user.SystemPrivilegedGroup); err != nil {
		return err
	}
	if p.forPods, err = p.as("system:kube-scheduler"); err != nil {
		return err
	}
	if err = p.resources.Register(scheduler.Resources(ctx, p.forPods)); err != nil {
		return err
	}
	metrics, err := p.authority.Client("system:kube-controller-manager", user.SystemPrivilegedGroup)
	if err != nil {
		return err
	}
	p.controllers, err = controllers.All(ctx, p.manager, controllers.Config{
		Logger: p.cfg.logger.With("component", "controllers"), Kinds: func() []*api.Kind { return p.server.Kinds().Set().All }, Schema: p.server.Schema,
		RootCA: p.authority.CAPEM(), Tokens: p.authenticator, PodCIDR: p.cfg.pods, ServiceCIDR: p.cfg.services, NoServiceLB: slices.Contains(p.cfg.disabled, serviceLB), MetricsAPI: p.overHTTP(metrics),
		Certificates: certificates.Config{Issuer: p.authority, CA: p.authority.CAPEM(), Reserved: p.names(), Life: certs.Life},
	})
	return err
}

// as is the cluster as a user sees it.
func (p *controlPlane) as(name string, groups ...string) (client.Cluster, error) {
	return p.view(local.Config{}, name, groups...)
}

// view is the cluster as a user sees it, with what else base says.
func (p *controlPlane) view(base local.Config, name string, groups ...string) (client.Cluster, error) {
	base.Registry, base.Store, base.Kinds, base.Scheme = p.server.Registry(), p.store, p.server.Kinds(), builtin.Scheme()
	base.User = &user.DefaultInfo{Name: name, Groups: append(groups, user.AllAuthenticated)}
	base.Manager, base.Logger = manager(name), p.cfg.logger.With("user", name)
	return local.New(base)
}

// manager is the name that a component's writes bear in managedFields.
func manager(name string) string {
	if strings.HasPrefix(name, "system:node:") {
		return "kubelet"
	}
	return strings.TrimPrefix(name, "system:")
}

// url is where clients on this machine reach the API server.
func (p *controlPlane) url() string {
	return "https://" + netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(p.cfg.port)).String()
}

// overHTTP is the API as those reach it who need what only HTTP serves.
func (p *controlPlane) overHTTP(identity *certs.Leaf) *rest.Config {
	return &rest.Config{Host: p.url(), UserAgent: "proa", Timeout: 30 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: p.authority.Pool(), GetClientCertificate: identity.GetClientCertificate, MinVersion: tls.VersionTLS12},
		IdleConnTimeout: 90 * time.Second, TLSHandshakeTimeout: 10 * time.Second,
	}}
}

func (p *controlPlane) runCertificates(ctx context.Context, ready func()) error {
	admin, err := p.authority.Client("system:admin", user.SystemPrivilegedGroup)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(p.cfg.kubeconfig), 0o755); err != nil {
		return fmt.Errorf("--write-kubeconfig: %w", err)
	}
	if err := p.authority.WriteKubeconfig(certs.Kubeconfig{Path: p.cfg.kubeconfig, Server: p.url(), Name: "proa", Mode: p.cfg.mode}, admin); err != nil {
		return fmt.Errorf("--write-kubeconfig: %w", err)
	}
	ready()
	return p.authority.Run(ctx)
}

func (p *controlPlane) runAPIServer(ctx context.Context, ready func()) error {
	ready() // it answers as soon as it accepts, and the kernel queues until then
	return p.server.Serve(ctx, p.listener)
}

// runBootstrap makes the first objects, then keeps this server's address
// among the endpoints of the Service kubernetes.
func (p *controlPlane) runBootstrap(ctx context.Context, ready func()) error {
	ctx = registry.WithOwn(ctx)
	if err := bootstrap.Run(ctx, bootstrap.Config{Client: p.admin.Client(), Reader: p.admin.Reader(), ServiceIP: p.cfg.apiAddr, ServiceCIDR: p.cfg.services,
		ClientCA: p.authority.CAPEM(), FrontProxyCA: p.authority.FrontProxyCAPEM(), FrontProxyNames: []string{certs.FrontProxyUser},
		Server: "https://" + netip.AddrPortFrom(p.cfg.hostAddr, uint16(p.cfg.port)).String(), Settings: p.settings().Data()}); err != nil {
		return err
	}
	p.bootstrapped.Store(true)
	endpoints := bootstrap.Endpoints{
		Client: p.admin.Client(), Reader: p.admin.Reader(), Address: netip.AddrPortFrom(p.cfg.hostAddr, uint16(p.cfg.port)),
		Clock: clock.RealClock{}, Logger: p.cfg.logger,
	}
	return endpoints.Run(ctx, ready)
}

// settings are what other nodes must know.
func (p *controlPlane) settings() join.Settings {
	return join.Settings{Pods: p.cfg.pods, DNS: p.cfg.dnsAddr, Domain: p.cfg.clusterDomain, PodNetwork: p.cfg.podNetwork}
}

// bootstrapping is a check of /readyz: clients may count on the first objects.
func (p *controlPlane) bootstrapping(context.Context) error {
	if !p.bootstrapped.Load() {
		return errors.New("not finished")
	}
	return nil
}

// runCaches runs the in-process informers.
func (p *controlPlane) runCaches(ctx context.Context, ready func()) error {
	ended := make(chan error, 3)
	views := []client.Cluster{p.admin, p.manager, p.forPods}
	for _, c := range views {
		go func() { ended <- c.Start(ctx) }()
	}
	ready()
	var errs []error
	for range views {
		errs = append(errs, <-ended)
	}
	return errors.Join(errs...)
}

// runTokenUses notes when tokens that live in Secrets are used.
func (p *controlPlane) runTokenUses(ctx context.Context, ready func()) error {
	ready()
	p.authenticator.NoteUses(ctx, p.admin.Client(), p.cfg.logger)
	return nil
}

// repairPeriod is how often the claims of addresses and ports are compared
// with the Services.
const repairPeriod = 3 * time.Minute

// runRepair keeps them equal.
func (p *controlPlane) runRepair(ctx context.Context, ready func()) error {
	kinds := p.server.Kinds().Set()
	list := p.store.Resource(kinds.ByResource(corev1.SchemeGroupVersion.WithResource("services")))
	tick := time.NewTicker(repairPeriod)
	defer tick.Stop()
	ready()
	for {
		if err := p.services.Repair(ctx, list); err != nil && ctx.Err() == nil {
			p.cfg.logger.Error("repair the claims of Services", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (p *controlPlane) close() {
	if p.listener != nil {
		p.listener.Close()
	}
	if p.webhooks != nil {
		p.webhooks.Close()
	}
	if p.store != nil {
		if err := p.store.Close(); err != nil {
			p.cfg.logger.Error("close the store", "error", err)
		}
	}
}
