// Command proa is Kubernetes in one binary: control plane and node.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/component-base/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	err := rootCommand().ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "proa:", err)
		os.Exit(1)
	}
}

// rootCommand holds the verbs, each in a file of its own.
func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "proa",
		Short:         "Kubernetes in one binary",
		Version:       version.Get().GitVersion,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(serverCommand(), agentCommand(), tokenCommand(), imageCommand(), resetCommand(), versionCommand())
	return root
}

// group is a verb that only holds others: alone it shows them, and one that is
// not among them is an error, as it is at the root.
func group(use, short string) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
}
