// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The iterators over the TCP sockets of the network namespace that opens them: `sweep` destroys
// the sockets whose time is over (bpf_sock_destroy: kernel 6.5), `list` only lists the tagged
// ones. Both arm what is about to end.
#pragma once

#include <linux/in6.h>
#include <stdbool.h>
#include <bpf/bpf_core_read.h>

#include "arm.h"
#include "judge.h"

#define AF_INET6 10
#define NOT_DESTROYED 1

struct sock_common {
	unsigned short skc_family;
	volatile unsigned char skc_state;
	__u16 skc_num;
	__be16 skc_dport;
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
} __attribute__((preserve_access_index));

struct seq_file {
	size_t size;
	size_t count;
} __attribute__((preserve_access_index));

struct bpf_iter_meta {
	struct seq_file *seq;
} __attribute__((preserve_access_index));

struct bpf_iter__tcp {
	struct bpf_iter_meta *meta;
	struct sock_common *sk_common;
} __attribute__((preserve_access_index));

extern int bpf_sock_destroy(struct sock_common *sock) __ksym;

static __always_inline void put_v4(__u8 addr[16], __be32 v4)
{
	addr[10] = 0xff;
	addr[11] = 0xff;
	__builtin_memcpy(addr + 12, &v4, sizeof(v4));
}

static __always_inline void put_addresses(struct record *rec, struct sock_common *skc)
{
	rec->local_port = skc->skc_num;
	rec->remote_port = bpf_ntohs(skc->skc_dport);
	if (skc->skc_family == AF_INET6) {
		bpf_core_read(rec->local_addr, 16, &skc->skc_v6_rcv_saddr);
		bpf_core_read(rec->remote_addr, 16, &skc->skc_v6_daddr);
	} else {
		put_v4(rec->local_addr, skc->skc_rcv_saddr);
		put_v4(rec->remote_addr, skc->skc_daddr);
	}
}

static __always_inline int walk(struct bpf_iter__tcp *ctx, bool destroy)
{
	struct seq_file *seq = ctx->meta->seq;
	struct sock_common *skc = ctx->sk_common;
	struct record rec = { .result = NOT_DESTROYED };
	struct session *session;
	__u64 left_ns = 0;
	struct tag *tag;
	void *tp;

	if (!skc) // the end of the pass
		return 0;
	tp = bpf_skc_to_tcp_sock(skc);
	if (!tp) // a connection request or TIME_WAIT: carries no payload
		return 0;
	tag = bpf_sk_storage_get(&socks, tp, NULL, 0);
	if (!tag || !tag->number) // not a relayed connection
		return 0;
	rec.verdict = judge(tag, bpf_ktime_get_boot_ns(), &session, &left_ns);
	if (rec.verdict == VERDICT_ALIVE) {
		arm(tp, tag, left_ns);
		if (destroy)
			return 0;
	}
	rec.cookie = bpf_get_socket_cookie(tp);
	rec.number = tag->number;
	rec.leg = tag->leg;
	rec.armed = tag->armed;
	rec.state = skc->skc_state;
	put_addresses(&rec, skc);
	// A record that does not fit makes the kernel show the socket again to the next read, so
	// nothing may be destroyed before there is room to report it.
	if (destroy && seq->count + sizeof(rec) < seq->size)
		rec.result = bpf_sock_destroy(skc);
	bpf_seq_write(seq, &rec, sizeof(rec));
	return 0;
}

SEC("iter/tcp")
int sweep(struct bpf_iter__tcp *ctx)
{
	return walk(ctx, true);
}

SEC("iter/tcp")
int list(struct bpf_iter__tcp *ctx)
{
	return walk(ctx, false);
}
