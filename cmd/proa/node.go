package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/cache"

	"github.com/proa-dev/proa/api/core"
	"github.com/proa-dev/proa/apiserver/kinds"
	"github.com/proa-dev/proa/client"
	"github.com/proa-dev/proa/client/local"
	"github.com/proa-dev/proa/container"
	"github.com/proa-dev/proa/internal/certs"
	"github.com/proa-dev/proa/internal/lifecycle"
	"github.com/proa-dev/proa/kubelet"
	"github.com/proa-dev/proa/network/dns"
	"github.com/proa-dev/proa/network/podnet"
	"github.com/proa-dev/proa/network/proxy"
)

// The names of what a node makes in the kernel's network. A network namespace
// has one node.
const (
	proxyTable = "proa-services"
	dnsLink    = "proa-dns"
)

// Where log shippers look for pods' logs.
const (
	podLogs       = "/var/log/pods"
	containerLogs = "/var/log/containers"
)

// node is the parts of a server that run pods.
type node struct {
	cfg *serverConfig
	// self acts as the node, services as upstream's Service proxy.
	self, services client.Cluster

	runtime *container.Runtime // nil when another one is used
	network *podnet.Network    // nil with --cni=none
	proxy   *proxy.Proxy
	dns     *dns.Server
	kubelet *kubelet.Kubelet
}

func newNode(cfg *serverConfig, p *controlPlane) (*node, error) {
	n := &node{cfg: cfg}
	var err error
	own := map[schema.GroupVersionKind]fields.Selector{
		corev1.SchemeGroupVersion.WithKind("Pod"):  fields.OneTermEqualSelector("spec.nodeName", cfg.nodeName),
		corev1.SchemeGroupVersion.WithKind("Node"): fields.OneTermEqualSelector("metadata.name", cfg.nodeName),
	}
	if n.self, err = p.view(local.Config{Only: own, Host: cfg.nodeName}, "system:node:"+cfg.nodeName, "system:nodes"); err != nil {
		return nil, err
	}
	if n.services, err = p.as("system:kube-proxy"); err != nil {
		return nil, err
	}
	endpoint := cfg.runtimeEndpoint
	if endpoint == "" {
		if n.runtime, err = container.New(n.runtimeConfig()); err != nil {
			return nil, err
		}
		endpoint = n.runtime.Endpoint()
	}
	if cfg.cni != "none" {
		if n.network, err = podnet.New(cfg.podnet()); err != nil {
			return nil, err
		}
	}
	n.proxy = proxy.New(n.services, proxy.Config{
		NodeName: cfg.nodeName, PodCIDR: cfg.pods, Table: proxyTable, Logger: cfg.logger.With("component", "services"),
	})
	n.dns = dns.New(n.services, dns.Config{
		Address: cfg.dnsAddr, Domain: cfg.clusterDomain, Link: dnsLink, ResolvConf: cfg.resolvFile(), Logger: cfg.logger.With("component", "dns"),
	})
	return n, n.newKubelet(p, endpoint)
}

func (n *node) newKubelet(p *controlPlane, endpoint string) error {
	cfg := n.cfg
	serving, err := p.authority.Server(certs.Names{
		CommonName: "system:node:" + cfg.nodeName, Organizations: []string{"system:nodes"},
		DNS: []string{cfg.nodeName}, IPs: append(hostIPs(), net.IP(cfg.hostAddr.AsSlice())),
	})
	if err != nil {
		return err
	}
	labels, err := parseLabels(cfg.nodeLabels)
	if err != nil {
		return err
	}
	taints, err := parseTaints(cfg.nodeTaints)
	if err != nil {
		return err
	}
	n.kubelet, err = kubelet.New(n.self, kubelet.Config{
		NodeName: cfg.nodeName, NodeIPs: []string{cfg.hostAddr.String()},
		RootDir: cfg.kubeletDir(), PodLogsDir: podLogs, ContainerLogsDir: containerLogs,
		RuntimeEndpoint: endpoint, ClusterDNS: []string{cfg.dnsAddr.String()}, ClusterDomain: cfg.clusterDomain,
		ResolvConf: cfg.resolvFile(), StaticPodDir: cfg.manifests(), DefaultPod: func(pod *corev1.Pod) { core.Pod().Default(pod) },
		Listen: ":10250", Port: 10250,
		TLS: &tls.Config{
			GetCertificate: serving.GetCertificate, ClientCAs: p.authority.Pool(),
			ClientAuth: tls.VerifyClientCertIfGiven, MinVersion: tls.VersionTLS12,
		},
		CgroupRoot: cfg.cgroupRoot(), Labels: labels, Taints: taints, EvictionHard: cfg.eviction, Version: kinds.Version().GitVersion,
		Logger: cfg.logger.With("component", "kubelet"),
	})
	return err
}

// components are the node's parts in start order.
func (n *node) components() []lifecycle.Component {
	list := []lifecycle.Component{{Name: "node caches", Run: n.runCaches}}
	if n.network != nil {
		list = append(list, lifecycle.Component{Name: "pod network", Run: n.runNetwork})
	}
	if n.runtime != nil {
		list = append(list, lifecycle.Component{Name: "containerd", Run: n.runtime.Run})
	}
	return append(list,
		lifecycle.Component{Name: "kubelet", Run: n.kubelet.Run},
		lifecycle.Component{Name: "services", Run: n.proxy.Run},
		lifecycle.Component{Name: "dns", Run: n.dns.Run},
	)
}

func (n *node) runCaches(ctx context.Context, ready func()) error {
	ended := make(chan error, 2)
	for _, c := range []client.Cluster{n.self, n.services} {
		go func() { ended <- c.Start(ctx) }()
	}
	ready()
	return errors.Join(<-ended, <-ended)
}

// runNetwork runs the pod network and tells it the node's network as soon as
// the cluster has given it one.
func (n *node) runNetwork(ctx context.Context, ready func()) error {
	nodes, err := n.services.Cache().GetInformer(ctx, &corev1.Node{})
	if err != nil {
		return err
	}
	learn := func(obj any) {
		node, ok := obj.(*corev1.Node)
		if !ok || node.Name != n.cfg.nodeName || len(node.Spec.PodCIDRs) == 0 {
			return
		}
		var list []netip.Prefix
		for _, text := range node.Spec.PodCIDRs {
			if p, err := netip.ParsePrefix(text); err == nil {
				list = append(list, p)
			}
		}
		if err := n.network.SetPodCIDRs(ctx, list); err != nil {
			n.cfg.logger.Error("pod network", "networks", list, "error", err)
		}
	}
	follow, err := nodes.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: learn, UpdateFunc: func(_, obj any) { learn(obj) }})
	if err != nil {
		return err
	}
	defer func() { _ = nodes.RemoveEventHandler(follow) }()
	return n.network.Run(ctx, ready)
}

func (n *node) runtimeConfig() container.Config {
	c := n.cfg.container()
	c.Logger = n.cfg.logger.With("component", "containerd")
	if n.cfg.cni == "none" {
		c.CNIConfDir, c.CNIBinDir = "/etc/cni/net.d", "/opt/cni/bin"
	}
	return c
}

func (cfg *serverConfig) container() container.Config {
	return container.Config{DataDir: cfg.dataDir, StateDir: cfg.runDir, Logger: cfg.logger}
}

func (cfg *serverConfig) podnet() podnet.Config {
	return podnet.Config{DataDir: cfg.dataDir, StateDir: cfg.runDir, ClusterCIDRs: []netip.Prefix{cfg.pods}, Logger: cfg.logger.With("component", "podnet")}
}

func (cfg *serverConfig) kubeletDir() string { return filepath.Join(cfg.dataDir, "kubelet") }

func (cfg *serverConfig) manifests() string {
	if cfg.podManifests != "" {
		return cfg.podManifests
	}
	return filepath.Join(cfg.dataDir, "manifests")
}

// cgroupRoot is the control group of this node's pods: nodes with different
// data directories on one machine have different ones.
func (cfg *serverConfig) cgroupRoot() string {
	if cfg.dataDir == defaultDataDir {
		return "/proa"
	}
	return fmt.Sprintf("/proa-%x", sha256.Sum256([]byte(cfg.dataDir)))[:len("/proa-")+8]
}

// resolvFile is the resolv.conf with the host's true resolvers: where systemd
// runs a stub on loopback, which pods cannot reach, the file behind it.
func (cfg *serverConfig) resolvFile() string {
	if cfg.resolvConf != "" {
		return cfg.resolvConf
	}
	const file, behind = "/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"
	if b, err := os.ReadFile(file); err == nil && strings.Contains(string(b), "127.0.0.53") {
		if _, err := os.Stat(behind); err == nil {
			return behind
		}
	}
	return file
}

func parseLabels(list []string) (map[string]string, error) {
	labels := map[string]string{}
	for _, l := range list {
		key, value, ok := strings.Cut(l, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("--node-label: %q is not key=value", l)
		}
		labels[key] = value
	}
	return labels, nil
}

func parseTaints(list []string) ([]corev1.Taint, error) {
	var taints []corev1.Taint
	for _, text := range list {
		i := strings.LastIndex(text, ":")
		if i <= 0 {
			return nil, fmt.Errorf("--node-taint: %q is not key=value:Effect", text)
		}
		key, value, _ := strings.Cut(text[:i], "=")
		effect := corev1.TaintEffect(text[i+1:])
		switch effect {
		case corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute:
		default:
			return nil, fmt.Errorf("--node-taint: %q is no effect: NoSchedule, PreferNoSchedule or NoExecute", effect)
		}
		taints = append(taints, corev1.Taint{Key: key, Value: value, Effect: effect})
	}
	return taints, nil
}
