// SPDX-License-Identifier: Apache-2.0

//go:build linux

package enforcer

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// child is a running proxy process.
type child struct {
	cmd *exec.Cmd
	fd  int // the enforcer's end of the pair, blocking
}

// startChild starts the proxy inside the gated cgroup, as an unprivileged user whose only
// capability is to bind low ports, and that can gain no other.
//
// It has no parent-death signal: when the enforcer is killed, the proxy learns it by the end of
// the pair and stops in order, and if it is stopped itself, its gate is shut on time all the same.
// The next enforcer kills whatever is left in the cgroup.
func (s *Supervisor) startChild() (*child, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "pair")
	defer func() { _ = theirs.Close() }() // the child has its own
	cmd, err := s.start(theirs)
	if err != nil {
		_ = unix.Close(pair[0]) // nothing was sent
		return nil, fmt.Errorf("start proxy: %w", err)
	}
	s.resetOOMScore(cmd.Process.Pid)
	return &child{cmd: cmd, fd: pair[0]}, nil
}

// start starts the proxy with its end of the pair, and with the maps where there are any.
func (s *Supervisor) start(pair *os.File) (*exec.Cmd, error) {
	if s.cfg.Userspace {
		cmd := s.command([]*os.File{pair}, 0)
		return cmd, startWithoutNewPrivileges(cmd)
	}
	cgroup, err := os.Open(s.cgroup)
	if err != nil {
		return nil, fmt.Errorf("open cgroup: %w", err)
	}
	defer func() { _ = cgroup.Close() }() // read only
	maps, err := s.objects.Maps()
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, f := range maps {
			_ = f.Close() // the child has its own
		}
	}()
	cmd := s.command(append([]*os.File{pair}, maps...), len(maps))
	cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(cgroup.Fd())
	return cmd, startWithoutNewPrivileges(cmd)
}

func (s *Supervisor) command(files []*os.File, maps int) *exec.Cmd {
	names := make([]string, len(s.cfg.Files))
	for i, f := range s.cfg.Files {
		names[i] = f.Name
		files = append(files, f.File)
	}
	cmd := exec.Command(s.cfg.Path, s.cfg.Args...)
	cmd.Env = append(s.cfg.Env(), filesVar+"="+strings.Join(names, ","), mapsVar+"="+strconv.Itoa(maps))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.ExtraFiles = files
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential:  &syscall.Credential{Uid: s.cfg.UID, Gid: s.cfg.GID},
		AmbientCaps: []uintptr{unix.CAP_NET_BIND_SERVICE},
		Setpgid:     true, // a terminal's Ctrl-C is for the enforcer, which drains
	}
	return cmd
}

// startWithoutNewPrivileges starts cmd from a thread that has no_new_privs set, which the child
// inherits. The thread ends with its goroutine, so that no other one is affected.
func startWithoutNewPrivileges(cmd *exec.Cmd) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			done <- os.NewSyscallError("PR_SET_NO_NEW_PRIVS", err)
			return
		}
		done <- cmd.Start()
	}()
	return <-done
}

// oomScore makes the kernel prefer nearly every other process when memory runs out: without the
// enforcer, ends are enforced by the gate alone.
const oomScore = -900

func protectFromOOM() error { return setOOMScore("self", oomScore) }

// resetOOMScore takes the protection off the proxy, which inherits it.
func (s *Supervisor) resetOOMScore(pid int) {
	if err := setOOMScore(strconv.Itoa(pid), 0); err != nil {
		s.log.Warn("proxy keeps the enforcer's oom score", "error", err)
	}
}

func setOOMScore(who string, score int) error {
	return os.WriteFile("/proc/"+who+"/oom_score_adj", []byte(strconv.Itoa(score)), 0)
}
