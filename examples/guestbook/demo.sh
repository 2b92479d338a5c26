#!/usr/bin/env bash
# From nothing to a running application: starts a one-node cluster, builds the
# guestbook's images, applies its manifests and shows it answering.
set -euo pipefail
cd "$(dirname "$0")/../.."

export PROA_DIR=${PROA_DIR:-/var/lib/proa-dev}
export KUBECONFIG=$PROA_DIR/proa.yaml
here=examples/guestbook
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

begin=$(date +%s%N)
step() { # step TITLE COMMAND...: runs it and says how long it took
	local title=$1 from
	shift
	from=$(date +%s%N)
	printf '%-52s' "$title"
	if ! "$@" >"$tmp/out" 2>&1; then
		printf 'failed\n'
		cat "$tmp/out" >&2
		exit 1
	fi
	printf '%6d ms\n' $((($(date +%s%N) - from) / 1000000))
}

images() {
	for part in frontend backend; do
		CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$tmp/$part" "./$here/$part"
		go run "./$here/images" -name "proa.dev/examples/guestbook-$part:1" -binary "$tmp/$part" -o "$tmp/$part.tar"
		bin/proa image import --data-dir "$PROA_DIR" "$tmp/$part.tar"
	done
}

answers() {
	local i
	for i in $(seq 100); do
		curl -fsS --max-time 2 "http://127.0.0.1:30080/" >"$tmp/page" && return
		sleep 0.05
	done
	return 1
}

step "start a cluster, wait until its node is Ready" cmd/proa/run.sh up
step "build two images and import them" images
step "kubectl apply -f $here/guestbook.yaml" bin/kubectl apply -f $here/guestbook.yaml
step "wait for the back end's rollout" bin/kubectl -n guestbook rollout status deployment/guestbook-backend --timeout=60s
step "wait for the front end's rollout, 3 replicas" bin/kubectl -n guestbook rollout status deployment/guestbook --timeout=60s
step "ask for the page on node port 30080" answers
step "sign the guestbook" curl -fsS -L --post302 -o /dev/null --max-time 5 -d 'text=Hello from make demo' http://127.0.0.1:30080/ 
printf '%-52s%6d ms\n\n' "in all" $((($(date +%s%N) - begin) / 1000000))

bin/kubectl -n guestbook get pods,services -o wide
echo
curl -fsS http://127.0.0.1:30080/ | sed -n 's/.*<li>\([^<]*\) <small>.*/the page says: \1/p; s/.*\(Answered by [^<]*\).*/\1/p'
cat <<TXT

Try next:
  export KUBECONFIG=$KUBECONFIG
  bin/kubectl -n guestbook get pods -w                        # in a second terminal
  bin/kubectl -n guestbook delete pod -l tier=frontend        # watch them come back
  bin/kubectl -n guestbook scale deployment/guestbook --replicas=5
  bin/kubectl -n guestbook logs -l tier=frontend --prefix -f
  make down                                                   # leaves nothing behind
TXT
