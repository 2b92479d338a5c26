package podnet

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// attachment is one pod's link: what is remembered over restarts.
type attachment struct {
	ContainerID string        `json:"containerID"`
	IfName      string        `json:"ifName"`
	NetNS       string        `json:"netns"`
	IPs         []netip.Addr  `json:"ips"`
	Ports       []portMapping `json:"ports,omitempty"`
	// Order counts allocations: files of one moment have one time.
	Order uint64 `json:"order"`
}

func (a attachment) key() string { return a.ContainerID + "." + a.IfName }

var errNoAddress = errors.New("no free address in the pod CIDR")

// store hands out addresses and remembers attachments, a file each. Memory is
// the truth while the process lives; a file is written before an address is
// used and removed after it is free. Files are not synced: a pod's network does
// not outlive the machine, and after a power loss an unreadable file means free.
type store struct {
	dir string

	mu     sync.Mutex
	byKey  map[string]attachment
	byAddr map[netip.Addr]string
	ranges []netip.Prefix
	// last is the address handed out last in each range: the search goes on
	// from there, so that an address rests as long as possible before it is
	// used again.
	last map[netip.Prefix]netip.Addr
	// order is that of the newest attachment.
	order uint64
}

func newStore(dir string) *store {
	return &store{dir: dir, byKey: map[string]attachment{}, byAddr: map[netip.Addr]string{}, last: map[netip.Prefix]netip.Addr{}}
}

// load reads what an earlier process left.
func (s *store) load(log *slog.Logger) error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.byKey)
	clear(s.byAddr)
	var newest attachment
	for _, e := range entries {
		name := filepath.Join(s.dir, e.Name())
		a, err := readAttachment(name)
		if err != nil || e.Name() != a.key()+".json" {
			log.Warn("unreadable address file removed", "file", name, "error", err)
			if err := os.RemoveAll(name); err != nil {
				return err
			}
			continue
		}
		s.byKey[a.key()] = a
		for _, ip := range a.IPs {
			s.byAddr[ip] = a.key()
		}
		if a.Order >= newest.Order {
			newest = a
		}
	}
	s.order = newest.Order
	s.resumeAfter(newest)
	return nil
}

// resumeAfter continues the round at the newest allocation. The ranges are not
// known yet, so its addresses wait under their own host prefix.
func (s *store) resumeAfter(a attachment) {
	for _, ip := range a.IPs {
		s.last[netip.PrefixFrom(ip, ip.BitLen())] = ip
	}
}

func readAttachment(name string) (attachment, error) {
	var a attachment
	data, err := os.ReadFile(name)
	if err != nil {
		return a, err
	}
	if err := json.Unmarshal(data, &a); err != nil {
		return a, err
	}
	if a.ContainerID == "" || a.IfName == "" || len(a.IPs) == 0 {
		return a, errors.New("incomplete")
	}
	return a, nil
}

func (s *store) setRanges(ranges []netip.Prefix) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ranges = ranges
	for host, ip := range s.last {
		for _, r := range ranges {
			if host.IsSingleIP() && r.Contains(ip) {
				s.last[r] = ip
			}
		}
	}
}

// allocate gives an address of every range, or those the key has already.
func (s *store) allocate(a attachment) (attachment, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ranges) == 0 {
		return a, errors.New("the node has no pod CIDR yet")
	}
	if had, ok := s.byKey[a.key()]; ok {
		a.IPs, a.Order = had.IPs, had.Order
		if err := s.write(a); err != nil {
			return a, err
		}
		s.byKey[a.key()] = a
		return a, nil
	}
	a.IPs, a.Order = nil, s.order+1
	for _, r := range s.ranges {
		ip, err := s.next(r)
		if err != nil {
			return a, err
		}
		a.IPs = append(a.IPs, ip)
	}
	if err := s.write(a); err != nil {
		return a, err
	}
	s.byKey[a.key()], s.order = a, a.Order
	for i, ip := range a.IPs {
		s.byAddr[ip] = a.key()
		s.last[s.ranges[i]] = ip
	}
	return a, nil
}

// next finds a free address of r: neither the network's own, nor the gateway,
// nor the broadcast address.
func (s *store) next(r netip.Prefix) (netip.Addr, error) {
	first := gateway(r).Next()
	start := first
	if last, ok := s.last[r]; ok && r.Contains(last.Next()) && last.Next().Compare(first) >= 0 {
		start = last.Next()
	}
	usable := func(ip netip.Addr) bool {
		return r.Contains(ip) && (ip.Is6() || r.Contains(ip.Next()))
	}
	for ip := start; usable(ip); ip = ip.Next() {
		if _, taken := s.byAddr[ip]; !taken {
			return ip, nil
		}
	}
	for ip := first; ip.Less(start) && usable(ip); ip = ip.Next() {
		if _, taken := s.byAddr[ip]; !taken {
			return ip, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("%w %s", errNoAddress, r)
}

// gateway is the node's own address in a pod CIDR.
func gateway(r netip.Prefix) netip.Addr { return r.Masked().Addr().Next() }

func (s *store) write(a attachment) error {
	data, err := json.Marshal(a)
	if err != nil {
		return err
	}
	return replaceFile(filepath.Join(s.dir, a.key()+".json"), data, 0o600)
}

// replaceFile writes a file such that others see the old or the new content.
func replaceFile(name string, data []byte, mode fs.FileMode) error {
	tmp := filepath.Join(filepath.Dir(name), ".tmp-"+filepath.Base(name))
	if err := os.WriteFile(tmp, data, mode); err != nil {
		return err
	}
	return os.Rename(tmp, name)
}

// get gives the attachment of a key.
func (s *store) get(key string) (attachment, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.byKey[key]
	return a, ok
}

// free forgets a key; that it is not known is fine.
func (s *store) free(key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.byKey[key]
	if !ok {
		return nil
	}
	if err := removeIfExists(filepath.Join(s.dir, key+".json")); err != nil {
		return err
	}
	delete(s.byKey, key)
	for _, ip := range a.IPs {
		delete(s.byAddr, ip)
	}
	return nil
}

// list gives all attachments, oldest name first.
func (s *store) list() []attachment {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]attachment, 0, len(s.byKey))
	for _, a := range s.byKey {
		list = append(list, a)
	}
	slices.SortFunc(list, func(a, b attachment) int { return strings.Compare(a.key(), b.key()) })
	return list
}
