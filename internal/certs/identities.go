package certs

import "net"

// The identities that the API server itself uses.
const (
	// KubeletClientUser is the API server as a client of the nodes' API.
	KubeletClientUser = "kube-apiserver-kubelet-client"
	// FrontProxyUser is the API server as a client of extension API servers.
	FrontProxyUser = "front-proxy-client"
	// MastersGroup may do anything.
	MastersGroup = "system:masters"
)

// NodeIdentity is the user and the group of a node: for Client, SignClient.
func NodeIdentity(node string) (user, group string) {
	return "system:node:" + node, "system:nodes"
}

// NodeNames are those under which a node's API is reached: for Server,
// SignServer.
func NodeNames(node string, ips []net.IP) Names {
	user, group := NodeIdentity(node)
	return Names{CommonName: user, Organizations: []string{group}, DNS: []string{node}, IPs: ips}
}
