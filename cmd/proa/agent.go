package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/api/builtin"
	"github.com/proa-dev/proa/client"
	"github.com/proa-dev/proa/client/join"
	"github.com/proa-dev/proa/client/remote"
	"github.com/proa-dev/proa/internal/lifecycle"
	"github.com/proa-dev/proa/network/podnet"
)

// agentOptions are the flags of `proa agent`, under k3s's names.
type agentOptions struct {
	nodeConfig
	servers   []string
	token     string
	tokenFile string
}

func agentCommand() *cobra.Command {
	o := &agentOptions{}
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run a node of a cluster whose server runs elsewhere",
		Long: "Run a node (kubelet, containerd, pod network, Services, DNS) that joins the cluster of\n" +
			"--server. The token, from `proa token create` on a server, is needed once: it says which\n" +
			"cluster is meant, and that this machine may join it.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(cmd.Context()); err != nil {
				return err
			}
			return runAgent(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	o.flags(f)
	f.StringSliceVar(&o.servers, "server", nil, "URL of the cluster's API server, such as https://192.0.2.1:6443; may be\n"+
		"given for several. Servers that join later are learnt of, and stand in for one that is gone")
	f.StringVar(&o.token, "token", "", "token from 'proa token create' (default: the environment's PROA_TOKEN)")
	f.StringVar(&o.tokenFile, "token-file", "", "file that holds the token")
	return cmd
}

func (o *agentOptions) check(ctx context.Context) error {
	var errs []error
	if os.Geteuid() != 0 {
		errs = append(errs, errors.New("a node needs root"))
	}
	if o.token != "" && o.tokenFile != "" {
		errs = append(errs, errors.New("give --token or --token-file, not both"))
	}
	if o.tokenFile != "" {
		text, err := os.ReadFile(o.tokenFile)
		if err != nil {
			errs = append(errs, fmt.Errorf("--token-file: %w", err))
		}
		o.token = string(text)
	}
	if o.token == "" {
		o.token = os.Getenv("PROA_TOKEN")
	}
	return errors.Join(append(errs, o.complete(ctx))...)
}

// runAgent joins the cluster and runs every component of a node, in start order:
//
//	credentials ─> caches ─> pod network ─> containerd ─> kubelet ─> Services ─> DNS
//
// While the server does not answer, pods, Services and names go on as they are.
func runAgent(ctx context.Context, o *agentOptions) error {
	cfg := &o.nodeConfig
	held, err := openDataDir(cfg.dataDir)
	if err != nil {
		return err
	}
	defer held.Close()
	if _, err := os.Stat(filepath.Join(cfg.dataDir, "etcd")); err == nil {
		return fmt.Errorf("%s is a server's data directory: choose another one by --data-dir, or remove it by `proa reset`", cfg.dataDir)
	}
	if err := os.MkdirAll(cfg.runDir, 0o700); err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	joined, err := join.Open(ctx, join.Config{
		Dir: filepath.Join(cfg.dataDir, "agent"), Servers: o.servers, Token: o.token, NodeName: cfg.nodeName,
		Addresses: []net.IP{cfg.hostAddr.AsSlice()}, Logger: cfg.logger.With("component", "join"),
	})
	if err != nil {
		if ctx.Err() != nil {
			return nil //nolint:nilerr // asked to stop while it waited
		}
		return err
	}
	n, err := newAgent(cfg, joined)
	if err != nil {
		return err
	}
	group := lifecycle.Group{Logger: cfg.logger, Components: append(
		[]lifecycle.Component{{Name: "credentials", Run: joined.Run}}, n.components()...)}
	return group.Run(ctx, func() {
		cfg.logger.Info("Proa is up", "node", cfg.nodeName, "servers", o.servers)
	})
}

func newAgent(cfg *nodeConfig, joined *join.Node) (*node, error) {
	settings := joined.Settings()
	cfg.pods, cfg.dnsAddr, cfg.clusterDomain, cfg.podNetwork = settings.Pods, settings.DNS, settings.Domain, settings.PodNetwork
	if cfg.podNetwork == "" {
		cfg.podNetwork = podnet.VXLAN
	}
	mapper := api.NewMapper(builtin.Kinds()) // a server that is away has nobody to tell
	view := func(manager string, only cache.Options) (client.Cluster, error) {
		rc := joined.REST()
		rc.UserAgent = manager // it names the writes in managedFields
		return remote.New(remote.Config{
			REST: rc, Scheme: builtin.Scheme(), Mapper: mapper, Host: cfg.nodeName, Cache: only, Logger: cfg.logger.With("user", "system:node:"+cfg.nodeName),
		})
	}
	own := cache.Options{ByObject: map[ctrl.Object]cache.ByObject{}}
	for gvk, selector := range ownObjects(cfg.nodeName) {
		kind := map[string]ctrl.Object{"Pod": &corev1.Pod{}, "Node": &corev1.Node{}}[gvk.Kind]
		own.ByObject[kind] = cache.ByObject{Field: selector}
	}
	self, err := view("kubelet", own)
	if err != nil {
		return nil, err
	}
	services, err := view("kube-proxy", cache.Options{})
	if err != nil {
		return nil, err
	}
	return newNode(cfg, self, services, nodeTLS(joined.GetCertificate, joined.CAs()))
}

// nodeTLS is how a node's API is served: callers of the cluster show a
// certificate, others a token.
func nodeTLS(certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error), clients *x509.CertPool) *tls.Config {
	return &tls.Config{GetCertificate: certificate, ClientCAs: clients, ClientAuth: tls.VerifyClientCertIfGiven, MinVersion: tls.VersionTLS12}
}

// peers are the other nodes as the pod network sees them.
func peers(nodes []*corev1.Node, self string) []podnet.Peer {
	var list []podnet.Peer
	for _, n := range nodes {
		if n.Name == self {
			continue
		}
		p := podnet.Peer{Name: n.Name}
		for _, text := range n.Spec.PodCIDRs {
			if cidr, err := netip.ParsePrefix(text); err == nil {
				p.PodCIDRs = append(p.PodCIDRs, cidr)
			}
		}
		for _, a := range n.Status.Addresses {
			if ip, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP && !p.Address.IsValid() {
				p.Address = ip
			}
		}
		if ip, err := netip.ParseAddr(n.Annotations[tunnelAddress]); err == nil {
			p.Address = ip
		}
		if p.Address.IsValid() && len(p.PodCIDRs) > 0 {
			list = append(list, p)
		}
	}
	return list
}

// tunnelAddress is an annotation of a node that other nodes reach at another
// address than its own, behind address translation for example.
const tunnelAddress = "proa.dev/tunnel-address"
