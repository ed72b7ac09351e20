// SPDX-License-Identifier: Apache-2.0

package bpf

//go:generate go tool bpf2go -cc clang-14 -strip llvm-strip-14 -go-package bpf -target bpfel -tags linux -type session -type tag -type tuple -type conn -type label -type record -type verdict -type gate_stat curfew curfew.c -- -O2 -Wall -Werror -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu
