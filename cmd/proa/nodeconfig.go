package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/proa-dev/proa/container"
	"github.com/proa-dev/proa/kubelet"
	"github.com/proa-dev/proa/network/podnet"
)

// nodeConfig is what a node needs to know: flags of a server and of an agent,
// and what is filled in.
type nodeConfig struct {
	dataDir         string
	nodeName        string
	nodeIP          string
	nodeLabels      []string
	nodeTaints      []string
	runtimeEndpoint string
	cni             string
	resolvConf      string
	podManifests    string
	evictionHard    []string
	debug           bool

	// What the cluster's nodes have in common.
	pods          netip.Prefix
	dnsAddr       netip.Addr
	clusterDomain string
	podNetwork    string

	hostAddr netip.Addr
	labels   map[string]string
	taints   []corev1.Taint
	eviction kubelet.Thresholds
	runDir   string
	logger   *slog.Logger
}

// flags are those of every node, under k3s's names.
func (cfg *nodeConfig) flags(f *pflag.FlagSet) {
	f.StringVar(&cfg.dataDir, "data-dir", defaultDataDir, "folder that holds all state")
	f.StringVar(&cfg.nodeName, "node-name", "", "this node's name (default: the host name)")
	f.StringVar(&cfg.nodeIP, "node-ip", "", "this node's address (default: that of the default route)")
	f.StringSliceVar(&cfg.nodeLabels, "node-label", nil, "labels to register the node with, key=value")
	f.StringSliceVar(&cfg.nodeTaints, "node-taint", nil, "taints to register the node with, key=value:Effect")
	f.StringVar(&cfg.runtimeEndpoint, "container-runtime-endpoint", "", "CRI socket of another container runtime, in place of the built-in one")
	f.StringVar(&cfg.cni, "cni", "proa", `pod network: "proa", or "none" to use what /etc/cni/net.d says`)
	f.StringVar(&cfg.resolvConf, "resolv-conf", "", "the host's resolv.conf for pods and DNS (default: detected)")
	f.StringVar(&cfg.podManifests, "pod-manifest-path", "", "folder of static pods (default: <data-dir>/manifests)")
	f.StringSliceVar(&cfg.evictionHard, "eviction-hard", nil, "what the node must have left, as memory.available<100Mi,nodefs.available<10% (default: the kubelet's)")
	f.BoolVar(&cfg.debug, "debug", false, "log more")
}

// complete checks the flags and fills in what they leave open.
func (cfg *nodeConfig) complete(ctx context.Context) error {
	var errs []error
	if cfg.cni != "proa" && cfg.cni != "none" {
		errs = append(errs, fmt.Errorf(`--cni: %q is neither "proa" nor "none"`, cfg.cni))
	}
	if len(cfg.evictionHard) > 0 {
		var err error
		if cfg.eviction, err = kubelet.ParseThresholds(cfg.evictionHard); err != nil {
			errs = append(errs, fmt.Errorf("--eviction-hard: %w", err))
		}
	}
	fill := func(err error) { errs = append(errs, err) }
	var err error
	cfg.labels, err = parseLabels(cfg.nodeLabels)
	fill(err)
	cfg.taints, err = parseTaints(cfg.nodeTaints)
	fill(err)
	cfg.hostAddr, err = nodeAddress(ctx, cfg.nodeIP, cfg.pods.Addr())
	fill(err)
	cfg.dataDir, err = absolute(cfg.dataDir)
	fill(err)
	if cfg.nodeName == "" {
		cfg.nodeName, err = os.Hostname()
		fill(err)
	}
	cfg.nodeName = strings.ToLower(cfg.nodeName)
	if messages := validation.IsDNS1123Subdomain(cfg.nodeName); len(messages) > 0 {
		fill(fmt.Errorf("--node-name: %q: %s", cfg.nodeName, messages[0]))
	}
	cfg.runDir = runDir(cfg.dataDir)
	cfg.logger = newLogger(cfg.debug)
	return errors.Join(errs...)
}

// runDir holds sockets: short, because a socket's path may have 107 bytes.
func runDir(dataDir string) string {
	if dataDir == defaultDataDir {
		return "/run/proa"
	}
	return filepath.Join(dataDir, "run")
}

func (cfg *nodeConfig) container() container.Config {
	return container.Config{DataDir: cfg.dataDir, StateDir: cfg.runDir, Logger: cfg.logger}
}

func (cfg *nodeConfig) podnet() podnet.Config {
	return podnet.Config{
		DataDir: cfg.dataDir, StateDir: cfg.runDir, ClusterCIDRs: []netip.Prefix{cfg.pods},
		Between: cfg.podNetwork, Node: cfg.nodeName, Address: cfg.hostAddr, Logger: cfg.logger.With("component", "podnet"),
	}
}

func (cfg *nodeConfig) kubeletDir() string { return filepath.Join(cfg.dataDir, "kubelet") }

func (cfg *nodeConfig) manifests() string {
	if cfg.podManifests != "" {
		return cfg.podManifests
	}
	return filepath.Join(cfg.dataDir, "manifests")
}

// cgroupRoot is the control group of this node's pods: nodes with different
// data directories on one machine have different ones.
func (cfg *nodeConfig) cgroupRoot() string {
	if cfg.dataDir == defaultDataDir {
		return "/proa"
	}
	return fmt.Sprintf("/proa-%x", sha256.Sum256([]byte(cfg.dataDir)))[:len("/proa-")+8]
}

// resolvFile is the resolv.conf with the host's true resolvers: where systemd
// runs a stub on loopback, which pods cannot reach, the file behind it.
func (cfg *nodeConfig) resolvFile() string {
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
