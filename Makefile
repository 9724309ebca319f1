# Targets with a ## are what people use; `make` alone prints them. ARGS reaches the command behind a target:
# make run ARGS="--fresh --port 9000", make test ARGS="-run TestSpine ./cmd/...".

ARGS ?=
GOLANGCI_VERSION := v2.15.0
LINT := .bin/golangci-lint-$(GOLANGCI_VERSION)

# Where Go's own installer puts it, for shells that were not told.
export PATH := $(PATH):/usr/local/go/bin
# The binary knows its commit where git does. It may not: a release archive, or a checkout that belongs to somebody else,
# for which the build would fail.
export GOFLAGS := $(GOFLAGS) -buildvcs=$(shell git rev-parse HEAD >/dev/null 2>&1 && echo auto || echo false)

MAKEFLAGS += --no-print-directory
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help run demo test mutants-policy guard lint bench microbench fmt build clean

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: ## Install what is missing and start everything here, with demo accounts and curl lines to paste
	@.ci/install go redis postgres curl
	@$(MAKE) build
	@exec ./creditgate dev $(ARGS)

demo: ## Drive a scripted client through a fresh gateway and check every credit
	@.ci/install go redis postgres
	@$(MAKE) build
	@CGO_ENABLED=0 go run ./bench/demo $(ARGS)

# Allocations are counted without the race detector, which makes some of its own.
test: ## Run every test on real servers, with the race detector
	@.ci/install go redis postgres gcc git curl
	@.ci/install nginx-lua || true
	CGO_ENABLED=1 go test -race -count=1 $(or $(ARGS),./...)
	$(if $(ARGS),,CGO_ENABLED=0 go test -count=1 -run '^TestAllocations' ./gateway ./meter ./meter/policy ./persist)

# make test plays those that were made by hand; here they print their table, and then every mistake that can be made in
# one place of the policies' syntax trees is played: two minutes or so on two cores.
mutants-policy: ## Break the seed policies in each place, see which rule's test fails, and list what survives with the reason
	@.ci/install go redis postgres
	@go test -v -count=1 -timeout 30m -run '^(TestPolicyMutants|TestGeneratedPolicyMutants)$$' ./cmd/creditgate -generated $(ARGS)

# Instructions are counted where valgrind is, and the rest without it.
guard: ## Count what a request costs in Redis and heap, beside the recorded figures; ARGS=-update records
	@.ci/install go redis postgres
	@.ci/install valgrind || echo "guard: going on without valgrind"
	go test -v -count=1 -run '^(TestCosts|TestAllocations)$$' ./meter ./bench/guard $(ARGS)

lint: $(LINT) ## Check style and import directions
	$(LINT) run $(ARGS)

# nginx with Lua is one of those that are compared. Where it cannot be installed, the report says so and goes without.
bench: ## Measure beside the alternatives, and write bench/results; ARGS=-quick, ARGS=-h says what else
	@.ci/install go redis postgres
	@.ci/install nginx-lua || true
	@$(MAKE) build
	@mkdir -p .bin
	@CGO_ENABLED=0 go build -o .bin/bench ./bench/run
	@exec .bin/bench $(ARGS)

microbench: ## Go micro-benchmarks on a real redis-server
	@.ci/install go redis postgres
	go test -run '^$$' -bench . -benchmem $(ARGS) ./meter/... ./gateway ./persist ./bench/...

fmt: $(LINT) ## Format the code
	$(LINT) fmt

# Without cgo the binary runs wherever it is copied to, and needs no C compiler here.
build: ## Build ./creditgate
	@.ci/install go
	@[ -x creditgate ] || echo "Compiling ./creditgate. The first time takes about two minutes."
	@CGO_ENABLED=0 go build -o creditgate ./cmd/creditgate

clean: ## Remove what was built; .creditgate, the data of make run, stays
	rm -rf creditgate .bin .demo

# The version is in the name, so that raising it builds anew. It is built here, with this Go, since a linter that
# was built with an older one refuses the code.
$(LINT):
	@.ci/install go
	@mkdir -p .bin
	GOBIN=$(CURDIR)/.bin GOFLAGS= CGO_ENABLED=0 go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	@mv .bin/golangci-lint $@
