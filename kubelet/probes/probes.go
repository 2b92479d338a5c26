// Package probes asks containers how they are: over HTTP, TCP, gRPC or with a
// command inside the container.
package probes

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"

	"github.com/proa-dev/proa/kubelet/spec"
)

// What probes and hooks call themselves.
const (
	UserAgent = "kube-probe/1.37"
	hookAgent = "kube-lifecycle/1.37"
)

// maxBody bounds what is read and kept of an answer.
const maxBody = 10 << 10

// StatusError is an HTTP answer that is no success.
type StatusError struct{ Code int }

func (e *StatusError) Error() string {
	return fmt.Sprintf("HTTP probe failed with statuscode: %d", e.Code)
}

// Exec runs a command in the container that is probed.
type Exec func(ctx context.Context, command []string, timeout time.Duration) (output []byte, exitCode int32, err error)

// Target is where a probe goes to.
type Target struct {
	PodIP     string
	Container *corev1.Container
	Exec      Exec
}

// Result is the outcome of one probe: nil is success, and a *Warning is one that
// users hear of. Unknown outcomes, which upstream neither counts as success nor
// as failure, wrap ErrUnknown.
type Result = error

// Warning is the answer of a container that leads elsewhere.
type Warning struct{ Body string }

func (w *Warning) Error() string {
	return "Probe terminated redirects, Response body: " + w.Body
}

// ErrUnknown marks an outcome that says nothing about the container.
var ErrUnknown = errors.New("probe errored")

// Once probes once.
func Once(ctx context.Context, p *corev1.Probe, t Target) Result {
	timeout := time.Duration(max(p.TimeoutSeconds, 1)) * time.Second
	switch {
	case p.Exec != nil:
		return execProbe(ctx, p.Exec.Command, timeout, t)
	case p.HTTPGet != nil:
		return httpGet(ctx, p.HTTPGet, UserAgent, timeout, t)
	case p.TCPSocket != nil:
		return tcpProbe(ctx, p.TCPSocket, timeout, t)
	case p.GRPC != nil:
		return grpcProbe(ctx, p.GRPC, timeout, t)
	}
	return fmt.Errorf("%w: missing probe handler for %s", ErrUnknown, t.Container.Name)
}

func execProbe(ctx context.Context, command []string, timeout time.Duration, t Target) error {
	out, code, err := t.Exec(ctx, expand(command, t.Container), timeout)
	text := string(out[:min(len(out), maxBody)])
	if err != nil {
		if status.Code(err) == codes.DeadlineExceeded || errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("command timed out: %q timed out after %s", strings.Join(command, " "), timeout)
		}
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	if code != 0 {
		return errors.New(text)
	}
	return nil
}

// expand puts the values that the container's spec gives its variables into a
// command. What is made elsewhere, in a ConfigMap say, is not known here.
func expand(command []string, c *corev1.Container) []string {
	lookup := func(name string) (value string, ok bool) {
		for i := range c.Env {
			if c.Env[i].Name == name {
				value, ok = c.Env[i].Value, true
			}
		}
		return value, ok
	}
	var out []string
	for _, text := range command {
		out = append(out, spec.Expand(text, lookup))
	}
	return out
}

// Port resolves a port that may be named.
func Port(port fmt.Stringer, c *corev1.Container) (int, error) {
	text := port.String()
	n, err := strconv.Atoi(text)
	if err != nil {
		found := false
		for _, p := range c.Ports {
			if p.Name == text {
				n, found = int(p.ContainerPort), true
				break
			}
		}
		if !found {
			return 0, fmt.Errorf("couldn't find port: %v", text)
		}
	}
	if n < 1 || n > 65535 {
		return 0, fmt.Errorf("invalid port number: %v", n)
	}
	return n, nil
}

// Hook makes the request of a lifecycle hook. Whatever is answered is an answer.
// A server that does not speak HTTPS is asked again in the clear, without
// credentials: hooks that say HTTPS were once asked so, and upstream goes on.
// inClear is told of a server that answered so.
func Hook(ctx context.Context, h *corev1.HTTPGetAction, timeout time.Duration, t Target, inClear func(server string)) error {
	ask := func(h *corev1.HTTPGetAction) error {
		err := httpGet(ctx, h, hookAgent, timeout, t)
		var refused *StatusError
		var away *Warning
		if errors.As(err, &refused) || errors.As(err, &away) {
			return nil
		}
		return err
	}
	err := ask(h)
	if !errors.Is(err, http.ErrSchemeMismatch) {
		return err
	}
	plain := *h
	plain.Scheme = corev1.URISchemeHTTP
	plain.HTTPHeaders = slices.DeleteFunc(slices.Clone(h.HTTPHeaders), func(h corev1.HTTPHeader) bool { return strings.EqualFold(h.Name, "Authorization") })
	if err = ask(&plain); err == nil {
		if server, err := address(h, t); err == nil {
			inClear(server)
		}
	}
	return err
}

// address is where the request goes to.
func address(h *corev1.HTTPGetAction, t Target) (string, error) {
	port, err := Port(&h.Port, t.Container)
	return net.JoinHostPort(cmp.Or(h.Host, t.PodIP), strconv.Itoa(port)), err
}

// httpGet makes the request of a probe or hook.
func httpGet(ctx context.Context, h *corev1.HTTPGetAction, agent string, timeout time.Duration, t Target) error {
	server, err := address(h, t)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	scheme := strings.ToLower(string(h.Scheme))
	if scheme == "" {
		scheme = "http"
	}
	target, err := url.Parse(h.Path)
	if err != nil {
		target = &url.URL{Path: h.Path}
	}
	target.Scheme, target.Host = scheme, server
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	setHeaders(req, h.HTTPHeaders, agent)
	// One connection a probe: a kept one would hide that nobody accepts any more.
	client := &http.Client{
		Timeout: timeout,
		Transport: &http.Transport{
			TLSClientConfig:    &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // probes ask for life, not identity
			DisableKeepAlives:  true,
			DisableCompression: true,
			ForceAttemptHTTP2:  true, // over TLS, where the server speaks it
			DialContext:        dialer().DialContext,
		},
		CheckRedirect: sameHost,
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	switch {
	case err != nil:
		return err
	case resp.StatusCode >= 200 && resp.StatusCode < 300:
		return nil
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		return &Warning{string(body)}
	}
	return &StatusError{Code: resp.StatusCode}
}

// dialer closes probes' sockets hard, since thousands of them in TIME_WAIT
// would use up the node's ports.
func dialer() *net.Dialer { return &net.Dialer{Control: lingerZero} }

// sameHost follows redirects within the container only; one to elsewhere
// counts as an answer.
func sameHost(req *http.Request, via []*http.Request) error {
	if req.URL.Hostname() != via[0].URL.Hostname() {
		return http.ErrUseLastResponse
	}
	if len(via) >= 10 {
		return errors.New("stopped after 10 redirects")
	}
	return nil
}

func setHeaders(req *http.Request, headers []corev1.HTTPHeader, agent string) {
	for _, h := range headers {
		req.Header.Add(h.Name, h.Value)
		if strings.EqualFold(h.Name, "host") {
			req.Host = h.Value
		}
	}
	if _, ok := req.Header["User-Agent"]; !ok {
		req.Header.Set("User-Agent", agent)
	}
	if _, ok := req.Header["Accept"]; !ok {
		req.Header.Set("Accept", "*/*")
	} else if req.Header.Get("Accept") == "" {
		req.Header.Del("Accept")
	}
}

func tcpProbe(ctx context.Context, s *corev1.TCPSocketAction, timeout time.Duration, t Target) error {
	port, err := Port(&s.Port, t.Container)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	host := s.Host
	if host == "" {
		host = t.PodIP
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := dialer().DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return err
	}
	return conn.Close()
}

func grpcProbe(ctx context.Context, g *corev1.GRPCAction, timeout time.Duration, t Target) error {
	service := ""
	if g.Service != nil {
		service = *g.Service
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	address := net.JoinHostPort(t.PodIP, strconv.Itoa(int(g.Port)))
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithUserAgent(UserAgent),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return dialer().DialContext(ctx, "tcp", addr)
		}))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	defer conn.Close()
	resp, err := healthpb.NewHealthClient(conn).Check(metadata.NewOutgoingContext(ctx, metadata.MD{}),
		&healthpb.HealthCheckRequest{Service: service}, grpc.WaitForReady(true))
	if err != nil {
		switch status.Code(err) {
		case codes.Unimplemented:
			return fmt.Errorf("error: this server does not implement the grpc health protocol (grpc.health.v1.Health): %s", status.Convert(err).Message())
		case codes.DeadlineExceeded:
			if conn.GetState() == connectivity.Ready {
				return fmt.Errorf("timeout: health rpc did not complete within %v", timeout)
			}
			return fmt.Errorf("timeout: failed to connect service %q within %v: context deadline exceeded", address, timeout)
		}
		return fmt.Errorf("error: health rpc probe failed: %w", err)
	}
	if resp.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		return fmt.Errorf("service unhealthy (responded with %q)", resp.GetStatus().String())
	}
	return nil
}
