package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/proa-dev/proa/kubelet"
)

// serverOptions are the flags of `proa server`, under k3s's names.
type serverOptions struct {
	dataDir         string
	kubeconfig      string
	kubeconfigMode  string
	clusterCIDR     string
	serviceCIDR     string
	clusterDNS      string
	clusterDomain   string
	nodePortRange   string
	nodeName        string
	nodeIP          string
	nodeLabels      []string
	nodeTaints      []string
	tlsSANs         []string
	bindAddress     string
	port            int
	disableAgent    bool
	endpoints       []string
	datastoreCA     string
	datastoreCert   string
	datastoreKey    string
	runtimeEndpoint string
	cni             string
	resolvConf      string
	podManifests    string
	evictionHard    []string
	debug           bool
}

const defaultDataDir = "/var/lib/proa"

func serverCommand() *cobra.Command {
	o := &serverOptions{}
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Run the control plane and a node",
		Long: "Run the control plane (API server, etcd, controllers, scheduler) and, unless\n" +
			"--disable-agent is given, a node (kubelet, containerd, pod network, Services, DNS).",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := o.config(cmd.Context())
			if err != nil {
				return err
			}
			return runServer(cmd.Context(), cfg)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.dataDir, "data-dir", defaultDataDir, "folder that holds all state")
	f.StringVar(&o.kubeconfig, "write-kubeconfig", "/etc/proa/proa.yaml", "where to write the administrator's kubeconfig")
	f.StringVar(&o.kubeconfigMode, "write-kubeconfig-mode", "0600", "its file mode")
	f.StringVar(&o.clusterCIDR, "cluster-cidr", "10.42.0.0/16", "addresses of pods")
	f.StringVar(&o.serviceCIDR, "service-cidr", "10.43.0.0/16", "addresses of Services")
	f.StringVar(&o.clusterDNS, "cluster-dns", "", "address of the DNS Service (default: the 10th of --service-cidr)")
	f.StringVar(&o.clusterDomain, "cluster-domain", "cluster.local", "domain of the cluster's names")
	f.StringVar(&o.nodePortRange, "service-node-port-range", "30000-32767", "ports of NodePort Services")
	f.StringVar(&o.nodeName, "node-name", "", "this node's name (default: the host name)")
	f.StringVar(&o.nodeIP, "node-ip", "", "this node's address (default: that of the default route)")
	f.StringSliceVar(&o.nodeLabels, "node-label", nil, "labels to register the node with, key=value")
	f.StringSliceVar(&o.nodeTaints, "node-taint", nil, "taints to register the node with, key=value:Effect")
	f.StringSliceVar(&o.tlsSANs, "tls-san", nil, "further names and addresses for the API server's certificate")
	f.StringVar(&o.bindAddress, "bind-address", "0.0.0.0", "address that the API server listens on")
	f.IntVar(&o.port, "https-listen-port", 6443, "port that the API server listens on")
	f.BoolVar(&o.disableAgent, "disable-agent", false, "run the control plane alone")
	f.StringSliceVar(&o.endpoints, "datastore-endpoint", nil, "client URLs of an etcd cluster to use in place of the built-in one")
	f.StringVar(&o.datastoreCA, "datastore-cafile", "", "CA of that etcd")
	f.StringVar(&o.datastoreCert, "datastore-certfile", "", "client certificate for it")
	f.StringVar(&o.datastoreKey, "datastore-keyfile", "", "key of that certificate")
	f.StringVar(&o.runtimeEndpoint, "container-runtime-endpoint", "", "CRI socket of another container runtime, in place of the built-in one")
	f.StringVar(&o.cni, "cni", "proa", `pod network: "proa", or "none" to use what /etc/cni/net.d says`)
	f.StringVar(&o.resolvConf, "resolv-conf", "", "the host's resolv.conf for pods and DNS (default: detected)")
	f.StringVar(&o.podManifests, "pod-manifest-path", "", "folder of static pods (default: <data-dir>/manifests)")
	f.StringSliceVar(&o.evictionHard, "eviction-hard", nil, "what the node must have left, as memory.available<100Mi,nodefs.available<10% (default: the kubelet's)")
	f.BoolVar(&o.debug, "debug", false, "log more")
	return cmd
}

// config checks the flags and fills in what they leave open.
func (o *serverOptions) config(ctx context.Context) (*serverConfig, error) {
	cfg := &serverConfig{serverOptions: *o}
	var errs []error
	prefix := func(flag, text string) netip.Prefix {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("--%s: %q is not a network such as 10.42.0.0/16", flag, text))
		}
		return p.Masked()
	}
	cfg.pods = prefix("cluster-cidr", o.clusterCIDR)
	cfg.services = prefix("service-cidr", o.serviceCIDR)
	if cfg.pods.IsValid() && cfg.services.IsValid() && cfg.pods.Overlaps(cfg.services) {
		errs = append(errs, errors.New("--cluster-cidr and --service-cidr overlap"))
	}
	if _, err := fmt.Sscanf(o.nodePortRange, "%d-%d", &cfg.portFirst, &cfg.portLast); err != nil ||
		cfg.portFirst < 1 || cfg.portLast > 65535 || cfg.portFirst > cfg.portLast {
		errs = append(errs, fmt.Errorf("--service-node-port-range: %q is not a range such as 30000-32767", o.nodePortRange))
	}
	if o.port < 1 || o.port > 65535 {
		errs = append(errs, fmt.Errorf("--https-listen-port: %d is not a port", o.port))
	}
	if _, err := fmt.Sscanf(o.kubeconfigMode, "%o", &cfg.mode); err != nil {
		errs = append(errs, fmt.Errorf("--write-kubeconfig-mode: %q is not an octal file mode", o.kubeconfigMode))
	}
	if o.cni != "proa" && o.cni != "none" {
		errs = append(errs, fmt.Errorf(`--cni: %q is neither "proa" nor "none"`, o.cni))
	}
	if len(o.evictionHard) > 0 {
		var err error
		if cfg.eviction, err = kubelet.ParseThresholds(o.evictionHard); err != nil {
			errs = append(errs, fmt.Errorf("--eviction-hard: %w", err))
		}
	}
	if os.Geteuid() != 0 && !o.disableAgent {
		errs = append(errs, errors.New("a node needs root: start as root, or give --disable-agent for a control plane alone"))
	}
	if cfg.services.IsValid() {
		cfg.apiAddr = nth(cfg.services, 1)
		cfg.dnsAddr = nth(cfg.services, 10)
	}
	if o.clusterDNS != "" {
		ip, err := netip.ParseAddr(o.clusterDNS)
		if err != nil || !cfg.services.Contains(ip) {
			errs = append(errs, fmt.Errorf("--cluster-dns: %q is not an address in --service-cidr", o.clusterDNS))
		}
		cfg.dnsAddr = ip
	}
	var err error
	if cfg.hostAddr, err = nodeAddress(ctx, o.nodeIP, cfg.pods.Addr()); err != nil {
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	if cfg.dataDir, err = filepath.Abs(o.dataDir); err != nil {
		return nil, err
	}
	cfg.runDir = runDir(cfg.dataDir)
	if cfg.nodeName == "" {
		if cfg.nodeName, err = os.Hostname(); err != nil {
			return nil, err
		}
	}
	cfg.nodeName = strings.ToLower(cfg.nodeName)
	cfg.logger = newLogger(o.debug)
	return cfg, nil
}

// runDir holds sockets: short, because a socket's path may have 107 bytes.
func runDir(dataDir string) string {
	if dataDir == defaultDataDir {
		return "/run/proa"
	}
	return filepath.Join(dataDir, "run")
}

// nth is the n-th address of a network, for small n.
func nth(p netip.Prefix, n int) netip.Addr {
	ip := p.Addr()
	for range n {
		ip = ip.Next()
	}
	return ip
}
