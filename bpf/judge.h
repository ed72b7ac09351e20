// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
// The one decision that gate and sweep share: is this socket's time over?
#pragma once

#include "maps.h"

// Sets *session unless the verdict is VERDICT_NO_SESSION, and *left_ns (the time to go, for
// VERDICT_ALIVE). The tag's number must not be 0.
static __always_inline enum verdict judge(const struct tag *tag, __u64 now,
					  struct session **session, __u64 *left_ns)
{
	__u64 number = tag->number;
	__u64 deadline, own = tag->deadline_boot_ns;

	*session = bpf_map_lookup_elem(&sessions, &number);
	if (!*session)
		return VERDICT_NO_SESSION;
	deadline = (*session)->deadline_boot_ns;
	if (now >= deadline)
		return VERDICT_SESSION_OVER;
	if (own && now >= own)
		return VERDICT_CONNECTION_OVER;
	if (own && own < deadline)
		deadline = own;
	*left_ns = deadline - now;
	return VERDICT_ALIVE;
}
