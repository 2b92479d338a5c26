// Package connect leads requests on to nodes, pods and services: container
// logs, exec, attach and port forwarding by way of the node's kubelet, and
// plain HTTP proxies. Connections that upgrade (SPDY, WebSocket) are passed on
// as they are.
package connect

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	translator "k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"github.com/proa-dev/proa/api"
	"github.com/proa-dev/proa/apiserver/registry"
)

// Config is what a Proxy is made of.
type Config struct {
	Source Source
	// Transport reaches kubelets, with the client certificate for them.
	Transport http.RoundTripper
	// Direct reaches pods and services; nil means http.DefaultTransport's
	// settings without a proxy.
	Direct     http.RoundTripper
	Registry   *registry.Core
	Authorizer authorizer.UnconditionalAuthorizer
	Logger     *slog.Logger
	// Fail answers with an error that comes up after ServeConnect has
	// returned control to the proxied connection.
	Fail func(w http.ResponseWriter, r *http.Request, err error)
}

// Source reads objects: Live as new as every acknowledged write, Get and List
// from a cache.
type Source interface {
	Get(gr schema.GroupResource, namespace, name string) (api.Object, bool)
	Live(ctx context.Context, gr schema.GroupResource, namespace, name string) (api.Object, bool)
	List(gr schema.GroupResource, namespace string) []api.Object
}

// Proxy serves the subresources that lead out of the API server.
type Proxy struct{ cfg Config }

// New returns a proxy.
func New(cfg Config) (*Proxy, error) {
	switch {
	case cfg.Source == nil:
		return nil, errors.New("connect: no source")
	case cfg.Transport == nil:
		return nil, errors.New("connect: no transport to kubelets")
	case cfg.Fail == nil:
		return nil, errors.New("connect: no way to report errors")
	}
	if cfg.Direct == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.Proxy = nil // pods are never behind a proxy of the machine
		// Whoever asks has chosen https without naming a certificate authority.
		t.TLSClientConfig = insecureTLS()
		cfg.Direct = t
	}
	return &Proxy{cfg: cfg}, nil
}

var (
	pods     = schema.GroupResource{Resource: "pods"}
	nodes    = schema.GroupResource{Resource: "nodes"}
	services = schema.GroupResource{Resource: "services"}
)

// ServeConnect implements handlers.Connect.
func (p *Proxy) ServeConnect(w http.ResponseWriter, r *http.Request, t registry.Target, rest string) error {
	if err := allowed(r, t); err != nil {
		return err
	}
	if err := p.mayStream(r, t, rest); err != nil {
		return err
	}
	r, rest, err := p.admit(r, t, rest)
	if err != nil {
		return err
	}
	switch t.Kind.Resource + "/" + t.Subresource {
	case "pods/log":
		return p.logs(w, r, t)
	case "pods/exec", "pods/attach":
		return p.stream(w, r, t)
	case "pods/portforward":
		return p.portForward(w, r, t)
	case "pods/proxy":
		return p.podProxy(w, r, t, rest)
	case "services/proxy":
		return p.serviceProxy(w, r, t, rest)
	case "nodes/proxy":
		return p.nodeProxy(w, r, t, rest)
	}
	return apierrors.NewMethodNotSupported(t.Kind.GR(), "connect")
}

// allowed checks the method.
func allowed(r *http.Request, t registry.Target) error {
	switch t.Subresource {
	case "proxy":
		return nil
	case "log":
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			return nil
		}
	default:
		if r.Method == http.MethodGet || r.Method == http.MethodPost {
			return nil
		}
	}
	return apierrors.NewMethodNotSupported(t.Kind.GR(), strings.ToLower(r.Method))
}

// runsCommands says that a path of a node's API leads into a container.
func runsCommands(rest string) bool {
	first, _, _ := strings.Cut(strings.TrimPrefix(path.Clean("/"+rest), "/"), "/")
	return slices.Contains([]string{"exec", "attach", "portForward", "run"}, first)
}

// mayStream asks for "create" where a WebSocket begins by GET what needs a
// POST otherwise: to run a command is no read.
func (p *Proxy) mayStream(r *http.Request, t registry.Target, rest string) error {
	switch {
	case r.Method == http.MethodPost, p.cfg.Authorizer == nil, t.Subresource == "log":
		return nil
	case t.Subresource == "proxy" && (t.Kind.Resource != "nodes" || !runsCommands(rest)):
		return nil
	}
	u, ok := request.UserFrom(r.Context())
	if !ok {
		return apierrors.NewInternalError(errors.New("no user in the request's context"))
	}
	return registry.Authorize(r.Context(), p.cfg.Authorizer, authorizer.AttributesRecord{
		User: u, Verb: "create", Namespace: t.Namespace, Name: t.Name, APIVersion: "v1",
		Resource: t.Kind.Resource, Subresource: t.Subresource, ResourceRequest: true,
	})
}

func (p *Proxy) pod(ctx context.Context, t registry.Target) (*corev1.Pod, error) {
	obj, ok := p.cfg.Source.Live(ctx, pods, t.Namespace, t.Name)
	if !ok {
		return nil, apierrors.NewNotFound(pods, t.Name)
	}
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("unexpected object type: %T", obj))
	}
	return pod, nil
}

// kubelet is where a node's kubelet listens.
func (p *Proxy) kubelet(ctx context.Context, name string) (*url.URL, error) {
	obj, ok := p.cfg.Source.Live(ctx, nodes, "", name)
	if !ok {
		return nil, apierrors.NewNotFound(nodes, name)
	}
	node, ok := obj.(*corev1.Node)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("unexpected object type: %T", obj))
	}
	return KubeletURL(node)
}

// KubeletURL is where the kubelet of node listens.
func KubeletURL(node *corev1.Node) (*url.URL, error) {
	host, err := address(node)
	if err != nil {
		return nil, err
	}
	port := int(node.Status.DaemonEndpoints.KubeletEndpoint.Port)
	if port == 0 {
		port = 10250
	}
	return &url.URL{Scheme: "https", Host: net.JoinHostPort(host, strconv.Itoa(port))}, nil
}

// address picks the node's address that the control plane reaches it by.
func address(node *corev1.Node) (string, error) {
	for _, kind := range []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeHostName, corev1.NodeInternalDNS, corev1.NodeExternalIP, corev1.NodeExternalDNS} {
		for _, a := range node.Status.Addresses {
			if a.Type == kind && a.Address != "" {
				return a.Address, nil
			}
		}
	}
	return "", apierrors.NewInternalError(fmt.Errorf("no preferred addresses found; known addresses: %v", node.Status.Addresses))
}

// toKubelet passes the request on to the node of pod.
func (p *Proxy) toKubelet(w http.ResponseWriter, r *http.Request, pod *corev1.Pod, path string, query url.Values, translate translation) error {
	if pod.Spec.NodeName == "" {
		return apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", pod.Name))
	}
	to, err := p.kubelet(r.Context(), pod.Spec.NodeName)
	if err != nil {
		return err
	}
	to.Path, to.RawQuery = path, query.Encode()
	r = r.Clone(r.Context())
	for _, name := range []string{"Authorization", "Cookie"} {
		r.Header.Del(name) // they are for the API server alone
	}
	h := proxy.NewUpgradeAwareHandler(to, p.cfg.Transport, false, true, &responder{p: p})
	h.UseLocationHost = true
	translate(to, h).ServeHTTP(w, r)
	return nil
}

// translation wraps the plain way to a node by one that knows what clients
// speak and container runtimes do not.
type translation func(to *url.URL, plain http.Handler) http.Handler

// streams translates the fifth version of the stream protocol over WebSocket,
// which can close stdin, to SPDY (KEP-4006).
func (p *Proxy) streams(opts translator.Options) translation {
	return func(to *url.URL, plain http.Handler) http.Handler {
		return translator.NewTranslatingHandler(plain,
			translator.NewStreamTranslatorHandler(to, p.cfg.Transport, 0, opts), wsstream.IsWebSocketRequestWithStreamCloseProtocol)
	}
}

// tunnel carries SPDY in a WebSocket (KEP-4006).
func tunnel(_ *url.URL, plain http.Handler) http.Handler {
	return translator.NewTranslatingHandler(plain, translator.NewTunnelingHandler(plain), wsstream.IsWebSocketRequestWithTunnelingProtocol)
}

// responder reports what goes wrong on the way to the other server.
type responder struct{ p *Proxy }

// Error implements proxy.ErrorResponder.
func (e *responder) Error(w http.ResponseWriter, r *http.Request, err error) {
	e.p.cfg.Logger.Debug("proxy", "path", r.URL.Path, "error", err)
	e.p.cfg.Fail(w, r, asStatus(err))
}

func asStatus(err error) error {
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return err
	}
	return apierrors.NewServiceUnavailable(fmt.Sprintf("error trying to reach service: %v", err))
}

// container picks the container of a pod that a request is about.
func container(pod *corev1.Pod, name string) (string, error) {
	if name != "" {
		for _, n := range allContainers(pod) {
			if n == name {
				return name, nil
			}
		}
		return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", name, pod.Name))
	}
	switch len(pod.Spec.Containers) {
	case 1:
		return pod.Spec.Containers[0].Name, nil
	case 0:
		return "", apierrors.NewBadRequest(fmt.Sprintf("a container name must be specified for pod %s", pod.Name))
	}
	text := fmt.Sprintf("a container name must be specified for pod %s, choose one of: [%s]", pod.Name, names(pod.Spec.Containers))
	if len(pod.Spec.InitContainers) > 0 {
		text += fmt.Sprintf(" or one of the init containers: [%s]", names(pod.Spec.InitContainers))
	}
	if len(pod.Spec.EphemeralContainers) > 0 {
		ephemeral := make([]string, len(pod.Spec.EphemeralContainers))
		for i, c := range pod.Spec.EphemeralContainers {
			ephemeral[i] = c.Name
		}
		text += fmt.Sprintf(" or one of the ephemeral containers: [%s]", strings.Join(ephemeral, " "))
	}
	return "", apierrors.NewBadRequest(text)
}

func names(cs []corev1.Container) string {
	out := make([]string, len(cs))
	for i, c := range cs {
		out[i] = c.Name
	}
	return strings.Join(out, " ")
}

func allContainers(pod *corev1.Pod) []string {
	var out []string
	for _, c := range pod.Spec.InitContainers {
		out = append(out, c.Name)
	}
	for _, c := range pod.Spec.Containers {
		out = append(out, c.Name)
	}
	for _, c := range pod.Spec.EphemeralContainers {
		out = append(out, c.Name)
	}
	return out
}
