// SPDX-License-Identifier: Apache-2.0

// Package enforcer is the privileged process: it owns the BPF objects and the gated cgroup,
// starts the proxy process inside that cgroup, kills what the proxy asks it to kill and what
// the kernel's maps say has ended, and restarts the proxy when it dies or hangs.
//
// It parses nothing but fixed-size messages from the proxy (message.go) and does not trust
// them: a socket that the proxy does not hold is not destroyed. It must not open network
// sockets, and must not import anything of ours but bpf and agent/session. Client is the
// other end of the pair and runs in the proxy process. Linux only.
package enforcer
