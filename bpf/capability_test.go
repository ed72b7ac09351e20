// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bpf

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/curfew-proxy/curfew/agent/session"
)

func init() { roles["capable"] = capableMain }

// capableMain loads, attaches, sweeps and destroys with Capabilities alone. Linux capabilities
// belong to threads: it drops the rest on one and stays on it.
func capableMain() error {
	runtime.LockOSThread()
	if err := keepOnly(Capabilities); err != nil {
		return err
	}
	instance, dir := os.Args[1], os.Args[2]
	o, err := Load(Config{Instance: instance})
	if err != nil {
		return err
	}
	defer func() { _ = o.Unpin() }() // the parent looks
	if err := o.AttachGate(dir); err != nil {
		return err
	}
	if _, err := o.Sweep(); err != nil {
		return err
	}
	p, err := OpenPinned(instance)
	if err != nil {
		return err
	}
	defer func() { _ = p.Close() }() // descriptors
	if _, err := p.EndAll(); err != nil {
		return err
	}
	d, err := NewDestroyer()
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }() // a netlink socket
	s := session.Socket{Cookie: 1, Tuple: session.Tuple{Local: mustAddrPort("127.0.0.1:1"), Remote: mustAddrPort("127.0.0.1:2")}}
	out := make([]Outcome, 1)
	if err := d.Destroy([]session.Socket{s}, out); err != nil || out[0] != Gone {
		return fmt.Errorf("destroy of nothing: %v, %w", out[0], err)
	}
	return nil
}

func keepOnly(caps []int) error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	for _, c := range caps {
		data[c/32].Permitted |= 1 << (c % 32)
		data[c/32].Effective |= 1 << (c % 32)
	}
	return unix.Capset(&hdr, &data[0])
}

func TestCapabilitiesSuffice(t *testing.T) {
	t.Parallel()
	instance := newInstance(t)
	dir, err := CreateCgroup(instance)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := RemoveCgroup(dir); err != nil {
			t.Error(err)
		}
	})
	if _, err := needBPFFS(); err != nil { // needs CAP_SYS_ADMIN if it is not mounted
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", instance, dir)
	cmd.Env = append(os.Environ(), roleVar+"=capable")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("with %v: %v: %s", Capabilities, err, out)
	}
}

// Each of them is needed: without it, loading fails and says what to do.
func TestEachCapabilityIsNeeded(t *testing.T) {
	t.Parallel()
	for i, c := range Capabilities {
		rest := append(append([]int{}, Capabilities[:i]...), Capabilities[i+1:]...)
		done := make(chan error)
		go func() {
			runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
			if err := keepOnly(rest); err != nil {
				done <- nil
				return
			}
			o, err := Load(Config{Instance: "never", Unpinned: true})
			if err == nil {
				_, err = NewDestroyer()
				_ = o.Close() // it should not exist
			}
			done <- err
		}()
		select {
		case err := <-done:
			if err == nil {
				t.Errorf("works without capability %d", c)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("no answer")
		}
	}
}
