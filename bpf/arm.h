// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// Layer 4: shortly before a deadline the stack's own timers are set so short that it aborts the
// connection by itself once the gate is shut, with no process running. Not sooner, because a
// short TCP_USER_TIMEOUT also ends a connection whose peer merely stops reading for a while.
// bpf_setsockopt in iter/tcp: kernel 5.15.
#pragma once

#include "maps.h"

#define SOL_SOCKET 1
#define SO_KEEPALIVE 9
#define SOL_TCP 6
#define TCP_KEEPIDLE 4
#define TCP_KEEPINTVL 5
#define TCP_KEEPCNT 6
#define TCP_USER_TIMEOUT 18

#define SECOND 1000000000ULL
#define ARM_BELOW_NS (10 * SECOND)
#define DISARM_ABOVE_NS (12 * SECOND) // apart, so that a socket does not flap

// In seconds, a count, and milliseconds. The relaxed ones are also in keepalive_linux.go.
static __always_inline long set_timers(void *sk, int idle, int interval, int probes, int timeout)
{
	int on = 1;
	long err;

	err = bpf_setsockopt(sk, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	err |= bpf_setsockopt(sk, SOL_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	err |= bpf_setsockopt(sk, SOL_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
	err |= bpf_setsockopt(sk, SOL_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
	err |= bpf_setsockopt(sk, SOL_TCP, TCP_USER_TIMEOUT, &timeout, sizeof(timeout));
	return err;
}

static __always_inline void arm(void *sk, struct tag *tag, __u64 left_ns)
{
	if (!tag->armed && left_ns < ARM_BELOW_NS)
		tag->armed = !set_timers(sk, 1, 1, 2, 2000);
	else if (tag->armed && left_ns > DISARM_ABOVE_NS)
		tag->armed = !!set_timers(sk, 15, 5, 3, 0);
}
