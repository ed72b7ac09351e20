// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bpf

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/curfew-proxy/curfew/agent/session"
)

// vanished reports whether the kernel has no such socket any more.
func vanished(t testing.TB, s session.Socket) bool {
	t.Helper()
	d, err := NewDestroyer()
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	out := make([]Outcome, 1)
	if err := d.Check(1, []session.Socket{s}, out); err != nil {
		t.Fatal(err)
	}
	return out[0] == Gone
}

// Layer 4: with nobody running, the stack itself aborts armed sockets, idle or with data in flight.
func TestArmedSocketsVanishWithNobodyRunning(t *testing.T) {
	for _, network := range []string{"tcp4", "tcp6"} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			idle, busy := r.connect(network), r.connect(network)
			deadline := r.open(1, time.Second)
			r.tag(&idle, 1, 0)
			r.tag(&busy, 1, 0)
			r.proxy.do(order{Do: "pump", Conn: busy.conn})
			go func() { _, _ = io.Copy(io.Discard, busy.far) }() // ends with the connection
			all, err := r.objects.List()
			if err != nil || len(all) != 2 || !all[0].Armed || !all[1].Armed {
				t.Fatalf("not armed: %+v, %v", all, err)
			}
			r.proxy.signal(unix.SIGSTOP) // and this enforcer sweeps no more
			passed(deadline)
			within(t, 5*time.Second, "both sockets vanish", func() bool {
				return vanished(t, idle.sock) && vanished(t, busy.sock)
			})
			r.proxy.signal(unix.SIGCONT)
		})
	}
}

func TestArmAndDisarm(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	p := r.connect("tcp4")
	near := r.open(1, 9*time.Second)
	r.tag(&p, 1, 0)
	timers := func() int { return r.proxy.do(order{Do: "timeout", Conn: p.conn}).Bytes }
	for _, step := range []struct {
		deadline session.Instant
		want     int
	}{{near, 2000}, {near.Add(time.Hour), 0}, {near, 2000}, {near.Add(time.Hour), 0}} {
		r.proxy.do(order{Do: "move", Number: 1, Deadline: step.deadline})
		if _, err := r.objects.Sweep(); err != nil {
			t.Fatal(err)
		}
		if got := timers(); got != step.want {
			t.Fatalf("user timeout %d ms with a deadline in %v, want %d", got, step.deadline.Sub(Now()), step.want)
		}
	}
}

// Why sockets are armed late: TCP_USER_TIMEOUT also ends a connection whose peer merely does not
// read for a while (psql | less).
func TestUserTimeoutEndsPausedReader(t *testing.T) {
	t.Parallel()
	for _, ms := range []int{2000, 0} {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		reader, err := net.Dial("tcp4", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer reader.Close()
		writer, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer writer.Close()
		err = control(writer.(*net.TCPConn), func(fd int) error {
			return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, ms)
		})
		if err != nil {
			t.Fatal(err)
		}
		// The reader pauses: its window closes, and the writer is stuck for 6 s.
		_ = writer.SetWriteDeadline(time.Now().Add(6 * time.Second)) // a live socket
		_, err = io.Copy(writer, zeros{})
		if paused := errors.Is(err, os.ErrDeadlineExceeded); paused != (ms == 0) {
			t.Errorf("user timeout %d ms: the writer ended with %v", ms, err)
		}
	}
}
