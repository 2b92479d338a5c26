#!/usr/bin/env bash
# All tests. As root: the node's tests run real containers.
set -euo pipefail
cd "$(dirname "$0")/.."
if [[ $(id -u) -ne 0 ]]; then
	echo "the tests start containers and need root: sudo make test" >&2
	exit 1
fi
# One package at a time where tests share the machine's network and cgroups.
mapfile -t node < <(go list ./test/... ./container/... ./network/...)
mapfile -t pure < <(go list ./... | grep -vxF -f <(printf '%s\n' "${node[@]}"))
go test "${pure[@]}"
go test -p 1 -count=1 -timeout 15m "${node[@]}"
