#!/usr/bin/env bash
# Runs upstream's conformance tests against a Proa of its own.
#   FOCUS='regexp'  these tests alone, whatever is known of them
#   SKIP='regexp'   not these
#   RERUN=failed    those that failed; RERUN=all  all of them anew
#   PROCS=n NODES=n processes of the suite, nodes of the cluster
# Without any of these a run goes on where the last one stopped.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [[ $(id -u) -ne 0 ]]; then
	echo "conformance tests start containers and need root: sudo make conformance" >&2
	exit 1
fi
for tool in apt-get dpkg-deb bzip2 xz gcc make; do
	command -v "$tool" >/dev/null || { echo "making the tests' images needs $tool" >&2; exit 1; }
done
programs=$(test/conformance/build.sh)
upstream=$(cd test/conformance && go list -m -f '{{.Dir}}' k8s.io/kubernetes)
mkdir -p bin/conformance
go build -o bin/conformance/suite ./test/suite
common=(-programs "$programs" -upstream "$upstream" -cache "${PROA_CONFORMANCE_CACHE:-/var/cache/proa-conformance}")
bin/conformance/suite images "${common[@]}"
exec bin/conformance/suite run "${common[@]}" -focus "${FOCUS:-}" -skip "${SKIP:-}" -rerun "${RERUN:-}" -procs "${PROCS:-4}" -nodes "${NODES:-2}"
