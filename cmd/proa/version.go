package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
	"k8s.io/component-base/version"
)

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := version.Get()
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "proa %s (%s, %s, %s/%s)\n", v.GitVersion, v.GitCommit, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}
