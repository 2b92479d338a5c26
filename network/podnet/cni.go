package podnet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/containernetworking/cni/pkg/version"
)

// confVersion is the version of the CNI specification our configuration uses.
const confVersion = "1.0.0"

// supported are the versions a configuration may use.
func supported() []string { return []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} }

// errNotAvailable is CNI's code for a plugin that cannot serve yet.
const errNotAvailable = 50

// portMapping is a host port of a pod, as runtimes hand it over.
type portMapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol,omitempty"`
	HostIP        string `json:"hostIP,omitempty"`
}

// netConf is the network configuration on stdin.
type netConf struct {
	types.PluginConf
	RuntimeConfig struct {
		PortMappings []portMapping `json:"portMappings,omitempty"`
	} `json:"runtimeConfig"`
}

// writeConf writes the network's configuration for the runtime, as one atomic step.
func writeConf(file, name, socket string) error {
	data, err := json.MarshalIndent(map[string]any{
		"cniVersion": confVersion,
		"name":       name,
		"plugins": []any{map[string]any{
			"type":         "proa-cni",
			"proaSocket":   socket,
			"capabilities": map[string]bool{"portMappings": true},
		}},
	}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	// Watchers reload on every event; the same content needs none.
	if old, err := os.ReadFile(file); err == nil && bytes.Equal(old, data) {
		return nil
	}
	return replaceFile(file, data, 0o600)
}

// handle answers one call by the CNI specification.
func (n *Network) handle(ctx context.Context, r request) ([]byte, byte) {
	stdout, err := n.dispatch(ctx, r)
	if err == nil {
		return stdout, 0
	}
	var cniErr *types.Error
	if !errors.As(err, &cniErr) {
		cniErr = types.NewError(types.ErrInternal, err.Error(), "")
	}
	n.cfg.Logger.Warn("pod network call failed", "command", r.env["CNI_COMMAND"], "container", r.env["CNI_CONTAINERID"], "error", err)
	data, err := json.Marshal(struct {
		CNIVersion string `json:"cniVersion"`
		*types.Error
	}{confVersion, cniErr})
	if err != nil {
		return nil, 1
	}
	return data, 1
}

func (n *Network) dispatch(ctx context.Context, r request) ([]byte, error) {
	if r.env["CNI_COMMAND"] == "VERSION" {
		return json.Marshal(version.PluginSupports(supported()...))
	}
	var conf netConf
	if err := json.Unmarshal(r.stdin, &conf); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "cannot read the network configuration", err.Error())
	}
	if !slices.Contains(supported(), conf.CNIVersion) {
		return nil, types.NewError(types.ErrIncompatibleCNIVersion, fmt.Sprintf("CNI version %q is not supported", conf.CNIVersion), fmt.Sprint(supported()))
	}
	switch r.env["CNI_COMMAND"] {
	case "STATUS":
		return nil, n.status()
	case "GC":
		return nil, n.collect(conf.ValidAttachments)
	}
	call, err := parseCall(r.env)
	if err != nil {
		return nil, err
	}
	defer n.calls.lock(call.key())()
	switch r.env["CNI_COMMAND"] {
	case "ADD":
		result, err := n.add(ctx, call, conf)
		if err != nil {
			return nil, err
		}
		out, err := result.GetAsVersion(conf.CNIVersion)
		if err != nil {
			return nil, err
		}
		return json.Marshal(out)
	case "DEL":
		return nil, n.releaseLocked(call.key())
	case "CHECK":
		return nil, n.check(call)
	}
	return nil, types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("unknown CNI_COMMAND %q", r.env["CNI_COMMAND"]), "")
}

// parseCall reads which link of which pod a call is about. Both names become
// parts of file names.
func parseCall(env map[string]string) (attachment, error) {
	a := attachment{ContainerID: env["CNI_CONTAINERID"], IfName: env["CNI_IFNAME"], NetNS: env["CNI_NETNS"]}
	if err := utils.ValidateContainerID(a.ContainerID); err != nil {
		return a, err
	}
	if len(a.ContainerID) > 200 {
		return a, types.NewError(types.ErrInvalidEnvironmentVariables, "CNI_CONTAINERID is too long", "")
	}
	if err := utils.ValidateInterfaceName(a.IfName); err != nil {
		return a, err
	}
	if a.NetNS == "" && (env["CNI_COMMAND"] == "ADD" || env["CNI_COMMAND"] == "CHECK") {
		return a, types.NewError(types.ErrInvalidEnvironmentVariables, "CNI_NETNS is missing", "")
	}
	return a, nil
}

func (n *Network) status() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.cidrs) == 0 {
		return types.NewError(errNotAvailable, "the node has no pod CIDR yet", "")
	}
	return nil
}

// collect removes every attachment that the runtime does not know.
func (n *Network) collect(valid []types.GCAttachment) error {
	keep := map[string]bool{}
	for _, v := range valid {
		keep[attachment{ContainerID: v.ContainerID, IfName: v.IfName}.key()] = true
	}
	var errs []error
	for _, a := range n.store.list() {
		if !keep[a.key()] {
			errs = append(errs, n.release(a.ContainerID, a.IfName))
		}
	}
	return errors.Join(errs...)
}

// add connects a pod. Adding it again, after a crash half way, is the same as once.
func (n *Network) add(ctx context.Context, call attachment, conf netConf) (*types100.Result, error) {
	ports, err := checkPorts(conf.RuntimeConfig.PortMappings)
	if err != nil {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, err.Error(), "")
	}
	if had, ok := n.store.get(call.key()); ok {
		if err := n.rules.removePorts(had); err != nil {
			return nil, fmt.Errorf("host ports: %w", err)
		}
	}
	call.Ports = ports
	a, err := n.store.allocate(call)
	if err != nil {
		return nil, types.NewError(types.ErrTryAgainLater, err.Error(), "")
	}
	gateways, err := n.gateways(a.IPs)
	var link podLink
	if err == nil {
		link, err = connect(n.cfg.Link, a, gateways, n.cfg.podMTU())
	}
	if err == nil {
		err = n.rules.addPorts(a)
	}
	if err != nil {
		return nil, errors.Join(err, n.releaseLocked(a.key()))
	}
	n.keepForwardOpen(ctx)
	return result(a, link), nil
}

// gateways gives the node's address for each of a pod's. A pod from before the
// pod CIDR changed gets the new one of its family.
func (n *Network) gateways(ips []netip.Addr) ([]netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	list := make([]netip.Addr, len(ips))
	for i, ip := range ips {
		for _, r := range n.cidrs {
			if r.Addr().Is4() == ip.Is4() {
				list[i] = gateway(r)
			}
		}
		if !list[i].IsValid() {
			return nil, fmt.Errorf("the node has no pod CIDR for %s any more", ip)
		}
	}
	return list, nil
}

func result(a attachment, l podLink) *types100.Result {
	res := &types100.Result{
		CNIVersion: types100.ImplementedSpecVersion,
		Interfaces: []*types100.Interface{
			{Name: l.hostName, Mac: l.hostMAC.String(), Mtu: l.mtu},
			{Name: a.IfName, Mac: l.podMAC.String(), Mtu: l.mtu, Sandbox: a.NetNS},
		},
	}
	for i, ip := range a.IPs {
		res.IPs = append(res.IPs, &types100.IPConfig{
			Interface: types100.Int(1),
			Address:   net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(ip.BitLen(), ip.BitLen())},
			Gateway:   l.gateways[i].AsSlice(),
		})
		all := net.IPNet{IP: make(net.IP, ip.BitLen()/8), Mask: net.CIDRMask(0, ip.BitLen())}
		res.Routes = append(res.Routes, &types.Route{Dst: all, GW: l.gateways[i].AsSlice()})
	}
	return res
}

// release disconnects a pod; that it is not connected is fine.
func (n *Network) release(containerID, ifName string) error {
	key := attachment{ContainerID: containerID, IfName: ifName}.key()
	defer n.calls.lock(key)()
	return n.releaseLocked(key)
}

// releaseLocked works from the outside in: no packet reaches an address that is
// free for the next pod.
func (n *Network) releaseLocked(key string) error {
	a, ok := n.store.get(key)
	if ok {
		if err := n.rules.removePorts(a); err != nil {
			return fmt.Errorf("host ports: %w", err)
		}
	}
	if err := disconnect(n.cfg.Link, key); err != nil {
		return err
	}
	return n.store.free(key)
}

// check tells whether a pod is still connected as it was.
func (n *Network) check(call attachment) error {
	a, ok := n.store.get(call.key())
	if !ok {
		return types.NewError(types.ErrUnknownContainer, "the pod is not connected", "")
	}
	a.NetNS = call.NetNS
	return inspect(n.cfg.Link, a)
}

// checkPorts rejects what cannot be mapped and leaves out what asks for nothing.
func checkPorts(list []portMapping) ([]portMapping, error) {
	var out []portMapping
	for _, p := range list {
		if p.HostPort == 0 {
			continue
		}
		if p.HostPort < 0 || p.HostPort > 65535 || p.ContainerPort < 1 || p.ContainerPort > 65535 {
			return nil, fmt.Errorf("host port %d to %d: out of range", p.HostPort, p.ContainerPort)
		}
		if _, ok := protocol(p.Protocol); !ok {
			return nil, fmt.Errorf("host port %d: unknown protocol %q", p.HostPort, p.Protocol)
		}
		if p.HostIP != "" {
			if _, err := netip.ParseAddr(p.HostIP); err != nil {
				return nil, fmt.Errorf("host port %d: %w", p.HostPort, err)
			}
		}
		out = append(out, p)
	}
	return out, nil
}
