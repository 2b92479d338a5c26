package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/proa-dev/proa/network/podnet"
	"github.com/proa-dev/proa/scheduler"
	"github.com/proa-dev/proa/scheduler/config"
)

// serverOptions are the flags of `proa server`, under k3s's names.
type serverOptions struct {
	nodeConfig
	kubeconfig     string
	kubeconfigMode string
	clusterCIDR    string
	serviceCIDR    string
	clusterDNS     string
	nodePortRange  string
	tlsSANs        []string
	bindAddress    string
	port           int
	disableAgent   bool
	disabled       []string
	endpoints      []string
	datastoreCA    string
	datastoreCert  string
	datastoreKey   string
	schedulerArgs  []string
}

// serviceLB is the name by which --disable knows the addresses of LoadBalancer
// Services.
const serviceLB = "servicelb"

const (
	defaultDataDir    = "/var/lib/proa"
	defaultKubeconfig = "/etc/proa/proa.yaml"
)

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
	o.flags(f)
	f.StringVar(&o.kubeconfig, "write-kubeconfig", defaultKubeconfig, "where to write the administrator's kubeconfig")
	f.StringVar(&o.kubeconfigMode, "write-kubeconfig-mode", "0600", "its file mode")
	f.StringVar(&o.clusterCIDR, "cluster-cidr", "10.42.0.0/16", "addresses of pods")
	f.StringVar(&o.serviceCIDR, "service-cidr", "10.43.0.0/16", "addresses of Services")
	f.StringVar(&o.clusterDNS, "cluster-dns", "", "address of the DNS Service (default: the 10th of --service-cidr)")
	f.StringVar(&o.clusterDomain, "cluster-domain", "cluster.local", "domain of the cluster's names")
	f.StringVar(&o.podNetwork, "pod-network", podnet.VXLAN, `how pods of different nodes reach each other: "vxlan" works
everywhere; "direct" routes between nodes of one segment, and is vxlan between others`)
	f.StringVar(&o.nodePortRange, "service-node-port-range", "30000-32767", "ports of NodePort Services")
	f.StringSliceVar(&o.tlsSANs, "tls-san", nil, "further names and addresses for the API server's certificate")
	f.StringVar(&o.bindAddress, "bind-address", "0.0.0.0", "address that the API server listens on")
	f.IntVar(&o.port, "https-listen-port", 6443, "port that the API server listens on")
	f.BoolVar(&o.disableAgent, "disable-agent", false, "run the control plane alone")
	f.StringSliceVar(&o.disabled, "disable", nil, `what to leave out: "servicelb" leaves LoadBalancer Services to another load balancer`)
	f.StringSliceVar(&o.endpoints, "datastore-endpoint", nil, "client URLs of an etcd cluster to use in place of the built-in one")
	f.StringVar(&o.datastoreCA, "datastore-cafile", "", "CA of that etcd")
	f.StringVar(&o.datastoreCert, "datastore-certfile", "", "client certificate for it")
	f.StringVar(&o.datastoreKey, "datastore-keyfile", "", "key of that certificate")
	f.StringSliceVar(&o.schedulerArgs, "kube-scheduler-arg", nil, "config=`FILE` names a KubeSchedulerConfiguration")
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
	if os.Geteuid() != 0 && !o.disableAgent {
		errs = append(errs, errors.New("a node needs root: start as root, or give --disable-agent for a control plane alone"))
	}
	if o.podNetwork != podnet.VXLAN && o.podNetwork != podnet.Direct {
		errs = append(errs, fmt.Errorf("--pod-network: %q is neither %q nor %q", o.podNetwork, podnet.VXLAN, podnet.Direct))
	}
	for _, name := range o.disabled {
		if name != serviceLB {
			errs = append(errs, fmt.Errorf("--disable: %q is not %q, the only part that can be left out", name, serviceLB))
		}
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
	if err := cfg.complete(ctx); err != nil {
		errs = append(errs, err)
	}
	if err := cfg.readScheduling(); err != nil {
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return cfg, nil
}

// readScheduling reads what the scheduler is told.
func (cfg *serverConfig) readScheduling() error {
	for _, arg := range cfg.schedulerArgs {
		name, file, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		if name != "config" || file == "" {
			return fmt.Errorf("--kube-scheduler-arg: %q is not config=FILE", arg)
		}
		c, err := config.Load(file)
		if err != nil {
			return err
		}
		cfg.scheduling = scheduler.Config{
			Profiles: c.Profiles, Extenders: c.Extenders, InitialBackoff: c.InitialBackoff, MaxBackoff: c.MaxBackoff,
		}
	}
	return nil
}

// nth is the n-th address of a network, for small n.
func nth(p netip.Prefix, n int) netip.Addr {
	ip := p.Addr()
	for range n {
		ip = ip.Next()
	}
	return ip
}
