//go:build ignore

// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// One object: the programs share the maps.
#include "gate.h"
#include "walk.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

// Never read: keeps the types that no map mentions in the object's BTF, for bpf2go.
const struct record *unused_record __attribute__((unused));
const enum verdict *unused_verdict __attribute__((unused));
const enum gate_stat *unused_gate_stat __attribute__((unused));
