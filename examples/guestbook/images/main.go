// Command images packs a static binary into an image tarball that
// `proa image import` takes.
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/proa-dev/proa/internal/ociimage"
)

func main() {
	name := flag.String("name", "", "the image's `name:tag`")
	binary := flag.String("binary", "", "the static binary that it runs")
	out := flag.String("o", "", "the tarball to write")
	flag.Parse()
	if err := build(*name, *binary, *out); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

func build(name, binary, out string) error {
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	if err := ociimage.Build(f, ociimage.Spec{
		Names:      []string{name},
		Layers:     [][]ociimage.File{{{Path: "/app", Mode: 0o755, Source: binary}}},
		Entrypoint: []string{"/app"},
	}); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
