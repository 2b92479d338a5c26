package main

import (
	"context"
	"crypto/tls"
	"errors"
	"net/netip"
	"path/filepath"
	"reflect"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/cache"
	ctrl "sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/proa-dev/proa/api/core"
	"github.com/proa-dev/proa/apiserver/kinds"
	"github.com/proa-dev/proa/client"
	"github.com/proa-dev/proa/container"
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

// node is the parts that run pods.
type node struct {
	cfg *nodeConfig
	// self acts as the node, services as the Service proxy: it sees all nodes.
	self, services client.Cluster

	runtime *container.Runtime // nil when another one is used
	network *podnet.Network    // nil with --cni=none
	proxy   *proxy.Proxy
	dns     *dns.Server
	kubelet *kubelet.Kubelet
}

// ownObjects is what a node caches for itself.
func ownObjects(name string) map[schema.GroupVersionKind]fields.Selector {
	return map[schema.GroupVersionKind]fields.Selector{
		corev1.SchemeGroupVersion.WithKind("Pod"):  fields.OneTermEqualSelector("spec.nodeName", name),
		corev1.SchemeGroupVersion.WithKind("Node"): fields.OneTermEqualSelector("metadata.name", name),
	}
}

// newNode makes a node that sees the cluster through self and services, and
// serves its API by serving.
func newNode(cfg *nodeConfig, self, services client.Cluster, serving *tls.Config) (*node, error) {
	n := &node{cfg: cfg, self: self, services: services}
	var err error
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
	n.kubelet, err = kubelet.New(n.self, kubelet.Config{
		NodeName: cfg.nodeName, NodeIPs: []string{cfg.hostAddr.String()},
		RootDir: cfg.kubeletDir(), StorageDir: filepath.Join(cfg.dataDir, "storage"), PodLogsDir: podLogs, ContainerLogsDir: containerLogs,
		RuntimeEndpoint: endpoint, ClusterDNS: []string{cfg.dnsAddr.String()}, ClusterDomain: cfg.clusterDomain,
		ResolvConf: cfg.resolvFile(), StaticPodDir: cfg.manifests(), DefaultPod: func(pod *corev1.Pod) { core.Pod().Default(pod) },
		Listen: ":10250", Port: 10250, TLS: serving,
		CgroupRoot: cfg.cgroupRoot(), Labels: cfg.labels, Taints: cfg.taints, EvictionHard: cfg.eviction, Version: kinds.Version().GitVersion,
		Logger: cfg.logger.With("component", "kubelet"),
	})
	return n, err
}

// components are the node's parts in start order.
func (n *node) components() []lifecycle.Component {
	list := []lifecycle.Component{{Name: "host", Run: runHost}, {Name: "node caches", Run: n.runCaches}}
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
	// Many changes at once are looked at once.
	changed := make(chan struct{}, 1)
	poke := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	follow, err := nodes.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { n.learnNode(ctx, obj); poke() },
		UpdateFunc: func(old, obj any) {
			n.learnNode(ctx, obj)
			if moved(old, obj) { // nodes report all the time
				poke()
			}
		},
		DeleteFunc: func(any) { poke() },
	})
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	wg.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-changed:
				n.learnPeers(ctx)
			}
		}
	})
	defer func() { _ = nodes.RemoveEventHandler(follow) }()
	return n.network.Run(ctx, ready)
}

// learnNode tells the pod network which pods are this node's.
func (n *node) learnNode(ctx context.Context, obj any) {
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

// moved says whether a node's pods are reached in another way than before.
func moved(old, obj any) bool {
	before, ok1 := old.(*corev1.Node)
	now, ok2 := obj.(*corev1.Node)
	return !ok1 || !ok2 || !reflect.DeepEqual(peers([]*corev1.Node{before}, ""), peers([]*corev1.Node{now}, ""))
}

// learnPeers tells the pod network of all other nodes.
func (n *node) learnPeers(ctx context.Context) {
	var list corev1.NodeList
	if err := n.services.Cache().List(ctx, &list, ctrl.UnsafeDisableDeepCopy); err != nil {
		if ctx.Err() == nil {
			n.cfg.logger.Error("list nodes", "error", err)
		}
		return
	}
	nodes := make([]*corev1.Node, len(list.Items))
	for i := range list.Items {
		nodes[i] = &list.Items[i]
	}
	n.network.SetPeers(peers(nodes, n.cfg.nodeName))
}

func (n *node) runtimeConfig() container.Config {
	c := n.cfg.container()
	c.Logger = n.cfg.logger.With("component", "containerd")
	if n.cfg.cni == "none" {
		c.CNIConfDir, c.CNIBinDir = "/etc/cni/net.d", "/opt/cni/bin"
	}
	return c
}
