// Package podnet is the pod network: each pod gets a veth pair, an address of
// the node's pod CIDR and a route, by netlink, in this process.
//
// The container runtime execs proa-cni, a few kilobytes that forward the call
// to the socket served here.
//
//	runtime ─exec→ proa-cni ─socket→ Network ─netlink→  veth, addresses, routes
//	                                     └─nftables→    masquerade, host ports
//
// To the pods of other nodes it routes through a VXLAN tunnel, or directly on one
// segment: see peers.go.
//
// There is no bridge: the pod's end of the veth has a /32 (/128) address and a
// default route to the gateway address, the node's end a route to the pod. All
// traffic of a pod, to its neighbour too, is routed by the node, so connection
// tracking and packet filters see both directions without br_netfilter, and a
// pod that reaches itself through a Service needs no hairpin mode. Both ends
// know each other's hardware address from the start: no ARP, no learning, no
// multicast from pod to pod.
//
// The gateway addresses, the first of each pod CIDR, are on the loopback link.
// The node's ends of the pods' links are named <Config.Link>-<hash>, so that one
// pattern (`iifname "proa0-*"`) stands for all pods of the node.
package podnet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Config says where the pod network keeps its things and what it is named.
type Config struct {
	// DataDir is Proa's data directory; what is allocated is kept in <DataDir>/cni.
	DataDir string
	// StateDir holds the server's socket.
	StateDir string
	// ConfDir is where the runtime looks for the network's configuration;
	// <DataDir>/cni/net.d when empty.
	ConfDir string
	// Link is how the names of the node's ends begin: 1 to 6 letters and digits, proa0 when empty.
	// Several nodes in one network namespace need different names.
	Link string
	// PodCIDRs are the node's, at most one per address family. They may be
	// learnt later, see SetPodCIDRs.
	PodCIDRs []netip.Prefix
	// ClusterCIDRs hold the pods of all nodes: traffic to them keeps its
	// source address, other traffic that leaves the node gets the node's.
	ClusterCIDRs []netip.Prefix
	// MTU of the pods' links. When 0 it is that of the link with the default
	// route, less what a tunnel to other nodes adds.
	MTU int
	// Between says how pods of different nodes reach each other: VXLAN, Direct,
	// or empty for a node that is alone. Node is this node's name in the
	// cluster, and Address the one by which other nodes reach it.
	Between string
	Node    string
	Address netip.Addr
	// Logger gets what is not told to the runtime.
	Logger *slog.Logger
}

// Validate fills what may be empty and rejects what cannot work.
func (c *Config) Validate() error {
	if c.DataDir == "" || c.StateDir == "" {
		return errors.New("podnet: DataDir and StateDir must be set")
	}
	if c.Link == "" {
		c.Link = "proa0"
	}
	if !regexp.MustCompile(`^[a-z][a-z0-9]{0,5}$`).MatchString(c.Link) {
		return fmt.Errorf("podnet: link name %q: want 1 to 6 lower-case letters and digits", c.Link)
	}
	for _, dir := range []*string{&c.DataDir, &c.StateDir} {
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return err
		}
		*dir = abs
	}
	// The path stands in the configuration as it is, see proa-cni.c.
	if socket := c.socket(); !regexp.MustCompile(`^[A-Za-z0-9/._+-]{1,100}$`).MatchString(socket) {
		return fmt.Errorf("podnet: socket path %q: want at most 100 letters, digits and any of /._+-", socket)
	}
	if c.ConfDir == "" {
		c.ConfDir = filepath.Join(c.DataDir, "cni", "net.d")
	}
	if c.MTU != 0 && (c.MTU < 576 || c.MTU > 65535) {
		return fmt.Errorf("podnet: MTU %d: want 576 to 65535", c.MTU)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	for _, p := range c.ClusterCIDRs {
		if !p.IsValid() {
			return errors.New("podnet: invalid cluster CIDR")
		}
	}
	if err := c.validateBetween(); err != nil {
		return err
	}
	return validatePodCIDRs(c.PodCIDRs)
}

func validatePodCIDRs(list []netip.Prefix) error {
	var seen [2]bool
	for _, p := range list {
		family, room := 0, 32-p.Bits()
		if p.Addr().Is6() {
			family, room = 1, 128-p.Bits()
		}
		switch {
		case !p.IsValid() || p.Addr().Is4In6():
			return fmt.Errorf("podnet: invalid pod CIDR %s", p)
		case room < 2:
			return fmt.Errorf("podnet: pod CIDR %s has no room for a pod", p)
		case seen[family]:
			return fmt.Errorf("podnet: pod CIDR %s: one per address family", p)
		}
		seen[family] = true
	}
	return nil
}

func (c *Config) socket() string   { return filepath.Join(c.StateDir, "cni.sock") }
func (c *Config) confFile() string { return filepath.Join(c.ConfDir, "10-"+c.Link+".conflist") }
func (c *Config) podsDir() string  { return filepath.Join(c.DataDir, "cni", "pods") }

// rangesFile remembers the pod CIDRs the node was set up for, so that they can
// be taken back.
func (c *Config) rangesFile() string { return filepath.Join(c.DataDir, "cni", "ranges.json") }

// Network is the pod network of one node.
type Network struct {
	cfg   Config
	store *store
	rules *rules
	calls keyedMutex
	// poke has the ways to other nodes looked at.
	poke chan struct{}

	mu        sync.Mutex
	peers     []Peer // nil until they are told
	listening bool
	cidrs     []netip.Prefix
	applied   bool // the machine fits cidrs
	// looked is when other firewalls were looked at last.
	looked time.Time
}

// New prepares a Network; Run starts it.
func New(cfg Config) (*Network, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Network{
		cfg:   cfg,
		store: newStore(cfg.podsDir()),
		rules: newRules(cfg.Link, cfg.ClusterCIDRs, cfg.Between != ""),
		cidrs: masked(cfg.PodCIDRs),
		poke:  make(chan struct{}, 1),
	}, nil
}

// Run serves the runtime's calls until ctx ends. It calls ready once it
// listens; pods get a network as soon as the pod CIDRs are known too. What is
// set up stays when it ends, so that pods stay connected over a restart.
func (n *Network) Run(ctx context.Context, ready func()) error {
	// The runtime believes in a network while this file exists.
	if err := removeIfExists(n.cfg.confFile()); err != nil {
		return fmt.Errorf("podnet: %w", err)
	}
	if err := n.store.load(n.cfg.Logger); err != nil {
		return fmt.Errorf("podnet: %w", err)
	}
	if err := n.recall(); err != nil {
		return fmt.Errorf("podnet: %w", err)
	}
	srv, err := listen(n.cfg.socket(), n.handle, n.cfg.Logger)
	if err != nil {
		return fmt.Errorf("podnet: %w", err)
	}
	if err := n.start(ctx); err != nil {
		return errors.Join(fmt.Errorf("podnet: %w", err), srv.close())
	}
	ready()
	var fabric sync.WaitGroup
	fabricCtx, stop := context.WithCancel(ctx)
	fabric.Go(func() { n.runFabric(fabricCtx) })
	err = srv.serve(ctx)
	stop()
	fabric.Wait()
	n.mu.Lock()
	n.listening, n.applied = false, false
	n.mu.Unlock()
	return errors.Join(err, removeIfExists(n.cfg.confFile()))
}

// recall takes the pod CIDRs of the last time until the cluster tells: they
// hardly ever change, and pods can come and go meanwhile.
func (n *Network) recall() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.cidrs) > 0 {
		return nil
	}
	last, err := readRanges(n.cfg.rangesFile())
	if err == nil && validatePodCIDRs(last) == nil {
		n.cidrs = last
	}
	return err
}

// start brings the node's end up if the pod CIDRs are known, after it has freed
// what belongs to pods that are gone.
func (n *Network) start(ctx context.Context) error {
	n.freeLeaks()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listening = true
	if len(n.cidrs) == 0 {
		return nil
	}
	return n.apply(ctx)
}

// SetPodCIDRs tells the node's pod CIDRs once the cluster has assigned them.
// Running pods keep their addresses.
func (n *Network) SetPodCIDRs(ctx context.Context, list []netip.Prefix) error {
	if len(list) == 0 {
		return errors.New("podnet: no pod CIDR")
	}
	if err := validatePodCIDRs(list); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if list = masked(list); slices.Equal(list, n.cidrs) && n.applied {
		return nil
	}
	n.cidrs, n.applied = list, false
	if !n.listening {
		return nil
	}
	return n.apply(ctx)
}

// apply makes the machine fit n.cidrs and then lets the runtime see the
// network. n.mu is held.
func (n *Network) apply(ctx context.Context) error {
	if err := n.setUpNode(); err != nil {
		return fmt.Errorf("podnet: %w", err)
	}
	n.store.setRanges(n.cidrs)
	if err := n.rules.replace(n.cidrs, n.store.list()); err != nil {
		return fmt.Errorf("podnet: nftables: %w", err)
	}
	n.openForward(ctx)
	if err := writeConf(n.cfg.confFile(), n.cfg.Link, n.cfg.socket()); err != nil {
		return fmt.Errorf("podnet: %w", err)
	}
	n.applied = true
	n.pokeFabric()
	return nil
}

// forwardPeriod is how often at most a new pod makes us look at others'
// firewalls, which may have come after us.
const forwardPeriod = 10 * time.Second

func (n *Network) keepForwardOpen(ctx context.Context) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if time.Since(n.looked) > forwardPeriod {
		n.openForward(ctx)
	}
}

// openForward sees to other firewalls; without it only some traffic of pods may
// be lost, so an error is told and no more. n.mu is held.
func (n *Network) openForward(ctx context.Context) {
	n.looked = time.Now()
	if err := n.rules.openForward(ctx); err != nil {
		n.cfg.Logger.Warn("another firewall may drop the traffic of pods", "error", err)
	}
}

// freeLeaks releases what belongs to pods whose network namespace is gone:
// after a reboot or a crash the runtime may never ask for it.
func (n *Network) freeLeaks() {
	for _, a := range n.store.list() {
		if _, err := os.Stat(a.NetNS); !errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err := n.release(a.ContainerID, a.IfName); err != nil {
			n.cfg.Logger.Warn("address of a pod that is gone is not freed", "container", a.ContainerID, "error", err)
		}
	}
}

// Cleanup removes everything from the machine: links, routes, rules, socket and
// what is remembered of pods. For a node that is taken down; not while Run serves.
func Cleanup(ctx context.Context, cfg Config) error {
	if err := cfg.Validate(); err != nil {
		return err
	}
	return errors.Join(
		removeIfExists(cfg.confFile()),
		removeIfExists(cfg.socket()),
		os.RemoveAll(cfg.podsDir()),
		dropResults(cfg),
		newRules(cfg.Link, nil, false).remove(ctx),
		tearDownFabric(cfg.Link),
		tearDownNode(cfg.Link, cfg.rangesFile()),
	)
}

// resultsDir is where the runtime's CNI library keeps the results of calls, for
// all networks of the machine. It names no other place to go.
const resultsDir = "/var/lib/cni/results"

// dropResults removes the results of calls to this network that the runtime
// did not come to undo.
func dropResults(cfg Config) error {
	files, err := filepath.Glob(filepath.Join(resultsDir, cfg.Link+"-*"))
	errs := []error{err}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			if !errors.Is(err, os.ErrNotExist) {
				errs = append(errs, err)
			}
			continue
		}
		var call struct {
			Config []byte `json:"config"`
			Name   string `json:"networkName"`
		}
		// Another node of this machine may use the same name.
		if json.Unmarshal(data, &call) != nil || call.Name != cfg.Link || !bytes.Contains(call.Config, []byte(strconv.Quote(cfg.socket()))) {
			continue
		}
		errs = append(errs, removeIfExists(file))
	}
	return errors.Join(errs...)
}

func removeIfExists(name string) error {
	if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func masked(list []netip.Prefix) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, p := range list {
		out[i] = p.Masked()
	}
	return out
}

// keyedMutex serialises the calls for one pod and lets others pass.
type keyedMutex struct {
	mu   sync.Mutex
	held map[string]*keyLock
}

type keyLock struct {
	mu      sync.Mutex
	waiting int
}

func (k *keyedMutex) lock(key string) (unlock func()) {
	k.mu.Lock()
	if k.held == nil {
		k.held = map[string]*keyLock{}
	}
	l := k.held[key]
	if l == nil {
		l = &keyLock{}
		k.held[key] = l
	}
	l.waiting++
	k.mu.Unlock()
	l.mu.Lock()
	return func() {
		l.mu.Unlock()
		k.mu.Lock()
		defer k.mu.Unlock()
		if l.waiting--; l.waiting == 0 {
			delete(k.held, key)
		}
	}
}
