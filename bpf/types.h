// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// What user space and the programs share: map keys and values, records, counters.
// bpf2go turns each of these types into a Go type; there is no second definition.
#pragma once

#include <linux/types.h>

// One sign-in on this host. The key is the local session number, never reused.
struct session {
	__u64 deadline_boot_ns; // CLOCK_BOOTTIME; 1 means ended
	__u64 dropped_packets;
	__u64 dropped_bytes; // of whole IP packets
};

// What hangs on a socket. `mark` puts an empty tag (number 0) on every TCP socket made in the
// gated cgroup; user space replaces it when the socket joins a session.
struct tag {
	__u64 number;		// of the session; 0 while the socket belongs to none
	__u64 deadline_boot_ns; // the connection's own limit, 0 if it has none
	__u8 leg;
	__u8 armed; // the stack's own timers are set short, see arm.h
	__u8 pad[6];
};

// A socket's addresses as this host sees them; IPv4 as ::ffff:a.b.c.d, ports in host order.
struct tuple {
	__u8 local_addr[16];
	__u8 remote_addr[16];
	__u16 local_port;
	__u16 remote_port;
	__u32 pad;
	__u64 netns_cookie;
};

struct conn {
	__u64 number;
	__u64 cookie;
	__u64 opened_boot_ns;
	__u8 leg;
	__u8 pad[7];
};

// Lets `curfew kill --local` choose sessions with no daemon to ask.
struct label {
	__u8 session_id[16];
	__u8 subject[128]; // NUL-terminated, cut if longer
};

enum verdict {
	VERDICT_ALIVE,
	VERDICT_NO_SESSION,	 // the entry is gone: fail closed
	VERDICT_SESSION_OVER,	 // past the session's deadline
	VERDICT_CONNECTION_OVER, // past the connection's own
};

// What the iterators write for a socket.
struct record {
	__u64 cookie;
	__u64 number;
	__u8 local_addr[16];
	__u8 remote_addr[16];
	__u16 local_port;
	__u16 remote_port;
	__u8 leg;
	__u8 state; // TCP_ESTABLISHED, ...
	__u8 verdict;
	__u8 armed;
	__s32 result; // of bpf_sock_destroy: 0 or -errno; 1 if it was not called
	__u32 pad;
};

// Index into gate_stats: one for each way a packet takes but the common one (alive: passes).
enum gate_stat {
	GATE_NO_SOCKET,	      // passed: a packet of no full socket (SYN cookies, TIME_WAIT)
	GATE_UNTAGGED,	      // passed: not a relayed connection (yet)
	GATE_RESET,	      // passed: a bare RST after the end, so that peers learn of it
	GATE_NO_SESSION,      // dropped
	GATE_SESSION_OVER,    // dropped
	GATE_CONNECTION_OVER, // dropped
	GATE_UNPARSED,	      // dropped after the end: not readable as a TCP segment
	GATE_STATS,
};
