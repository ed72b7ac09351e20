// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// CgroupRoot finds where cgroup2 is mounted: /sys/fs/cgroup, /sys/fs/cgroup/unified on hybrid
// hosts, or, where `ip netns exec` hides it, where process 1 sees it. Where that may not be looked
// at it is mounted for this process alone, attached nowhere (fsmount(2), kernel 5.2): all mounts
// of cgroup2 show the same hierarchy.
func CgroupRoot() (string, error) {
	for _, proc := range []struct{ mounts, root string }{
		{"/proc/self/mountinfo", ""},
		{"/proc/1/mountinfo", "/proc/1/root"},
	} {
		b, err := os.ReadFile(proc.mounts)
		if err != nil {
			continue
		}
		if dir := cgroup2Mount(string(b)); dir != "" && unix.Access(proc.root+dir, unix.X_OK) == nil {
			return proc.root + dir, nil
		}
	}
	fd, err := detachedCgroup2()
	if err != nil {
		return "", fmt.Errorf("no cgroup2 mount found, and none can be made: %w (hint: mount -t cgroup2 none /sys/fs/cgroup)", err)
	}
	return fmt.Sprintf("/proc/self/fd/%d", fd), nil
}

// detachedCgroup2 stays open for the life of the process.
var detachedCgroup2 = sync.OnceValues(func() (int, error) {
	fs, err := unix.Fsopen("cgroup2", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, os.NewSyscallError("fsopen", err)
	}
	defer func() { _ = unix.Close(fs) }() // the mount does not need it
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, os.NewSyscallError("fsconfig", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	return fd, os.NewSyscallError("fsmount", err)
})

// cgroup2Mount finds the mount point in the text of a mountinfo file (proc(5)).
func cgroup2Mount(mountinfo string) string {
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(line, " - ")
		fields := strings.Fields(before)
		if ok && len(fields) >= 5 && strings.HasPrefix(after, "cgroup2 ") {
			return unescapeOctal(fields[4])
		}
	}
	return ""
}

// unescapeOctal undoes the \040 of mountinfo.
func unescapeOctal(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// CreateCgroup makes the cgroup `curfew-<instance>` below the one this process is in, or takes
// it over if it is empty, and returns its directory.
func CreateCgroup(instance string) (string, error) {
	root, err := CgroupRoot()
	if err != nil {
		return "", err
	}
	own, err := ownCgroup()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, own, "curfew-"+instance)
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return "", hint("make cgroup", err)
	}
	pids, err := cgroupPids(dir)
	if err != nil {
		return "", err
	}
	if len(pids) != 0 {
		return "", fmt.Errorf("cgroup %s: processes are left in it: %v", dir, pids)
	}
	return dir, nil
}

// ownCgroup is the path of this process's cgroup below the cgroup2 mount.
func ownCgroup() (string, error) {
	f, err := os.Open("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("own cgroup: %w", err)
	}
	defer func() { _ = f.Close() }() // read only
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if path, ok := strings.CutPrefix(lines.Text(), "0::"); ok {
			return strings.TrimSuffix(path, " (deleted)"), nil
		}
	}
	return "", errors.New("own cgroup: no cgroup2 line in /proc/self/cgroup")
}

// CgroupID is the kernel's identifier of a cgroup: the inode number of its directory.
func CgroupID(dir string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return 0, fmt.Errorf("cgroup %s: %w", dir, err)
	}
	return st.Ino, nil
}

// cgroupPids lists the processes in a cgroup.
func cgroupPids(dir string) ([]int, error) {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return nil, fmt.Errorf("processes of cgroup: %w", err)
	}
	var pids []int
	for _, f := range strings.Fields(string(b)) {
		pid, err := strconv.Atoi(f)
		if err != nil {
			return nil, fmt.Errorf("processes of cgroup: %w", err)
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// KillCgroup kills every process in the cgroup dir and waits until they are gone, or for 5 s.
func KillCgroup(dir string) error {
	deadline := time.Now().Add(5 * time.Second)
	for {
		pids, err := cgroupPids(dir)
		if err != nil || len(pids) == 0 {
			return err
		}
		for _, pid := range pids {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("kill process %d: %w", pid, err)
			}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("cgroup %s: processes outlive SIGKILL: %v", dir, pids)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// RemoveCgroup removes an empty cgroup. Sockets that were made in it keep its programs alive
// until they are gone.
func RemoveCgroup(dir string) error {
	deadline := time.Now().Add(2 * time.Second)
	for {
		err := os.Remove(dir)
		if err == nil || errors.Is(err, os.ErrNotExist) {
			return nil
		}
		// A process that was waited for a moment ago may not have left yet.
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return fmt.Errorf("remove cgroup: %w", err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
