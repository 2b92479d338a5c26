package spec

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Limits of resolv.conf that upstream enforces.
const (
	maxNameservers = 3
	maxSearches    = 32
	maxSearchChars = 2048
)

// Warning is an event to tell of a pod.
type Warning struct{ Reason, Message string }

// Cluster is what a pod's names and name resolution depend on.
type Cluster struct {
	DNS        []string // addresses of the cluster's name service
	Domain     string   // cluster.local
	ResolvConf string   // the node's own resolv.conf
}

// ResolvConfFor makes the pod's resolv.conf. warnings are texts for events, of what
// the limits cut off.
func (c Cluster) ResolvConfFor(pod *corev1.Pod) (dns *runtimeapi.DNSConfig, warnings []Warning, err error) {
	policy := pod.Spec.DNSPolicy
	if policy == corev1.DNSClusterFirst && pod.Spec.HostNetwork {
		policy = corev1.DNSDefault
	}
	if policy == corev1.DNSClusterFirstWithHostNet {
		policy = corev1.DNSClusterFirst
	}
	dns = &runtimeapi.DNSConfig{}
	switch policy {
	case corev1.DNSNone:
	case corev1.DNSDefault:
		if dns, err = ParseResolvConf(c.ResolvConf); err != nil {
			return nil, nil, err
		}
	default:
		host, err := ParseResolvConf(c.ResolvConf)
		if err != nil {
			return nil, nil, err
		}
		if len(c.DNS) == 0 {
			dns = host
			warnings = append(warnings, Warning{"MissingClusterDNS", fmt.Sprintf(
				"pod: %q. kubelet does not have ClusterDNS IP configured and cannot create Pod using %q policy. Falling back to %q policy.",
				PodName(pod), corev1.DNSClusterFirst, corev1.DNSDefault)})
			break
		}
		dns.Servers = append(dns.Servers, c.DNS...)
		if c.Domain != "" {
			dns.Searches = []string{pod.Namespace + ".svc." + c.Domain, "svc." + c.Domain, c.Domain}
		}
		dns.Searches = unique(append(dns.Searches, host.Searches...))
		dns.Options = []string{"ndots:5"}
	}
	if d := pod.Spec.DNSConfig; d != nil {
		dns.Servers = unique(append(dns.Servers, d.Nameservers...))
		dns.Searches = unique(append(dns.Searches, d.Searches...))
		dns.Options = mergeOptions(dns.Options, d.Options)
	}
	return dns, append(warnings, limit(dns)...), nil
}

func unique(in []string) []string {
	seen := map[string]bool{}
	var out []string
	for _, s := range in {
		if !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
	}
	return out
}

func mergeOptions(have []string, more []corev1.PodDNSConfigOption) []string {
	var out []string
	override := map[string]bool{}
	for _, o := range more {
		override[o.Name] = true
	}
	for _, o := range have {
		if name, _, _ := strings.Cut(o, ":"); !override[name] {
			out = append(out, o)
		}
	}
	for _, o := range more {
		if o.Value != nil && *o.Value != "" {
			out = append(out, o.Name+":"+*o.Value)
		} else {
			out = append(out, o.Name)
		}
	}
	return out
}

func limit(dns *runtimeapi.DNSConfig) (warnings []Warning) {
	const reason = "DNSConfigForming"
	if len(dns.Servers) > maxNameservers {
		dns.Servers = dns.Servers[:maxNameservers]
		warnings = append(warnings, Warning{reason,
			"Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: " + strings.Join(dns.Servers, " ")})
	}
	searches, chars := dns.Searches, 0
	for i, s := range dns.Searches {
		chars += len(s)
		if i > 0 {
			chars++
		}
		if i >= maxSearches || chars > maxSearchChars {
			searches = dns.Searches[:i]
			break
		}
	}
	if len(searches) < len(dns.Searches) {
		dns.Searches = searches
		warnings = append(warnings, Warning{reason,
			"Search Line limits were exceeded, some search paths have been omitted, the applied search line is: " + strings.Join(searches, " ")})
	}
	return warnings
}

// ParseResolvConf reads the node's resolv.conf; an absent path is an empty file.
func ParseResolvConf(path string) (*runtimeapi.DNSConfig, error) {
	dns := &runtimeapi.DNSConfig{}
	if path == "" {
		return dns, nil
	}
	data, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return dns, nil
	}
	if err != nil {
		return nil, fmt.Errorf("node's resolv.conf: %w", err)
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "nameserver":
			dns.Servers = append(dns.Servers, f[1])
		case "search":
			dns.Searches = nil
			for _, s := range f[1:] {
				if s != "." {
					s = strings.TrimSuffix(s, ".")
				}
				dns.Searches = append(dns.Searches, s)
			}
		case "options":
			dns.Options = append(dns.Options, f[1:]...)
		}
	}
	return dns, lines.Err()
}

// Hostname is the pod's host name and, below a subdomain, its domain.
func (c Cluster) Hostname(pod *corev1.Pod) (host, domain string, err error) {
	if pod.Spec.HostnameOverride != nil {
		return *pod.Spec.HostnameOverride, "", nil
	}
	host = pod.Spec.Hostname
	if host == "" {
		if host = pod.Name; len(host) > 63 {
			host = strings.TrimRight(host[:63], "-.")
		}
	}
	if pod.Spec.Subdomain != "" {
		domain = fmt.Sprintf("%s.%s.svc.%s", pod.Spec.Subdomain, pod.Namespace, c.Domain)
	}
	if as := pod.Spec.SetHostnameAsFQDN; as != nil && *as && domain != "" {
		if fqdn := host + "." + domain; len(fqdn) > 64 {
			return "", "", fmt.Errorf("failed to construct FQDN from pod hostname and cluster domain, FQDN %s is too long (%d characters is the max, %d characters requested)", fqdn, 64, len(fqdn))
		}
		return host + "." + domain, domain, nil
	}
	return host, domain, nil
}

// WriteHosts writes the pod's /etc/hosts, read by every container of the pod,
// and leaves a file alone that says so already.
func (c Cluster) WriteHosts(path string, pod *corev1.Pod, ips []string) error {
	host, domain, err := c.Hostname(pod)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if pod.Spec.HostNetwork {
		node, err := os.ReadFile("/etc/hosts")
		if err != nil && !os.IsNotExist(err) {
			return err
		}
		b.WriteString("# Kubernetes-managed hosts file (host network).\n")
		b.Write(node)
	} else {
		b.WriteString("# Kubernetes-managed hosts file.\n" +
			"127.0.0.1\tlocalhost\n" +
			"::1\tlocalhost ip6-localhost ip6-loopback\n" +
			"fe00::0\tip6-localnet\n" +
			"fe00::0\tip6-mcastprefix\n" +
			"fe00::1\tip6-allnodes\n" +
			"fe00::2\tip6-allrouters\n")
		for _, ip := range ips {
			if net.ParseIP(ip) == nil {
				return fmt.Errorf("the runtime reports %q as the pod's address", ip)
			}
			if domain != "" && !strings.Contains(host, ".") {
				fmt.Fprintf(&b, "%s\t%s.%s\t%s\n", ip, host, domain, host)
			} else {
				fmt.Fprintf(&b, "%s\t%s\n", ip, host)
			}
		}
	}
	if len(pod.Spec.HostAliases) > 0 {
		b.WriteString("\n# Entries added by HostAliases.\n")
		for _, a := range pod.Spec.HostAliases {
			fmt.Fprintf(&b, "%s\t%s\n", a.IP, strings.Join(a.Hostnames, "\t"))
		}
	}
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, b.Bytes()) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, b.Bytes(), 0o644)
}
