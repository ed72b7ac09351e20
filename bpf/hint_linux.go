// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Errors of this package. Match them with errors.Is.
var (
	// ErrGone: the session's entry is gone or past its deadline; that is final.
	ErrGone = errors.New("the session has ended")
	// ErrNotGated: the gate does not see this socket: it was made outside the gated cgroup, in
	// another network namespace, or is not plain TCP (MPTCP).
	ErrNotGated = errors.New("the gate does not see this socket")
	// ErrRunning: an agent with this instance name is running.
	ErrRunning = errors.New("an agent with this instance name is running")
)

// Capabilities are what the enforcer needs to load, attach, sweep and destroy: to read its own
// pins and cgroup it must also own them (run as root). Starting the proxy process as another
// user needs CAP_SETUID, CAP_SETGID and CAP_KILL besides, mounting bpffs CAP_SYS_ADMIN.
var Capabilities = []int{unix.CAP_BPF, unix.CAP_PERFMON, unix.CAP_NET_ADMIN}

// hint wraps err with the operation and, where the cause is known, with what to do.
func hint(op string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPERM) || errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%s: %w (hint: run as root, or with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN)", op, err)
	case !kernelHasBTF():
		return fmt.Errorf("%s: %w (hint: /sys/kernel/btf/vmlinux is missing; use a kernel with CONFIG_DEBUG_INFO_BTF)", op, err)
	case errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Errorf("%s: %w (hint: use Linux 5.19 or newer)", op, err)
	}
	return fmt.Errorf("%s: %w", op, err)
}

func kernelHasBTF() bool {
	_, err := os.Stat("/sys/kernel/btf/vmlinux")
	return err == nil
}
