#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Installs what tests and measurements need, as root on Debian or Ubuntu: real peers and tools. Does
# nothing, and asks no package server, where everything is there already. What the lockfile of
# test/oidc names is installed by the tests that need it.
#
#	setup.sh            for make test
#	setup.sh generate   also what compiles the BPF programs (Debian 12's clang 14 makes the committed files)
#	setup.sh bench      also the peers that are measured beside
set -euo pipefail
cd "$(dirname "$0")/../.."

# command or file -> Debian package
declare -A packages=(
	[psql]=postgresql-client [/usr/lib/postgresql/*/bin/postgres]=postgresql
	[redis-server]=redis-server [redis-cli]=redis-tools
	[ssh]=openssh-client [/usr/sbin/sshd]=openssh-server
	[/usr/sbin/ip]=iproute2 [/usr/sbin/nft]=nftables [ss]=iproute2 [setpriv]=util-linux
	[openssl]=openssl [python3]=python3-minimal [npm]=npm
	[spin]=spin [gcc]=gcc [/usr/include/stdio.h]=libc6-dev # Spin's verifiers are C programs
)
# Ubuntu has Chromium as a snap only: where Google's build is there, it does.
command -v google-chrome >/dev/null || packages+=([chromium]=chromium)
case "${1:-}" in
generate) packages+=([clang]=clang [llvm-strip]=llvm [/usr/include/bpf/bpf_helpers.h]=libbpf-dev) ;;
bench) packages+=([/usr/sbin/haproxy]=haproxy [/usr/sbin/nginx]=nginx [/usr/lib/nginx/modules/ngx_stream_module.so]=libnginx-mod-stream) ;;
esac
missing=()
for tool in "${!packages[@]}"; do
	command -v "$tool" >/dev/null 2>&1 || compgen -G "$tool" >/dev/null || missing+=("${packages[$tool]}")
done
if [ ${#missing[@]} -gt 0 ]; then
	[ "$(id -u)" = 0 ] || { echo "setup: missing ${missing[*]}: run as root, or install them" >&2; exit 1; }
	command -v apt-get >/dev/null || { echo "setup: missing ${missing[*]}: not a Debian or Ubuntu machine, install them by hand" >&2; exit 1; }
	echo "setup: installing ${missing[*]}"
	export DEBIAN_FRONTEND=noninteractive
	# The tests start their own servers: the packages must not start theirs.
	policy=/usr/sbin/policy-rc.d
	if [ ! -e "$policy" ]; then
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod 755 "$policy"
		trap 'rm -f "$policy"' EXIT
	fi
	apt-get update -qq
	apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
