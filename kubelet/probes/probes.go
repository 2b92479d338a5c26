// Package probes asks containers how they are: over HTTP, TCP, gRPC or with a
// command inside the container.
package probes

import (
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
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
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

// Result is the outcome of one probe: nil is success.
// Unknown outcomes, which upstream neither counts as success nor as failure,
// wrap ErrUnknown.
type Result = error

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
	out, code, err := t.Exec(ctx, command, timeout)
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
func Hook(ctx context.Context, h *corev1.HTTPGetAction, timeout time.Duration, t Target) error {
	err := httpGet(ctx, h, hookAgent, timeout, t)
	if errors.Is(err, http.ErrSchemeMismatch) {
		plain := *h
		plain.Scheme = corev1.URISchemeHTTP
		plain.HTTPHeaders = slices.DeleteFunc(slices.Clone(h.HTTPHeaders), func(h corev1.HTTPHeader) bool { return strings.EqualFold(h.Name, "Authorization") })
		err = httpGet(ctx, &plain, hookAgent, timeout, t)
	}
	var refused *StatusError
	if errors.As(err, &refused) {
		return nil
	}
	return err
}

// httpGet makes the request of a probe or hook.
func httpGet(ctx context.Context, h *corev1.HTTPGetAction, agent string, timeout time.Duration, t Target) error {
	port, err := Port(&h.Port, t.Container)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	host := h.Host
	if host == "" {
		host = t.PodIP
	}
	scheme := strings.ToLower(string(h.Scheme))
	if scheme == "" {
		scheme = "http"
	}
	target, err := url.Parse(h.Path)
	if err != nil {
		target = &url.URL{Path: h.Path}
	}
	target.Scheme, target.Host = scheme, net.JoinHostPort(host, strconv.Itoa(port))
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	setHeaders(req, h.HTTPHeaders, agent)
	// One connection a probe: a kept one would hide that nobody accepts any more.
	client := &http.Client{
		Transport: &http.Transport{
			TLSClientConfig:    &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // probes ask for life, not identity
			DisableKeepAlives:  true,
			DisableCompression: true,
			DialContext:        dialer().DialContext,
		},
		CheckRedirect: sameHost,
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, maxBody)); err != nil {
		return err
	}
	if resp.StatusCode >= 200 && resp.StatusCode < 400 {
		return nil
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
			return fmt.Errorf("timeout: failed to connect service %q within %v: context deadline exceeded", address, timeout)
		}
		return fmt.Errorf("error: health rpc probe failed: %w", err)
	}
	if resp.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		return fmt.Errorf("service unhealthy (responded with %q)", resp.GetStatus().String())
	}
	return nil
}
