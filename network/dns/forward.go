package dns

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/cache"
	"github.com/coredns/coredns/plugin/forward"
	"github.com/coredns/coredns/plugin/pkg/proxy"
	"github.com/coredns/coredns/plugin/pkg/transport"
	"github.com/miekg/dns"
)

// recheck is how often resolv.conf is looked at again, when there are queries.
const recheck = 5 * time.Second

// forwarder asks the host's resolvers, through a cache.
type forwarder struct {
	file   string
	own    netip.Addr // never asked: that would be a loop
	logger *slog.Logger

	mu      sync.Mutex
	checked time.Time
	changed time.Time // the file's time of change
	chain   plugin.Handler
	up      *forward.Forward
}

func newForwarder(file string, own netip.Addr, logger *slog.Logger) *forwarder {
	return &forwarder{file: file, own: own, logger: logger}
}

// serve answers from elsewhere: SERVFAIL when no resolver does.
func (f *forwarder) serve(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) {
	rcode := dns.RcodeServerFailure
	if chain := f.current(); chain != nil {
		var err error
		if rcode, err = chain.ServeDNS(ctx, w, r); err != nil {
			f.logger.Debug("forward a DNS query", "name", r.Question[0].Name, "error", err)
		}
		if plugin.ClientWrite(rcode) {
			return
		}
	}
	m := new(dns.Msg)
	m.SetRcode(r, rcode)
	m.RecursionAvailable = true
	if err := w.WriteMsg(m); err != nil {
		f.logger.Debug("write a DNS answer", "error", err)
	}
}

// current is the chain for the resolvers that resolv.conf names now, nil for none.
func (f *forwarder) current() plugin.Handler {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.file == "" || time.Since(f.checked) < recheck {
		return f.chain
	}
	f.checked = time.Now()
	info, err := os.Stat(f.file)
	if err != nil || info.ModTime().Equal(f.changed) {
		return f.chain
	}
	f.changed = info.ModTime()
	conf, err := dns.ClientConfigFromFile(f.file)
	if err != nil {
		f.logger.Warn("read the host's resolvers", "file", f.file, "error", err)
		return f.chain
	}
	f.stop()
	up := forward.New()
	for _, server := range conf.Servers {
		ip, err := netip.ParseAddr(server)
		if err != nil || ip.Unmap() == f.own {
			continue
		}
		up.SetProxy(proxy.NewProxy("forward", net.JoinHostPort(server, conf.Port), transport.DNS))
	}
	if up.Len() == 0 {
		return nil
	}
	c := cache.New()
	c.Next = up
	f.chain, f.up = c, up
	return f.chain
}

// stop ends the health checks of the resolvers; f.mu is held.
func (f *forwarder) stop() {
	if f.up != nil {
		if err := f.up.OnShutdown(); err != nil {
			f.logger.Debug("stop forwarding", "error", err)
		}
	}
	f.chain, f.up = nil, nil
}

func (f *forwarder) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.file = ""
	f.stop()
}
