#!/usr/bin/env bash
# Builds upstream's programs of this module, once a machine and state of the
# module: the end-to-end suite, the command that runs it in parallel, and what
# goes into the images of its tests. Prints the folder.
set -euo pipefail
cd "$(dirname "$0")"

cache=${PROA_CONFORMANCE_CACHE:-/var/cache/proa-conformance}
out=$cache/bin
export CGO_ENABLED=0 GOFLAGS='-trimpath -buildvcs=false'
upstream=v1.37.0
version=k8s.io/component-base/version

mkdir -p "$cache"
exec 9>"$cache/programs.lock"
flock 9
state=$(cat go.mod go.sum build.sh <(go version) | sha256sum | cut -d' ' -f1)
if [[ $(cat "$cache/programs" 2>/dev/null) != "$state" ]]; then
	echo "building upstream's suite, once: about 10 minutes" >&2
	mkdir -p "$out"
	major=${upstream#v} minor=${upstream#*.}
	flags="-s -w -X $version.gitVersion=$upstream -X $version.gitMajor=${major%%.*} -X $version.gitMinor=${minor%%.*} -X main.Version=2.66.1"
	nice -n 19 go build -ldflags "$flags" -o "$out/" tool
	nice -n 19 go test -c -vet=off -ldflags "$flags" -o "$out/e2e.test" k8s.io/kubernetes/test/e2e
	echo "$state" >"$cache/programs"
fi
echo "$out"
