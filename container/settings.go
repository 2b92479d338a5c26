package container

import (
	"bytes"
	"fmt"
	"runtime"

	"github.com/pelletier/go-toml/v2"
)

// table is a TOML table of containerd's configuration.
type table = map[string]any

// settings gives the configuration of each plugin that does not run with its
// defaults, by plugin URI. CRI's Go types are internal to containerd; TOML is
// its public form.
//
// The shim is not named by its path: containerd would ask a shim it cannot tell
// by its type for its mount capabilities, with an exec. Run puts it in PATH.
func (r *Runtime) settings(h host) map[string]table {
	return map[string]table{
		"io.containerd.cri.v1.runtime": {
			"cni": table{
				"bin_dirs":              []string{r.cniBinDir},
				"conf_dir":              r.cfg.CNIConfDir,
				"max_conf_num":          1,
				"use_internal_loopback": true,
			},
			"containerd": table{
				"default_runtime_name": "runc",
				"runtimes": table{"runc": table{
					"runtime_type": "io.containerd.runc.v2",
					"sandboxer":    "podsandbox",
					"options": table{
						"BinaryName": r.bin.Runc,
						"Root":       r.state("runc"),
						// The kubelet makes pods' groups itself and names them by
						// their paths, which runc takes for no slices.
						"SystemdCgroup": false,
					},
				}},
			},
			"enable_selinux":               h.selinux,
			"disable_apparmor":             !h.apparmor,
			"restrict_oom_score_adj":       h.restrictOOM,
			"netns_mounts_under_state_dir": true,
			"enable_unprivileged_ports":    true,
			"enable_unprivileged_icmp":     true,
			"enable_criu":                  false,
			// Sampling all containers each second, its default, is for
			// dashboards; the kubelet's summary needs no more than this.
			"stats_collect_period": "10s",
		},
		"io.containerd.cri.v1.images": {
			"snapshotter":          h.snapshotter,
			"pinned_images":        table{"sandbox": r.pauseImage},
			"registry":             table{"config_path": r.cfg.RegistriesDir},
			"stats_collect_period": 60,
		},
		"io.containerd.grpc.v1.cri": {
			"stream_server_address": "127.0.0.1",
			"stream_server_port":    "0",
		},
		"io.containerd.transfer.v1.local": {
			"max_concurrent_downloads": 6,
			"config_path":              r.cfg.RegistriesDir,
			"unpack_config": []table{{
				"platform":    "linux/" + runtime.GOARCH,
				"snapshotter": h.snapshotter,
			}},
		},
		"io.containerd.shim.v1.manager": {
			"socket_dir": r.shimSocketDir,
		},
	}
}

// decode lays a plugin's settings over its defaults. It writes into the value
// the plugin registered, because some plugins read that one and not what they
// are handed: hence one Runtime at a time in a process.
func decode(into any, t table) error {
	data, err := toml.Marshal(t)
	if err != nil {
		return err
	}
	if err := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields().Decode(into); err != nil {
		return fmt.Errorf("settings %s: %w", data, err)
	}
	return nil
}
