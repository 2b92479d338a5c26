package stats

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// nic is what went through one network interface.
type nic struct {
	name                                    string
	rxBytes, rxPackets, rxErrors, rxDropped uint64
	txBytes, txPackets, txErrors, txDropped uint64
}

// ignored interfaces are those that count what others count as well: the
// loopback, and the node's ends of pods' links.
func ignored(name string) bool {
	for _, prefix := range []string{"lo", "veth", "docker", "nerdctl", "proa0-"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// podNICs reads the interfaces of a process's network namespace.
func podNICs(pid string) []nic { return readNICs(filepath.Join("/proc", pid, "net/dev")) }

// nodeNICs reads those of the node: of the thread, since others of this
// process may be in a pod's namespace for a moment.
func nodeNICs() []nic { return readNICs("/proc/thread-self/net/dev") }

func readNICs(file string) []nic {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil // the process went
	}
	return parseNICs(data)
}

// parseNICs reads the kernel's table: eight columns received, eight sent.
func parseNICs(data []byte) []nic {
	var out []nic
	for _, l := range bytes.Split(data, []byte{'\n'}) {
		name, rest, ok := strings.Cut(string(l), ":")
		name = strings.TrimSpace(name)
		fields := strings.Fields(rest)
		if !ok || len(fields) < 16 || ignored(name) {
			continue
		}
		n := func(i int) uint64 {
			v, err := strconv.ParseUint(fields[i], 10, 64)
			if err != nil {
				return 0
			}
			return v
		}
		out = append(out, nic{name: name, rxBytes: n(0), rxPackets: n(1), rxErrors: n(2), rxDropped: n(3),
			txBytes: n(8), txPackets: n(9), txErrors: n(10), txDropped: n(11)})
	}
	return out
}

// defaultNIC is the interface that stands for all; the first where there is
// none of the customary name.
const defaultNIC = "eth0"

func (r *reading) network(nics []nic) *statsapi.NetworkStats {
	if len(nics) == 0 {
		return nil
	}
	out := &statsapi.NetworkStats{Time: r.time()}
	first := 0
	for i := range nics {
		n := nics[i]
		out.Interfaces = append(out.Interfaces, statsapi.InterfaceStats{Name: n.name,
			RxBytes: &n.rxBytes, RxErrors: &n.rxErrors, TxBytes: &n.txBytes, TxErrors: &n.txErrors})
		if n.name == defaultNIC {
			first = i
		}
	}
	out.InterfaceStats = out.Interfaces[first]
	return out
}
