#!/usr/bin/env bash
# Starts and removes the development cluster: a node with a data directory of
# its own, so that a Proa which is installed on this machine is left alone.
set -euo pipefail
cd "$(dirname "$0")/../.."

dir=${PROA_DIR:-/var/lib/proa-dev}
config=$dir/proa.yaml
log=$dir/proa.log
pidfile=$dir/proa.pid
# Developers' disks are full: by the defaults, a tenth and a seventh of room, a
# node evicts its pods seconds after it has started them.
room='memory.available<100Mi,nodefs.available<1%,imagefs.available<1%'

running() { [[ -s $pidfile ]] && [[ $(readlink "/proc/$(cat "$pidfile")/exe" 2>/dev/null) == */proa* ]]; }

up() {
	[[ $(id -u) -eq 0 ]] || { echo "a node needs root: sudo make up" >&2; exit 1; }
	if running; then
		echo "already up: pid $(cat "$pidfile")"
	else
		mkdir -p "$dir"
		setsid bin/proa server --data-dir "$dir" --write-kubeconfig "$config" --eviction-hard "$room" >>"$log" 2>&1 </dev/null &
		echo $! >"$pidfile"
	fi
	for _ in $(seq 60); do
		running || { echo "Proa ended early. Its last words:" >&2; tail -n 20 "$log" >&2; exit 1; }
		if bin/kubectl --kubeconfig "$config" wait --for=condition=Ready node --all --timeout=1s >/dev/null 2>&1; then
			echo "The node is Ready. Try:"
			echo "  export KUBECONFIG=$config"
			echo "  bin/kubectl get nodes -o wide"
			return
		fi
		sleep 0.1
	done
	echo "the node did not get Ready; see $log" >&2
	exit 1
}

down() {
	if running; then
		pid=$(cat "$pidfile")
		kill "$pid"
		for _ in $(seq 300); do
			kill -0 "$pid" 2>/dev/null || break
			sleep 0.1
		done
		kill -9 "$pid" 2>/dev/null || true
	fi
	[[ -d $dir ]] || { echo "nothing to remove"; return; }
	if [[ -d $dir/tls ]]; then # else it ended before it made anything
		bin/proa reset --data-dir "$dir" --yes
	fi
	rm -rf "$dir"
	echo "removed $dir and all that ran from it"
}

case ${1:-} in
up | down) "$1" ;;
*)
	echo "usage: $0 up|down" >&2
	exit 2
	;;
esac
