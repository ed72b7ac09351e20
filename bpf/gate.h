// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The gate: no packet but a bare RST passes on a socket whose time is over. It needs no process
// to be alive. Kernel 5.14 (bpf_sk_storage_get in cgroup_skb is older, SO_NETNS_COOKIE is not).
#pragma once

#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <stddef.h>
#include <bpf/bpf_endian.h>

#include "judge.h"

#define PASS 1
#define DROP 0

static __always_inline void count(__u32 stat)
{
	__u64 *n = bpf_map_lookup_elem(&gate_stats, &stat);

	if (n)
		(*n)++; // per CPU, and softirqs do not nest
}

// The offset of the TCP header behind the IP header at offset 0, or 0 if there is none to be
// read: fragments, IPv6 extension headers, other protocols.
static __always_inline __u32 tcp_offset(struct __sk_buff *skb)
{
	if (skb->protocol == bpf_htons(0x0800)) {
		struct iphdr ip;

		if (bpf_skb_load_bytes(skb, 0, &ip, sizeof(ip)))
			return 0;
		if (ip.protocol != IPPROTO_TCP || ip.ihl < 5 || ip.frag_off & bpf_htons(0x3fff))
			return 0;
		return ip.ihl * 4;
	}
	if (skb->protocol == bpf_htons(0x86dd)) {
		struct ipv6hdr ip6;

		if (bpf_skb_load_bytes(skb, 0, &ip6, sizeof(ip6)))
			return 0;
		return ip6.nexthdr == IPPROTO_TCP ? sizeof(ip6) : 0;
	}
	return 0;
}

// A RST that carries payload (RFC 9293, 3.5.3 allows it) does not pass.
static __always_inline int pass_bare_reset(struct __sk_buff *skb, __u32 dropped)
{
	struct tcphdr tcp;
	__u32 off = tcp_offset(skb);

	if (!off || bpf_skb_load_bytes(skb, off, &tcp, sizeof(tcp))) {
		count(GATE_UNPARSED);
		return DROP;
	}
	if (tcp.rst && skb->len == off + tcp.doff * 4) {
		count(GATE_RESET);
		return PASS;
	}
	count(dropped);
	return DROP;
}

static __always_inline int gate(struct __sk_buff *skb)
{
	struct session *session;
	enum verdict verdict;
	struct bpf_sock *sk;
	__u64 left_ns;
	struct tag *tag;
	__u32 len = skb->len;

	sk = skb->sk ? bpf_sk_fullsock(skb->sk) : NULL;
	if (!sk) {
		count(GATE_NO_SOCKET);
		return PASS;
	}
	tag = bpf_sk_storage_get(&socks, sk, NULL, 0);
	if (!tag || !tag->number) {
		count(GATE_UNTAGGED);
		return PASS;
	}
	verdict = judge(tag, bpf_ktime_get_boot_ns(), &session, &left_ns);
	if (verdict == VERDICT_ALIVE)
		return PASS;
	if (pass_bare_reset(skb, verdict - VERDICT_NO_SESSION + GATE_NO_SESSION) == PASS)
		return PASS;
	if (session) {
		__sync_fetch_and_add(&session->dropped_packets, 1);
		__sync_fetch_and_add(&session->dropped_bytes, len);
	}
	return DROP;
}

SEC("cgroup_skb/ingress")
int gate_ingress(struct __sk_buff *skb)
{
	return gate(skb);
}

SEC("cgroup_skb/egress")
int gate_egress(struct __sk_buff *skb)
{
	return gate(skb);
}

// An empty tag on each TCP socket made in the cgroup is the proof, asked for when it is tagged
// (BPF_EXIST), that the gate sees the socket: one made before its process joined the cgroup, or
// an MPTCP one, has none. Listeners pass theirs on to what they accept.
SEC("cgroup/sock_create")
int mark(struct bpf_sock *sk)
{
	if (sk->type == 1 /* SOCK_STREAM */ && sk->protocol == IPPROTO_TCP)
		bpf_sk_storage_get(&socks, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);
	return PASS;
}
