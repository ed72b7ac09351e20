#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Everything about the tree that is not a test: format, vet, staticcheck, generated files, module
# files, and that the command-line client builds where the agent does not run.
set -euo pipefail
cd "$(dirname "$0")/../.."
step() { printf '== %s\n' "$*"; }

step format
unformatted=$(gofmt -l $(git ls-files '*.go'))
[ -z "$unformatted" ] || { echo "gofmt would change: $unformatted" >&2; exit 1; }

step vet
go vet ./...

step staticcheck
go tool staticcheck ./...

step "generated files are up to date"
test/scripts/setup.sh generate
before=$(git ls-files -s bpf; sha256sum bpf/*.o bpf/*_bpfel.go)
go generate ./bpf
after=$(git ls-files -s bpf; sha256sum bpf/*.o bpf/*_bpfel.go)
[ "$before" = "$after" ] || { echo "bpf: generated files differ from the sources: run 'make generate' and commit" >&2; exit 1; }

step "module files are tidy"
go mod tidy -diff
(cd test/opa/server && go mod tidy -diff)

step "the client builds for darwin and windows"
for os in darwin windows; do
	GOOS=$os CGO_ENABLED=0 go vet ./cmd/... ./client/... ./agent/api/...
	GOOS=$os CGO_ENABLED=0 go build -o /dev/null ./cmd/curfew
done

step "every source file names its licence"
unlicensed=$(git ls-files '*.go' '*.c' '*.h' '*.sh' '*.mjs' | xargs grep -L 'SPDX-License-Identifier\|Code generated' || true)
[ -z "$unlicensed" ] || { echo "no SPDX line: $unlicensed" >&2; exit 1; }
