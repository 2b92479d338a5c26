package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// hostIPs are this machine's addresses that others may use.
func hostIPs() []net.IP {
	var list []net.IP
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLinkLocalUnicast() {
			list = append(list, n.IP)
		}
	}
	return list
}

// nodeAddress is the address that others reach this node at: the one given,
// else the source address of the default route, else any, else loopback.
func nodeAddress(ctx context.Context, given string, like netip.Addr) (netip.Addr, error) {
	if given != "" {
		ip, err := netip.ParseAddr(given)
		if err != nil {
			return netip.Addr{}, fmt.Errorf("--node-ip: %q is not an address", given)
		}
		return ip, nil
	}
	// Connecting a UDP socket sends nothing; it only asks for the route.
	network, far := "udp4", "198.51.100.1:9"
	if like.Is6() {
		network, far = "udp6", "[2001:db8::1]:9"
	}
	if c, err := (&net.Dialer{}).DialContext(ctx, network, far); err == nil {
		defer c.Close()
		if ip, err := netip.ParseAddrPort(c.LocalAddr().String()); err == nil {
			return ip.Addr().Unmap(), nil
		}
	}
	fallback := netip.MustParseAddr("127.0.0.1")
	if like.Is6() {
		fallback = netip.IPv6Loopback()
	}
	for _, b := range hostIPs() {
		if ip, ok := netip.AddrFromSlice(b); ok && ip.Unmap().Is4() == like.Is4() && !ip.IsLoopback() {
			return ip.Unmap(), nil
		}
	}
	return fallback, nil
}

// claimHost makes this process the only Proa with a node on the machine's
// network, whose rules and links have one name each, until what is returned is
// closed or the process ends.
func claimHost(ctx context.Context) (io.Closer, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", "@proa-node") // abstract: it is the network namespace's, and no file
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, errors.New("another Proa runs a node on this machine: stop it first")
	}
	return l, err
}

// runHost holds the machine for the node.
func runHost(ctx context.Context, ready func()) error {
	held, err := claimHost(ctx)
	if err != nil {
		return err
	}
	ready()
	<-ctx.Done()
	return held.Close()
}
