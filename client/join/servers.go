package join

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/typed/discovery/v1"
)

// serverName is in the certificate of every API server, and in no other: nodes
// get none with it. So any of them may answer in the place of another.
const serverName = "kubernetes"

const (
	serversFile = "servers.json"
	// learnPeriod is how often the cluster is asked for its servers.
	learnPeriod = 30 * time.Second
	// maxServers bounds what is believed and tried.
	maxServers = 32
	// tryTimeout is for how long one server may leave an attempt to connect
	// without an answer while there are others, lastTimeout when there is none.
	tryTimeout, lastTimeout = 4 * time.Second, 20 * time.Second
	// askAgain is when a server that failed to tell of the others is asked again.
	// One that failed so often in a row is left.
	askAgain = 5 * time.Second
	failures = 2
)

// servers are the addresses of API servers: those that were given and those that
// the cluster tells of. New connections go to the last one that worked, and to
// the next when it does not connect, or connects and fails. Safe for concurrent
// use.
type servers struct {
	log *slog.Logger

	mu      sync.Mutex
	given   []string
	learnt  []string
	current string
	left    string // that did not do its work when it was used last
}

// addressOf is where a URL of a server leads to.
func addressOf(server string) (string, error) {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || (u.Path != "" && u.Path != "/") {
		return "", fmt.Errorf("join: --server: %q is not a URL such as https://192.0.2.1:6443", server)
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}

// order lists all addresses, the one in use in front, one that was left behind.
func (s *servers) order() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, a := range slices.Concat([]string{s.current}, s.given, s.learnt) {
		if a != "" && !slices.Contains(out, a) && (a != s.left || a == s.current) {
			out = append(out, a)
		}
	}
	if s.left != "" && s.left != s.current {
		out = append(out, s.left)
	}
	return out
}

// dialer connects to one address.
type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// connect returns a dialer for the TLS connections of a transport. They lead to
// a server that can show that it is one, whatever the address says: a server that
// hangs still takes connections, and the address of one that is gone may be
// another machine's by now.
func (s *servers) connect(dial dialer, config *tls.Config) dialer {
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		all := s.order()
		var errs []error
		for i, address := range all {
			limit := lastTimeout
			if i+1 < len(all) {
				limit = tryTimeout
			}
			conn, err := try(ctx, limit, dial, network, address, config)
			if err == nil {
				s.use(address)
				return conn, nil
			}
			errs = append(errs, fmt.Errorf("%s: %w", address, err))
			if ctx.Err() != nil {
				break
			}
		}
		return nil, errors.Join(errs...)
	}
}

func try(ctx context.Context, limit time.Duration, dial dialer, network, address string, config *tls.Config) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	raw, err := dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	return conn, nil
}

// leave makes the server in use the last one to be tried, and says whether there
// is another one.
func (s *servers) leave() bool {
	all := s.order()
	if len(all) < 2 {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left, s.current = all[0], ""
	s.log.Warn("the API server does not do its work, another one is tried", "server", s.left)
	return true
}

func (s *servers) use(address string) {
	s.mu.Lock()
	before := s.current
	s.current = address
	s.mu.Unlock()
	if before != "" && before != address {
		s.log.Warn("another API server is used", "server", address, "before", before)
	}
}

// learn takes what the cluster tells of its servers, and says whether that is
// news. A cluster that tells of none has not told.
func (s *servers) learn(told []string) bool {
	slices.Sort(told)
	told = slices.Compact(told)
	told = told[:min(len(told), maxServers)]
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(told) == 0 || slices.Equal(told, s.learnt) {
		return false
	}
	s.learnt = told
	return true
}

// endpointsOf are the addresses behind the Service kubernetes.
func endpointsOf(slicesOf []discoveryv1.EndpointSlice) []string {
	var out []string
	for i := range slicesOf {
		for _, p := range slicesOf[i].Ports {
			if p.Port == nil || p.Name == nil || *p.Name != "https" {
				continue
			}
			for _, e := range slicesOf[i].Endpoints {
				for _, a := range e.Addresses {
					if (e.Conditions.Ready == nil || *e.Conditions.Ready) && net.ParseIP(a) != nil {
						out = append(out, net.JoinHostPort(a, strconv.Itoa(int(*p.Port))))
					}
				}
			}
		}
	}
	return out
}

// follow asks for the cluster's servers from time to time, until ctx ends, and
// remembers them for the next start. A server that cannot even tell that is left
// for another one.
func (n *Node) follow(ctx context.Context, api v1.EndpointSlicesGetter) {
	failed := 0
	for {
		wait := learnPeriod
		err := n.askServers(ctx, api)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil || refused(err):
			failed = 0
		default:
			failed++
			wait = askAgain
		}
		if failed == failures {
			failed = 0
			if n.servers.leave() {
				n.dialer.CloseAll()
			}
		}
		select {
		case <-n.cfg.Clock.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// refused says that a server works, if not for us.
func refused(err error) bool {
	return apierrors.IsUnauthorized(err) || apierrors.IsForbidden(err) || apierrors.IsTooManyRequests(err)
}

func (n *Node) askServers(ctx context.Context, api v1.EndpointSlicesGetter) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	list, err := api.EndpointSlices(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + serverName})
	if err != nil {
		n.cfg.Logger.Debug("the cluster's servers are not known", "error", err)
		return err
	}
	told := endpointsOf(list.Items)
	if !n.servers.learn(told) {
		return nil
	}
	data, err := json.Marshal(told)
	if err == nil {
		err = writeFile(n.path(serversFile), data)
	}
	if err != nil {
		n.cfg.Logger.Warn("the cluster's servers are not remembered", "error", err)
	}
	return nil
}

// rememberedServers are those of an earlier run; what cannot be read is asked
// for again.
func (n *Node) rememberedServers() []string {
	text, err := os.ReadFile(n.path(serversFile))
	if err != nil {
		return nil
	}
	var told []string
	if json.Unmarshal(text, &told) != nil {
		return nil
	}
	return slices.DeleteFunc(told, func(a string) bool { _, _, err := net.SplitHostPort(a); return err != nil })
}
