// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bpf

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/curfew-proxy/curfew/agent/session"
)

// With all processes stopped: end one session of two by its subject, by the pins alone.
func TestBreakGlass(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.open(1, time.Hour)
	r.open(2, time.Hour)
	a, b := r.connect("tcp4"), r.connect("tcp6")
	r.tag(&a, 1, 0)
	r.tag(&b, 2, 0)
	r.proxy.signal(unix.SIGSTOP)

	p, err := OpenPinned(filepath.Base(r.objects.pins.path))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	all, err := p.Sessions()
	if err != nil || len(all) != 2 || all[0].Conns != 1 || all[1].Conns != 1 {
		t.Fatalf("sessions: %+v, %v", all, err)
	}
	report, err := p.End(func(s PinnedSession) bool { return s.Label.Subject == "user1" })
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Sessions) != 1 || report.Sessions[0].Label.Session != (session.ID{1}) {
		t.Errorf("ended %+v", report.Sessions)
	}
	if len(report.Destroyed) != 1 || report.Destroyed[0].Socket != a.sock || report.Destroyed[0].Outcome != Destroyed || len(report.Left) != 0 {
		t.Errorf("destroyed %+v, left %+v", report.Destroyed, report.Left)
	}
	if !reset(t, a) {
		t.Error("the far end was not reset")
	}
	// The proxy wakes up and tries to renew the lease.
	r.proxy.signal(unix.SIGCONT)
	r.proxy.refused(ErrGone, order{Do: "move", Number: 1, Deadline: Now().Add(time.Hour)})
	r.proxy.refused(ErrGone, order{Do: "end", Number: 1})
	var label curfewLabel
	if err := r.objects.maps.Labels.Lookup(uint64(1), &label); !errors.Is(err, ebpf.ErrKeyNotExist) {
		t.Errorf("label of the ended session: %v", err)
	}
	q := r.connect("tcp4")
	r.proxy.refused(ErrGone, order{Do: "tag", Conn: q.conn, Number: 1, Leg: session.ClientLeg})
	if !r.passes(b) {
		t.Error("the other session is cut")
	}
}

// Deadlines that pass between the sweep and the list after it must not look like sockets that cannot be
// destroyed.
func TestBreakGlassWhileDeadlinesPass(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	var last session.Instant
	for number := uint64(1); number <= 100; number++ {
		last = r.open(number, 1500*time.Millisecond+time.Duration(number)*time.Millisecond)
		p := r.connect("tcp4")
		r.tag(&p, number, 0)
	}
	glass, err := OpenPinned(filepath.Base(r.objects.pins.path))
	if err != nil {
		t.Fatal(err)
	}
	defer glass.Close()
	for Now() < last {
		if report, err := glass.End(func(PinnedSession) bool { return false }); err != nil {
			t.Fatalf("left %+v: %v", report.Left, err)
		}
	}
}

// Sockets in another network namespace are reached through the processes of the cgroup.
func TestBreakGlassEntersNamespace(t *testing.T) {
	t.Parallel()
	r, _ := newNamespaceRig(t)
	r.open(1, time.Hour)
	p := r.dialItself(1)
	r.proxy.signal(unix.SIGSTOP)
	glass, err := OpenPinned(filepath.Base(r.objects.pins.path))
	if err != nil {
		t.Fatal(err)
	}
	defer glass.Close()
	report, err := glass.End(func(PinnedSession) bool { return true })
	if err != nil || len(report.Destroyed) == 0 { // the second end may have seen the reset of the first
		t.Fatalf("destroyed %+v, %v; want the ends of %v", report.Destroyed, err, p)
	}
	r.proxy.signal(unix.SIGCONT)
	for conn := range 2 {
		if a := r.proxy.try(order{Do: "read", Conn: conn, Bytes: 1}); a.Kind != unix.ECONNABORTED.Error() && a.Kind != unix.ECONNRESET.Error() {
			t.Errorf("connection %d reads %q", conn, a.Err)
		}
	}
}

// newNamespaceRig is a rig whose proxy is in a network namespace of its own.
func newNamespaceRig(t testing.TB) (*rig, string) {
	t.Helper()
	name := newInstance(t)
	if out, err := exec.Command("sh", "-c", "ip netns add "+name+" && ip -n "+name+" link set lo up").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("ip", "netns", "del", name).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	r := newRig(t)
	r.proxy.kill()
	path := "/run/netns/" + name
	err := inNamespace(path, func() error { // children are born where their parent thread is
		r.proxy = startProxy(t, r.objects, r.cgroup)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return r, path
}

// dialItself makes a connection from the proxy to its own listener and tags both ends.
func (r *rig) dialItself(number uint64) [2]session.Socket {
	at := r.proxy.do(order{Do: "listen", Network: "tcp4", Addr: "127.0.0.1:0"}).Addr
	var socks [2]session.Socket
	for i, conn := range []int{
		r.proxy.do(order{Do: "dial", Network: "tcp4", Addr: at}).Conn,
		r.proxy.do(order{Do: "accept"}).Conn,
	} {
		leg := []session.Leg{session.UpstreamLeg, session.ClientLeg}[i]
		socks[i] = r.proxy.do(order{Do: "tag", Conn: conn, Number: number, Leg: leg}).Socket
	}
	return socks
}

func TestOpenPinnedRefusesForeignDirectory(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	dir := r.objects.pins.path
	defer func() {
		if err := errors.Join(os.Chown(dir, 0, 0), os.Chmod(dir, 0o700)); err != nil {
			t.Error(err)
		}
	}()
	for what, spoil := range map[string]func() error{
		"mode":  func() error { return os.Chmod(dir, 0o770) },
		"owner": func() error { return errors.Join(os.Chmod(dir, 0o700), os.Chown(dir, 65534, 65534)) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if p, err := OpenPinned(filepath.Base(dir)); err == nil {
			p.Close()
			t.Errorf("opened a directory of foreign %s", what)
		}
	}
	if _, err := OpenPinned("no-such-instance"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("unknown instance: %v", err)
	}
	if _, err := OpenPinned("../etc"); err == nil {
		t.Error("opened a path")
	}
}

// A second agent of one name is refused; after the first is killed, its pins still enforce, and a
// new start ends what it left.
func TestLoadRecoversFromKilledAgent(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	instance := filepath.Base(r.objects.pins.path)
	if _, err := Load(Config{Instance: instance}); !errors.Is(err, ErrRunning) {
		t.Fatalf("second agent: %v", err)
	}
	r.open(1, time.Hour)
	p := r.connect("tcp4")
	deadline := r.open(2, 300*time.Millisecond)
	q := r.connect("tcp4")
	r.tag(&p, 1, 0)
	r.tag(&q, 2, 0)
	if err := r.objects.Close(); err != nil { // what the kernel does when the agent is killed
		t.Fatal(err)
	}
	passed(deadline)
	if r.passes(q) || !r.passes(p) {
		t.Error("the pinned gate does not enforce")
	}
	var err error
	if r.objects, err = Load(Config{Instance: instance}); err != nil {
		t.Fatal(err)
	}
	for _, far := range []pair{p, q} {
		if !reset(t, far) {
			t.Error("a socket of the killed agent survives the new start")
		}
	}
	if err := r.proxy.cmd.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("the killed agent's proxy: %v", err)
	}
	if all, err := r.objects.List(); err != nil || len(all) != 0 {
		t.Errorf("list after the new start: %v, %v", all, err)
	}
	if err := r.objects.AttachGate(r.cgroup); err != nil {
		t.Error(err)
	}
}

// A session that takes over another's number is found by its own name, and its deadline counts.
func TestRelabelNamesTheNewSession(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.open(1, time.Hour)
	p := r.connect("tcp4")
	r.tag(&p, 1, 0)
	r.proxy.do(order{Do: "relabel", Number: 1, Bytes: 7})
	pinned, err := OpenPinned(filepath.Base(r.objects.pins.path))
	if err != nil {
		t.Fatal(err)
	}
	defer pinned.Close()
	sessions, err := pinned.Sessions()
	if err != nil || len(sessions) != 1 || sessions[0].Label != (Label{Session: session.ID{7}, Subject: "user7"}) {
		t.Errorf("%+v, %v", sessions, err)
	}
	if !r.passes(p) {
		t.Error("cut by a change of name")
	}
	r.proxy.do(order{Do: "end", Number: 1})
	r.proxy.refused(ErrGone, order{Do: "relabel", Number: 1, Bytes: 7})
	if r.passes(p) {
		t.Error("passes after the end")
	}
}
