# SPDX-License-Identifier: Apache-2.0
#
# make demo    the main job on this machine, in under a minute
# make test    everything the project can show, with its set-up (root, Debian or Ubuntu)
# make cluster-sim  200 and 1,000 nodes in simulated time (minutes; 5 and 50 are part of test)
# make bench-cluster  five agents with 100,000 sessions (minutes)
# make mutants      takes one promise after the other out of the code: a test must notice (ten minutes)
# make bench   speed beside HAProxy, nginx and ss -K, as ratios in one run

GO ?= go
VERSION ?= $(shell git describe --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -X main.version=$(VERSION)

.PHONY: cluster-sim bench-cluster mutants all build demo test test-race check generate setup bench clean

all: build

build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "$(LDFLAGS)" -o bin/curfew ./cmd/curfew

demo: build
	bin/curfew demo

setup:
	test/scripts/setup.sh

# The tests share one kernel: packages that measure or count its sockets run one after another.
test: setup build
	$(GO) test -p 1 -timeout 20m ./...

test-race: setup
	$(GO) test -race -p 1 -timeout 20m $(RACE_PACKAGES)

# What needs no kernel of its own runs under the race detector.
RACE_PACKAGES = ./agent/... ./client/... ./cmd/... ./proxy/...

generate:
	test/scripts/setup.sh generate
	$(GO) generate ./...

check:
	test/scripts/check.sh

bench: build
	test/scripts/setup.sh bench
	$(GO) test ./bpf -run '^$$' -bench Kill -benchtime 1x
	$(GO) test ./agent/session -run '^$$' -bench Memory -benchtime 1x
	$(GO) run ./test/bench

clean:
	rm -rf bin

cluster-sim:
	$(GO) test ./test/sim -run TestMany -nodes 200 -v -count=1 -timeout 20m
	$(GO) test ./test/sim -run TestMany -nodes 1000 -v -count=1 -timeout 60m

bench-cluster: setup
	$(GO) test ./test/scale -run '^$$' -bench Cluster -benchtime 1x -timeout 30m -v

mutants: setup
	$(GO) run ./test/mutants
