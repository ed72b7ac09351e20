// SPDX-License-Identifier: Apache-2.0

// Package bpf is Curfew's hold on the kernel: the gate that lets no payload through on a socket
// whose session is over, the iterator that destroys such sockets, and SOCK_DESTROY.
//
// It owns the BPF objects, their pins and the gated cgroup; it knows tuples, cookies, session
// numbers and deadlines (CLOCK_BOOTTIME). No OpenID, no policy, no gossip: it must not import
// anything of ours but agent/session, and it is the only importer of cilium/ebpf and
// vishvananda/netlink.
//
// Everything but this comment is for Linux. What needs privilege (Load, Objects, Destroyer,
// Pinned) runs in the enforcer; Tagger runs in the unprivileged proxy on inherited descriptors.
package bpf
