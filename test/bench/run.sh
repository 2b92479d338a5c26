#!/usr/bin/env bash
# Runs the benchmarks; arguments go to the program, e.g. -run 'pods|api'.
set -euo pipefail
cd "$(dirname "$0")/../.."
[[ $(id -u) -eq 0 ]] || { echo "the benchmarks start containers and need root: sudo make bench" >&2; exit 1; }
go build -o bin/bench ./test/bench
exec bin/bench "$@"
