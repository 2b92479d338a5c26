# Proa's tasks. `make` or `make help` lists them.

SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

export GOFLAGS     := -trimpath -buildvcs=false
export CGO_ENABLED := 0

VERSION    := $(shell cat VERSION)
COMMIT     := $(shell git rev-parse HEAD 2>/dev/null)
DATE       := $(shell git log -1 --format=%cd --date=format:%Y-%m-%dT%H:%M:%SZ 2>/dev/null)
component  := k8s.io/component-base/version
LDFLAGS    := -s -w -X $(component).gitVersion=$(VERSION) -X $(component).gitCommit=$(COMMIT) \
              -X $(component).gitTreeState=clean -X $(component).buildDate=$(DATE) \
              -X $(component).gitMajor=$(shell cut -c2- VERSION | cut -d. -f1) -X $(component).gitMinor=$(shell cut -d. -f2 VERSION)
GOLANGCI   := v2.15.0
LINTER     := $(shell go env GOPATH)/bin/golangci-lint-$(GOLANGCI)
RACE       := ./store/... ./apiserver/... ./client/... ./scheduler/... ./controllers/... ./internal/... ./kubelet/...
# One package at a time: their tests share the machine's network and cgroups.
RACE_NODE  := ./container/... ./network/...

.PHONY: help
help: ## List the targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

.PHONY: packages
packages: ## Install what the build and the tests need from Debian, if it is missing.
	@test/packages.sh

.PHONY: build
build: binaries ## Build bin/proa and bin/kubectl.
	@go build -ldflags '$(LDFLAGS)' -o bin/ ./cmd/proa ./cmd/kubectl
	@ls -sh bin/proa bin/kubectl

.PHONY: binaries
binaries: packages # runc, the shim, pause and the CNI shim, embedded into bin/proa
	@container/runtimebin/build.sh

.PHONY: demo
demo: build ## From nothing to a running application: a cluster with examples/guestbook.
	@examples/guestbook/demo.sh

.PHONY: up
up: build ## Start a one-node cluster in the background.
	@cmd/proa/run.sh up

.PHONY: down
down: ## Stop it and remove everything that it left.
	@cmd/proa/run.sh down

.PHONY: test
test: build ## All tests, as root, with real containers.
	@test/run.sh

.PHONY: conformance
conformance: build ## Upstream's conformance tests; FOCUS='regexp' some, RERUN=failed or all; goes on where it stopped.
	@test/conformance/run.sh

.PHONY: race
race: binaries ## The concurrent packages under the race detector.
	@CGO_ENABLED=1 go test -race -count=1 $(RACE)
	@CGO_ENABLED=1 go test -race -count=1 -p 1 $(RACE_NODE)

.PHONY: lint
lint: binaries $(LINTER) ## gofmt, go vet and golangci-lint.
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo 'run gofmt -w on these'; exit 1; }
	@$(LINTER) run ./...

$(LINTER):
	@echo "building golangci-lint $(GOLANGCI), once"
	@GOBIN=$(@D)/.golangci-$(GOLANGCI) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI)
	@mv $(@D)/.golangci-$(GOLANGCI)/golangci-lint $@ && rmdir $(@D)/.golangci-$(GOLANGCI)

.PHONY: vuln
vuln: ## Known vulnerabilities in what is linked (needs the Go vulnerability database).
	@go run golang.org/x/vuln/cmd/govulncheck@v1.9.0 ./...

.PHONY: bench
bench: build ## Every figure beside its yardstick of the same run.
	@test/bench/run.sh

.PHONY: clean
clean: ## Remove what was built.
	@rm -rf bin
	@cd container/runtimebin/bin && rm -f containerd-shim-runc-v2 runc pause proa-cni hash arch stamp
