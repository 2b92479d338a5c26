package container

import (
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
)

// host is what containerd's configuration depends on of the machine.
type host struct {
	// restrictOOM: a process may not lower its oom_score_adj
	// (CAP_SYS_RESOURCE is missing). runc would die on the pause container's
	// -998 without saying why.
	restrictOOM bool
	apparmor    bool
	selinux     bool
	snapshotter string
}

// detect looks at the machine; root is where snapshots will be.
func detect(root, snapshotter string, log *slog.Logger) host {
	h := host{
		restrictOOM: !canLowerOOMScore(),
		apparmor:    readFlag("/sys/module/apparmor/parameters/enabled"),
		selinux:     exists("/sys/fs/selinux/enforce"),
		snapshotter: snapshotter,
	}
	if h.snapshotter == "" {
		h.snapshotter = "overlayfs"
		if err := overlayutils.Supported(root); err != nil {
			log.Warn("overlayfs does not work here; images are copied for each container", "error", err)
			h.snapshotter = "native"
		}
	}
	if h.restrictOOM {
		log.Info("CAP_SYS_RESOURCE is missing: containers get no lower oom_score_adj than Proa's own")
	}
	return h
}

// canLowerOOMScore tries, since capabilities alone do not tell: user
// namespaces and security modules have a say.
func canLowerOOMScore() bool {
	const file = "/proc/self/oom_score_adj"
	data, err := os.ReadFile(file)
	if err != nil {
		return false
	}
	now, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return false
	}
	if now <= -1000 {
		return true
	}
	if os.WriteFile(file, fmt.Appendf(nil, "%d", now-1), 0) != nil {
		return false
	}
	return os.WriteFile(file, fmt.Appendf(nil, "%d", now), 0) == nil
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// readFlag reads a kernel parameter that is Y or N.
func readFlag(name string) bool {
	data, err := os.ReadFile(name)
	return err == nil && len(data) > 0 && data[0] == 'Y'
}
