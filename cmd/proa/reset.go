package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/proa-dev/proa/container"
	"github.com/proa-dev/proa/kubelet"
	"github.com/proa-dev/proa/network/dns"
	"github.com/proa-dev/proa/network/podnet"
	"github.com/proa-dev/proa/network/proxy"
)

func resetCommand() *cobra.Command {
	var dataDir, clusterCIDR, kubeconfig string
	var yes bool
	cmd := &cobra.Command{
		Use:   "reset",
		Short: "Stop every pod of a stopped Proa and remove all it left on this machine",
		Long: "Stop every pod of a Proa that no longer runs, and remove its data directory, mounts,\n" +
			"cgroups, network links, rules, logs and kubeconfig. Everything in the cluster is lost.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			dir, err := absolute(dataDir)
			if err != nil {
				return err
			}
			pods, err := netip.ParsePrefix(clusterCIDR)
			if err != nil {
				return fmt.Errorf("--cluster-cidr: %q is not a network such as 10.42.0.0/16", clusterCIDR)
			}
			if !yes && !confirmed(cmd, dir) {
				return errors.New("nothing was removed")
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), time.Minute)
			defer cancel()
			return reset(ctx, &nodeConfig{
				dataDir: dir, runDir: runDir(dir), pods: pods,
				logger: slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)),
			}, kubeconfig)
		},
	}
	cmd.Flags().StringVar(&dataDir, "data-dir", defaultDataDir, "folder that holds all state")
	cmd.Flags().StringVar(&clusterCIDR, "cluster-cidr", "10.42.0.0/16", "addresses of pods")
	cmd.Flags().StringVar(&kubeconfig, "write-kubeconfig", defaultKubeconfig, "where the administrator's kubeconfig was written; another cluster's is left alone")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

func confirmed(cmd *cobra.Command, dir string) bool {
	fmt.Fprintf(cmd.ErrOrStderr(), "This removes the cluster in %s with everything in it. Type yes to go on: ", dir)
	answer, _ := bufio.NewReader(cmd.InOrStdin()).ReadString('\n')
	return strings.TrimSpace(answer) == "yes"
}

// reset removes things in the opposite order of their making, and goes on
// when one of them fails.
func reset(ctx context.Context, cfg *nodeConfig, kubeconfig string) error {
	// Only what Proa made is removed.
	for _, other := range []func(dir string) (string, error){foreign, unused} {
		if name, err := other(cfg.dataDir); err != nil {
			return err
		} else if name != "" {
			return fmt.Errorf("%s does not look like a data directory of Proa, with %q in it: nothing was removed", cfg.dataDir, name)
		}
	}
	// What still runs must not lose its files.
	if held, err := hold(cfg.dataDir); err == nil {
		defer held.Close()
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: stop it first", err)
	}
	if os.Geteuid() != 0 { // a control plane alone is anybody's
		if _, err := os.Stat(cfg.kubeletDir()); !errors.Is(err, fs.ErrNotExist) {
			return errors.New("what a node leaves on a machine is root's: reset it as root")
		}
		return errors.Join(removeKubeconfig(kubeconfig, cfg.dataDir), removeDir(cfg.runDir), removeDir(cfg.dataDir))
	}
	host, err := claimHost(ctx)
	if err != nil {
		return err
	}
	defer host.Close()
	if err := container.Cleanup(ctx, cfg.container()); err != nil {
		return err
	}
	err = errors.Join(
		kubelet.Cleanup(ctx, kubelet.Config{
			RootDir: cfg.kubeletDir(), PodLogsDir: podLogs, ContainerLogsDir: containerLogs, CgroupRoot: cfg.cgroupRoot(),
		}),
		dns.Cleanup(dnsLink),
		proxy.Cleanup(proxyTable),
		podnet.Cleanup(ctx, cfg.podnet()),
		removeKubeconfig(kubeconfig, cfg.dataDir),
	)
	return errors.Join(err, removeDir(cfg.runDir), removeDir(cfg.dataDir))
}

// removeKubeconfig removes what leads to the cluster of a data directory. A file
// that does not trust that cluster's authority is somebody else's.
func removeKubeconfig(file, dataDir string) error {
	ca, err := os.ReadFile(filepath.Join(dataDir, "tls", "ca.crt"))
	if err != nil {
		return nil //nolint:nilerr // an agent's: it writes none
	}
	kubeconfig, err := clientcmd.LoadFromFile(file)
	if err != nil || len(kubeconfig.Clusters) == 0 {
		return nil //nolint:nilerr // there is none, or it is not ours
	}
	for _, cluster := range kubeconfig.Clusters {
		if !bytes.Equal(cluster.CertificateAuthorityData, ca) {
			return nil
		}
	}
	if err := os.Remove(file); err != nil {
		return err
	}
	if file == defaultKubeconfig {
		_ = os.Remove(filepath.Dir(file)) // with what else is in it, it stays
	}
	return nil
}

// removeDir empties a directory and removes it, unless it is a mount point.
func removeDir(dir string) error {
	err := os.RemoveAll(dir)
	if left, e := os.ReadDir(dir); e == nil && len(left) == 0 && errors.Is(err, syscall.EBUSY) {
		return nil
	}
	return err
}
