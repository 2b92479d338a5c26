package connect

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/proxy"

	"github.com/proa-dev/proa/apiserver/registry"
)

// maxErrorBody is how much of a kubelet's error is passed on.
const maxErrorBody = 8 << 10

// kubeletError makes a status error of a kubelet's refusal.
func kubeletError(resp *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	if err != nil {
		body = nil
	}
	text := strings.TrimSpace(string(body))
	switch resp.StatusCode {
	case http.StatusBadRequest:
		return apierrors.NewBadRequest(text)
	case http.StatusNotFound:
		return apierrors.NewGenericServerResponse(http.StatusNotFound, "get", pods, "", text, 0, true)
	case http.StatusServiceUnavailable:
		return apierrors.NewServiceUnavailable(text)
	}
	return apierrors.NewInternalError(fmt.Errorf("%s (%s)", text, resp.Status))
}

// splitName reads "[scheme:]name[:port]", as proxied names are written.
func splitName(id string) (scheme, name, port string, err error) {
	scheme, name, port, valid := utilnet.SplitSchemeNamePort(id)
	if !valid {
		return "", "", "", apierrors.NewBadRequest(fmt.Sprintf("invalid request %q", id))
	}
	return scheme, name, port, nil
}

// forward proxies plain HTTP, with links in the answer led back this way.
func (p *Proxy) forward(w http.ResponseWriter, r *http.Request, to *url.URL, transport http.RoundTripper, rest string) error {
	if rest == "" && !strings.HasSuffix(r.URL.Path, "/") && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		// Relative links on the page need the slash.
		w.Header().Set("Location", r.URL.Path+"/"+withQuery(r.URL.RawQuery))
		w.WriteHeader(http.StatusMovedPermanently)
		return nil
	}
	to.Path, to.RawQuery = "/"+rest, r.URL.RawQuery
	r = r.Clone(r.Context())
	for _, name := range []string{"Authorization", "Cookie"} {
		r.Header.Del(name)
	}
	back := strings.TrimSuffix(r.URL.Path, rest)
	// Links get a path alone: it is right behind any proxy of this server too.
	rewrite := &proxy.Transport{PathPrepend: back, RoundTripper: transport}
	h := proxy.NewUpgradeAwareHandler(to, rewrite, false, false, &responder{p: p})
	if t, ok := transport.(*http.Transport); ok {
		h.UpgradeTransport = proxy.NewUpgradeRequestRoundTripper(t, transport)
	}
	h.UseLocationHost = true
	h.ServeHTTP(w, r)
	return nil
}

func withQuery(raw string) string {
	if raw == "" {
		return ""
	}
	return "?" + raw
}

func (p *Proxy) nodeProxy(w http.ResponseWriter, r *http.Request, t registry.Target, rest string) error {
	scheme, name, port, err := splitName(t.Name)
	if err != nil {
		return err
	}
	to, err := p.kubelet(r.Context(), name)
	if err != nil {
		return err
	}
	transport := p.cfg.Transport
	if port != "" && port != to.Port() {
		to.Host, transport = net.JoinHostPort(to.Hostname(), port), p.cfg.Direct
	}
	if scheme != "" {
		to.Scheme = scheme
	}
	if err := dialable(to.Hostname(), true); err != nil {
		return err
	}
	return p.forward(w, r, to, transport, rest)
}

func (p *Proxy) podProxy(w http.ResponseWriter, r *http.Request, t registry.Target, rest string) error {
	scheme, name, port, err := splitName(t.Name)
	if err != nil {
		return err
	}
	pod, err := p.pod(r.Context(), registry.Target{Kind: t.Kind, Namespace: t.Namespace, Name: name})
	if err != nil {
		return err
	}
	if port == "" {
		for _, c := range pod.Spec.Containers {
			if len(c.Ports) > 0 {
				port = strconv.Itoa(int(c.Ports[0].ContainerPort))
				break
			}
		}
	}
	ip := pod.Status.PodIP
	if ip == "" {
		return apierrors.NewBadRequest("address not allowed")
	}
	if err := dialable(ip, false); err != nil {
		return err
	}
	if scheme == "" {
		scheme = "http"
	}
	host := ip
	if port != "" {
		host = net.JoinHostPort(ip, port)
	}
	return p.forward(w, r, &url.URL{Scheme: scheme, Host: host}, p.cfg.Direct, rest)
}

// dialable refuses addresses by which a pod or node that lies about itself
// would lead the API server to its own machine.
func dialable(host string, node bool) error {
	ip := net.ParseIP(host)
	if ip == nil {
		return nil
	}
	if ip.IsLinkLocalUnicast() || ip.IsUnspecified() || ip.IsLinkLocalMulticast() || ip.IsInterfaceLocalMulticast() || ip.IsLoopback() && !node {
		return apierrors.NewBadRequest("address not allowed")
	}
	return nil
}

func (p *Proxy) serviceProxy(w http.ResponseWriter, r *http.Request, t registry.Target, rest string) error {
	scheme, name, port, err := splitName(t.Name)
	if err != nil {
		return err
	}
	at := Services{Source: p.cfg.Source}
	svc, err := at.service(r.Context(), t.Namespace, name)
	if err != nil {
		return err
	}
	portName, err := servicePort(svc, port)
	if err != nil {
		return err
	}
	host, err := at.endpoint(svc, portName)
	if err != nil {
		return err
	}
	if scheme == "" {
		scheme = "http"
	}
	return p.forward(w, r, &url.URL{Scheme: scheme, Host: host}, p.cfg.Direct, rest)
}

// servicePort finds the name of the service's port that is meant by a name, a
// number, or nothing where there is only one.
func servicePort(svc *corev1.Service, port string) (string, error) {
	if port == "" && len(svc.Spec.Ports) == 1 {
		return svc.Spec.Ports[0].Name, nil
	}
	for _, sp := range svc.Spec.Ports {
		if sp.Name == port || strconv.Itoa(int(sp.Port)) == port {
			return sp.Name, nil
		}
	}
	return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %q found for service %q", port, svc.Name))
}
