// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// The iterators and netlink see only the network namespace of the thread that opens them.

const ownNamespace = "/proc/thread-self/ns/net"

// namespaces lists the network namespaces in which the instance may have sockets, each once: the
// caller's own and those of the processes in its cgroup.
func (p *Pinned) namespaces() ([]string, error) {
	paths := []string{ownNamespace}
	dir, err := p.cgroupDir()
	if err != nil {
		return nil, err
	}
	if dir != "" {
		pids, err := cgroupPids(dir)
		if err != nil {
			return nil, err
		}
		for _, pid := range pids {
			paths = append(paths, filepath.Join("/proc", strconv.Itoa(pid), "ns/net"))
		}
	}
	return distinctFiles(paths), nil
}

// distinctFiles drops paths of the same inode, and of processes that have exited.
func distinctFiles(paths []string) []string {
	var out []string
	seen := map[[2]uint64]bool{}
	for _, path := range paths {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			continue
		}
		if id := [2]uint64{st.Dev, st.Ino}; !seen[id] {
			seen[id] = true
			out = append(out, path)
		}
	}
	return out
}

// cgroupDir finds the directory of the gated cgroup by its ID, or "" if it is gone.
func (p *Pinned) cgroupDir() (string, error) {
	if p.cgroupID == 0 {
		return "", nil
	}
	root, err := CgroupRoot()
	if err != nil {
		return "", err
	}
	found := ""
	err = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return nil // a cgroup that vanished during the walk is not ours
		}
		if id, err := CgroupID(path); err == nil && id == p.cgroupID {
			found = path
			return fs.SkipAll
		}
		return nil
	})
	return found, err
}

// killProcesses kills what is left running of the instance.
func (p *Pinned) killProcesses() error {
	dir, err := p.cgroupDir()
	if err != nil || dir == "" {
		return err
	}
	return KillCgroup(dir)
}

// inNamespace runs fn on a thread that is in the network namespace at path. Needs CAP_SYS_ADMIN
// if that is not the caller's own.
func inNamespace(path string, fn func() error) error {
	if path == ownNamespace {
		return fn()
	}
	ns, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil // its process has exited
	}
	if err != nil {
		return fmt.Errorf("open network namespace: %w", err)
	}
	defer func() { _ = ns.Close() }() // read only
	done := make(chan error)
	go func() {
		// Never unlocked: the thread ends with this goroutine, so that nobody else runs on it.
		runtime.LockOSThread()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		done <- fn()
	}()
	return <-done
}
