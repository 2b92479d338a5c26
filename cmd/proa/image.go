package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/proa-dev/proa/container"
)

func imageCommand() *cobra.Command {
	var dataDir string
	cmd := group("image", "Import and list this node's images")
	cmd.PersistentFlags().StringVar(&dataDir, "data-dir", defaultDataDir, "data directory of the running Proa")
	socket := func() (string, error) {
		dir, err := absolute(dataDir)
		return container.Socket(runDir(dir)), err
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "import FILE...",
		Short: "Import image archives (OCI or docker save, also compressed; - is standard input)",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := socket()
			if err != nil {
				return err
			}
			for _, name := range args {
				if err := importFile(cmd, at, name); err != nil {
					return err
				}
			}
			return nil
		},
	}, &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the images",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			at, err := socket()
			if err != nil {
				return err
			}
			return listImages(cmd, at)
		},
	})
	return cmd
}

func importFile(cmd *cobra.Command, socket, name string) error {
	in := cmd.InOrStdin()
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	names, err := container.Import(cmd.Context(), socket, in)
	if err != nil {
		return fmt.Errorf("import %s: %w", name, hint(err))
	}
	for _, n := range names {
		fmt.Fprintln(cmd.OutOrStdout(), n)
	}
	return nil
}

func listImages(cmd *cobra.Command, socket string) error {
	images, err := container.List(cmd.Context(), socket)
	if err != nil {
		return hint(err)
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 3, ' ', 0)
	fmt.Fprintln(w, "IMAGE\tID\tSIZE")
	for _, i := range images {
		id := strings.TrimPrefix(i.ID, "sha256:")
		for _, n := range i.Names {
			fmt.Fprintf(w, "%s\t%.12s\t%s\n", n, id, resource.NewQuantity(int64(i.Size), resource.BinarySI))
		}
	}
	return w.Flush()
}

// hint says what to do when no Proa runs.
func hint(err error) error {
	if errors.Is(err, container.ErrNotRunning) {
		return fmt.Errorf("%w: start `proa server` first, or name its --data-dir", err)
	}
	return err
}
