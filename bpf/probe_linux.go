// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/curfew-proxy/curfew/agent/session"
)

// ProbeItem is one thing that a host offers or not.
type ProbeItem struct {
	Name   string
	OK     bool
	Detail string
	Hint   string // what to do, if not OK
}

// Layers is what a host offers: each of the four layers of enforcement, and what they stand on.
type Layers struct {
	Kernel ProbeItem // type information (BTF), release
	Pins   ProbeItem // bpffs, for break-glass

	Destroy ProbeItem // layer 1: SOCK_DESTROY
	Sweep   ProbeItem // layer 2: iterator
	Gate    ProbeItem // layer 3: without it the agent refuses to start
	Stack   ProbeItem // layer 4: the stack's own timers
}

// Items lists all in the order in which people read them.
func (l *Layers) Items() []ProbeItem {
	return []ProbeItem{l.Kernel, l.Pins, l.Destroy, l.Sweep, l.Gate, l.Stack}
}

// Probe finds out what this host offers by trying it on connections of its own over loopback. It
// needs Capabilities. For that time it moves this process into a cgroup of its own, so call it from
// a command, not from an agent. Not safe for concurrent use.
func Probe() *Layers {
	l := &Layers{
		Kernel:  ProbeItem{Name: "kernel"},
		Pins:    ProbeItem{Name: "bpffs"},
		Destroy: ProbeItem{Name: "destroy"},
		Sweep:   ProbeItem{Name: "sweep"},
		Gate:    ProbeItem{Name: "gate"},
		Stack:   ProbeItem{Name: "stack"},
	}
	l.Kernel.set(probeKernel())
	l.Pins.set(findBPFFS())
	if !l.Pins.OK {
		l.Pins.Hint = "mount -t bpf bpf " + bpffsPath + " (the agent does it itself if it may)"
	}
	l.Destroy.set(probeDestroy())
	if !l.Destroy.OK {
		l.Destroy.Hint = "needs CAP_NET_ADMIN, CONFIG_INET_DIAG_DESTROY and, as a module, tcp_diag"
	}
	if err := l.probeObjects(); err != nil {
		for _, item := range []*ProbeItem{&l.Sweep, &l.Gate, &l.Stack} {
			if !item.OK && item.Detail == "" {
				item.set("", err)
				item.Hint = "needs Linux 5.19 with BTF and cgroup2, and CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN"
			}
		}
	}
	return l
}

func (i *ProbeItem) set(detail string, err error) {
	i.OK, i.Detail = err == nil, detail
	if err != nil {
		i.Detail = err.Error()
	}
}

func probeKernel() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", os.NewSyscallError("uname", err)
	}
	release := unix.ByteSliceToString(u.Release[:])
	if !kernelHasBTF() {
		return "", fmt.Errorf("%s has no /sys/kernel/btf/vmlinux", release)
	}
	return release, nil
}

func probeDestroy() (string, error) {
	near, far, err := loopbackPair()
	if err != nil {
		return "", err
	}
	defer abortAll(near, far)
	netns, err := ownNetnsCookie()
	if err != nil {
		return "", err
	}
	var s session.Socket
	if err := control(near, func(fd int) (err error) { s, err = identify(fd, netns); return err }); err != nil {
		return "", err
	}
	d, err := NewDestroyer()
	if err != nil {
		return "", err
	}
	defer func() { _ = d.Close() }() // a netlink socket
	out := make([]Outcome, 1)
	if err := d.Destroy([]session.Socket{s}, out); err != nil {
		return "", err
	}
	_ = far.SetReadDeadline(time.Now().Add(time.Second)) // of a live socket, or the read says so
	if _, err := far.Read(make([]byte, 1)); out[0] != Destroyed || !errors.Is(err, unix.ECONNRESET) {
		return "", fmt.Errorf("socket %v, far end %w", out[0], err)
	}
	return "SOCK_DESTROY", nil
}

// probeObjects tries layers 2 to 4. The error is about all that have no result.
func (l *Layers) probeObjects() error {
	instance := "probe-" + strconv.Itoa(os.Getpid())
	o, err := Load(Config{Instance: instance, Unpinned: true, Sessions: 8, Conns: 8})
	if err != nil {
		return err
	}
	defer func() { _ = o.Close() }() // unpinned: all ends with it
	files, err := o.Maps()
	if err != nil {
		return err
	}
	t, err := NewTagger(files)
	for _, f := range files {
		_ = f.Close() // the tagger has its own
	}
	if err != nil {
		return err
	}
	defer func() { _ = t.Close() }() // descriptors
	return inCgroup(instance, func(dir string) error {
		if err := o.AttachGate(dir); err != nil {
			return err
		}
		l.Gate.set("cgroup_skb", t.SelfTest(1))
		l.Stack.set(probeStack(o, t))
		l.Sweep.set(probeSweep(o, t))
		return nil
	})
}

func probeSweep(o *Objects, t *Tagger) (string, error) {
	near, far, err := loopbackPair()
	if err != nil {
		return "", err
	}
	defer abortAll(near, far)
	if err := t.Open(2, Now().Add(time.Minute), Label{}); err != nil {
		return "", err
	}
	sock, tagErr := t.Tag(near, 2, session.ClientLeg, 0)
	if _, err := t.End(2); errors.Join(tagErr, err) != nil {
		return "", errors.Join(tagErr, err)
	}
	done, err := o.Sweep()
	if err != nil {
		return "", err
	}
	if len(done) != 1 || done[0].Socket != sock || done[0].Outcome != Destroyed {
		return "", fmt.Errorf("the sweep did %v", done)
	}
	if can, why := o.CanDestroy(); !can {
		return fmt.Sprintf("iterator lists, SOCK_DESTROY destroys (no bpf_sock_destroy: %v)", why), nil
	}
	return "iterator with bpf_sock_destroy", nil
}

func probeStack(o *Objects, t *Tagger) (string, error) {
	near, far, err := loopbackPair()
	if err != nil {
		return "", err
	}
	defer abortAll(near, far)
	if err := t.Open(3, Now().Add(time.Second), Label{}); err != nil {
		return "", err
	}
	defer func() { _, _ = t.End(3) }() // the maps end with the probe
	if _, err := t.Tag(near, 3, session.ClientLeg, 0); err != nil {
		return "", err
	}
	if _, err := o.List(); err != nil {
		return "", err
	}
	var ms int
	err = control(near, func(fd int) (err error) {
		ms, err = unix.GetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)
		return err
	})
	if err == nil && ms == 0 {
		err = errors.New("the iterator cannot set socket options")
	}
	return fmt.Sprintf("keepalive and a user timeout of %d ms shortly before the end", ms), err
}

// inCgroup runs fn with this process in a new cgroup below its own.
func inCgroup(instance string, fn func(dir string) error) (err error) {
	dir, err := CreateCgroup(instance)
	if err != nil {
		return err
	}
	pid := []byte(strconv.Itoa(os.Getpid()))
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), pid, 0); err != nil {
		return errors.Join(hint("enter cgroup", err), RemoveCgroup(dir))
	}
	defer func() {
		back := os.WriteFile(filepath.Join(filepath.Dir(dir), "cgroup.procs"), pid, 0)
		err = errors.Join(err, back, RemoveCgroup(dir))
	}()
	return fn(dir)
}
