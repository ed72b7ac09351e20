// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bpf

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/curfew-proxy/curfew/agent/session"
)

func tryCreateMap() error {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err == nil {
		_ = m.Close() // it should not exist
	}
	return err
}

func TestGateShutsAtDeadline(t *testing.T) {
	for _, network := range []string{"tcp4", "tcp6", "tcp"} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			p, bystander := r.connect(network), r.connect(network)
			deadline := r.open(1, 500*time.Millisecond)
			r.tag(&p, 1, 0)
			if !r.passes(p) {
				t.Fatal("nothing passes before the deadline")
			}
			passed(deadline)
			if r.passes(p) {
				t.Error("payload passes after the deadline")
			}
			if !r.passes(bystander) {
				t.Error("an untagged socket is cut")
			}
			eventually(t, "drops in both directions are counted", func() bool {
				d := r.proxy.do(order{Do: "dropped", Number: 1}).Dropped
				return d.Packets >= 2 && d.Bytes >= 2*41
			})
			if s := r.proxy.do(order{Do: "stats"}).Stats; s.SessionOver < 2 || s.NoSession != 0 || s.Untagged == 0 {
				t.Errorf("counters: %+v", s)
			}
		})
	}
}

func TestGateShutsWithOwnerStopped(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.connect("tcp4")
	deadline := r.open(1, 500*time.Millisecond)
	r.tag(&p, 1, 0)
	r.proxy.do(order{Do: "pump", Conn: p.conn})
	if _, err := io.ReadFull(p.far, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	r.proxy.signal(unix.SIGSTOP)
	passed(deadline)
	// What came before the deadline may be read; the owner's full send buffer must stay behind.
	drain := make([]byte, 1<<20)
	eventually(t, "nothing arrives any more", func() bool {
		_ = p.far.SetReadDeadline(time.Now().Add(300 * time.Millisecond)) // a live socket
		_, err := p.far.Read(drain)
		return errors.Is(err, os.ErrDeadlineExceeded)
	})
	glass, err := OpenPinned(filepath.Base(r.objects.pins.path))
	if err != nil {
		t.Fatal(err)
	}
	defer glass.Close()
	dropped := func() uint64 {
		all, err := glass.Sessions()
		if err != nil || len(all) != 1 {
			t.Fatalf("sessions: %v, %v", all, err)
		}
		return all[0].Dropped.Packets
	}
	sent, before := bytesReceived(t, p.sock), dropped()
	if _, err := p.far.Write(make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the write and what is sent again are dropped", func() bool { return dropped() >= before+3 })
	if n := bytesReceived(t, p.sock); n != sent {
		t.Errorf("the stopped owner's socket received %d bytes after the deadline", n-sent)
	}
	r.proxy.signal(unix.SIGCONT)
}

func TestGateMissingEntryPassesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.connect("tcp4")
	r.open(1, time.Hour)
	r.tag(&p, 1, 0)
	if !r.passes(p) {
		t.Fatal("nothing passes before the end")
	}
	r.proxy.do(order{Do: "end", Number: 1})
	if r.passes(p) {
		t.Error("payload passes with the session's entry gone")
	}
	if s := r.proxy.do(order{Do: "stats"}).Stats; s.NoSession < 2 {
		t.Errorf("counters: %+v", s)
	}
}

func TestGateConnectionDeadlineIsStricter(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p, other := r.connect("tcp4"), r.connect("tcp4")
	r.open(1, time.Hour)
	own := Now().Add(400 * time.Millisecond)
	r.tag(&p, 1, own)
	r.tag(&other, 1, 0)
	if !r.passes(p) {
		t.Fatal("nothing passes before the connection's deadline")
	}
	passed(own)
	if r.passes(p) {
		t.Error("payload passes after the connection's own deadline")
	}
	if !r.passes(other) {
		t.Error("the session's other connection is cut")
	}
	if s := r.proxy.do(order{Do: "stats"}).Stats; s.ConnectionOver < 2 || s.SessionOver != 0 {
		t.Errorf("counters: %+v", s)
	}
}

func TestGateLetsResetPass(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.connect("tcp4")
	r.open(1, time.Hour)
	r.tag(&p, 1, 0)
	r.proxy.do(order{Do: "end", Number: 1})
	// A close with unread bytes sends a RST from the far end.
	if err := p.far.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	p.far.Close()
	eventually(t, "the proxy sees the reset", func() bool {
		return r.proxy.try(order{Do: "read", Conn: p.conn, Bytes: 1}).Kind == unix.ECONNRESET.Error()
	})
	if s := r.proxy.do(order{Do: "stats"}).Stats; s.Resets == 0 {
		t.Errorf("counters: %+v", s)
	}
}

func TestMoveKeepsAlive(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.connect("tcp4")
	first := r.open(1, 600*time.Millisecond)
	r.tag(&p, 1, 0)
	r.proxy.do(order{Do: "move", Number: 1, Deadline: first.Add(time.Hour)})
	passed(first)
	if !r.passes(p) {
		t.Error("a renewed lease is cut")
	}
	r.proxy.do(order{Do: "end", Number: 1})
	r.proxy.refused(ErrGone, order{Do: "move", Number: 1, Deadline: Now().Add(time.Hour)})
	if r.passes(p) {
		t.Error("a move brought an ended session back")
	}
}

// Keeps out: a proxy that was stopped over the end of a lease renews it when it wakes up.
func TestMoveAfterDeadlineIsRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	passed(r.open(1, 50*time.Millisecond))
	r.proxy.refused(ErrGone, order{Do: "move", Number: 1, Deadline: Now().Add(time.Hour)})
}

func TestTagRefuses(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.Sessions, c.Conns = 2, 1 })
	p := r.connect("tcp4")
	r.proxy.refused(ErrGone, order{Do: "tag", Conn: p.conn, Number: 7, Leg: session.ClientLeg})
	r.open(1, time.Hour)
	r.proxy.refused(os.ErrExist, order{Do: "open", Number: 1, Deadline: Now().Add(time.Hour)})
	r.open(2, time.Hour)
	r.proxy.refused(session.ErrTooMany, order{Do: "open", Number: 3, Deadline: Now().Add(time.Hour)})
	r.tag(&p, 1, 0)
	q := r.connect("tcp4")
	r.proxy.refused(session.ErrTooMany, order{Do: "tag", Conn: q.conn, Number: 1, Leg: session.ClientLeg})
	r.proxy.do(order{Do: "release", Conn: p.conn})
	r.tag(&q, 1, 0)
}

// Keeps out: Go's listeners are MPTCP by default, which the gate does not see.
func TestTagRefusesMPTCP(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.open(1, time.Hour)
	at := r.proxy.do(order{Do: "listen", Network: "tcp4", Addr: "127.0.0.1:0", MPTCP: true}).Addr
	p := r.accept(mustAddrPort(at))
	a := r.proxy.try(order{Do: "tag", Conn: p.conn, Number: 1, Leg: session.ClientLeg})
	if a.Kind != ErrNotGated.Error() {
		t.Fatalf("tag of an MPTCP socket: %q", a.Err)
	}
}

// Keeps out: a socket made before its process joined the cgroup is never gated.
func TestTagRefusesSocketFromOutsideCgroup(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	files, err := r.objects.Maps()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		defer f.Close()
	}
	tagger, err := NewTagger(files)
	if err != nil {
		t.Fatal(err)
	}
	defer tagger.Close()
	r.open(1, time.Hour)
	p := r.connect("tcp4")
	if _, err := tagger.Tag(p.far, 1, session.ClientLeg, 0); !errors.Is(err, ErrNotGated) {
		t.Fatalf("tag of a socket from outside the cgroup: %v", err)
	}
}

func TestProxyHasNoPrivilege(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.proxy.refused(unix.EPERM, order{Do: "newmap"})
}
