package certs

// The identities that the API server itself uses.
const (
	// KubeletClientUser is the API server as a client of the nodes' API.
	KubeletClientUser = "kube-apiserver-kubelet-client"
	// FrontProxyUser is the API server as a client of extension API servers.
	FrontProxyUser = "front-proxy-client"
	// MastersGroup may do anything.
	MastersGroup = "system:masters"
)
