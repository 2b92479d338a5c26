#!/usr/bin/env bash
# Installs the Debian packages that the build and the tests need, if any is
# missing. Elsewhere it says what to install.
set -euo pipefail

need=()
want() { # want COMMAND-OR-FILE PACKAGE
	if [[ $1 == /* || $1 == *.h || $1 == *.a ]]; then
		compgen -G "$1" >/dev/null || need+=("$2")
	else
		command -v "$1" >/dev/null || need+=("$2")
	fi
}
want gcc gcc
want make make
want pkg-config pkg-config
want "/usr/include/seccomp.h" libseccomp-dev
want "/usr/include/*/sys/types.h" libc6-dev
want ip iproute2
want nft nftables
want curl curl
want "/bin/busybox" busybox-static
[[ ${#need[@]} -eq 0 ]] && exit 0

if ! command -v apt-get >/dev/null; then
	echo "missing: ${need[*]} (Debian's names). Install them with this system's package manager." >&2
	exit 1
fi
if [[ $(id -u) -ne 0 ]]; then
	echo "missing: ${need[*]}. Install them: sudo apt-get install ${need[*]}" >&2
	exit 1
fi
echo "installing ${need[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get install -y -q --no-install-recommends "${need[@]}" >/dev/null 2>&1 ||
	{ apt-get update -q >/dev/null && apt-get install -y -q --no-install-recommends "${need[@]}" >/dev/null; }
