#!/bin/sh
# Builds the helper programs that Proa embeds: the containerd shim, runc, the
# pause process and the CNI client. Incremental: nothing happens while the
# sources and versions that went into bin/ are the same.
#
# GOARCH (amd64, arm64) and CC choose another architecture than this machine's.
# runc needs libseccomp-dev and pkg-config of that architecture.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
cd "$here"
out=$here/bin
goarch=${GOARCH:-$(go env GOARCH)}
cc=${CC:-$(go env CC)}
export GOOS=linux GOARCH="$goarch" GOFLAGS="${GOFLAGS:--trimpath}"

shim=./shim
runc=github.com/opencontainers/runc

version_of() { go list -m -f '{{.Path}} {{.Version}} {{if .Replace}}{{.Replace}}{{end}}' "$1"; }

# Everything that decides the result. go.sum stands for the dependencies.
stamp=$({
	echo "$goarch $cc"
	go version
	version_of github.com/containerd/containerd/v2
	version_of "$runc"
	cat build.sh src/*.c src/*.h shim/*.go
} | sha256sum | cut -d' ' -f1)

if [ -f "$out/stamp" ] && [ "$(cat "$out/stamp")" = "$stamp" ]; then
	exit 0
fi

command -v "$cc" >/dev/null || { echo "runtimebin: no C compiler ($cc): install gcc" >&2; exit 1; }
pkg-config --exists libseccomp || { echo "runtimebin: libseccomp is missing: install libseccomp-dev and pkg-config" >&2; exit 1; }

tmp=$(mktemp -d "$here/.build.XXXXXX")
trap 'rm -rf "$tmp"' EXIT

for program in pause proa-cni; do
	"$cc" -Os -Wall -Wextra -Werror -static -nostdlib -ffreestanding -fno-stack-protector \
		-fno-asynchronous-unwind-tables -fno-builtin -Wl,--build-id=none -Wl,-z,noexecstack -s \
		-o "$tmp/$program" "src/$program.c"
done
# A pod's start executes the shim twice and runc six times: what they initialize
# and never use is left out. gRPC (shims speak ttrpc), checkpoints by CRIU, which
# CRI is told not to offer, and the command line's documentation are half of it.
CGO_ENABLED=0 go build -tags no_grpc -ldflags '-s -w' -o "$tmp/containerd-shim-runc-v2" "$shim"
CGO_ENABLED=1 CC="$cc" go build -tags 'seccomp netgo osusergo runc_nocriu urfave_cli_no_docs' \
	-ldflags '-s -w -extldflags -static' -o "$tmp/runc" "$runc"

# The name of the directory they are unpacked to.
(cd "$tmp" && sha256sum containerd-shim-runc-v2 pause proa-cni runc) | sha256sum | cut -c1-16 >"$tmp/hash"
echo "$goarch" >"$tmp/arch"
echo "$stamp" >"$tmp/stamp"

mkdir -p "$out"
rm -f "$out/stamp"
for f in containerd-shim-runc-v2 runc pause proa-cni hash arch stamp; do
	mv "$tmp/$f" "$out/$f"
done
