// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
	"golang.org/x/sys/unix"
)

// stall fills the way from the upstream to a client that does not read, and returns when it is full.
func stall(t *testing.T, r *rig) *session.Connection {
	t.Helper()
	var conn *session.Connection
	last := uint64(0)
	eventually(t, "the flow stalls", func() bool {
		time.Sleep(20 * time.Millisecond)
		_, relayed, _ := r.events()
		if len(relayed) == 0 {
			return false
		}
		conn = relayed[0].Connection
		n := conn.Activity.BytesFromUpstream.Load()
		stopped := n > 0 && n == last
		last = n
		return stopped
	})
	return conn
}

// endless sends until it fails, and reports why.
func endless(failed chan<- error) func(halfCloser) {
	return func(c halfCloser) {
		for {
			if _, err := c.Write(make([]byte, 1<<16)); err != nil {
				failed <- err
				return
			}
		}
	}
}

// TestStalledAbort: a flow with nothing to wait for can still be ended from outside.
func TestStalledAbort(t *testing.T) {
	eachWay(t, func(t *testing.T, w way) {
		failed := make(chan error, 1)
		r := w.rig(t, endless(failed))
		c := w.open(r)
		stall(t, r).Abort()
		if err := <-failed; !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
			t.Errorf("the upstream sees %v", err)
		}
		r.wantRelease(1, session.ReasonDestroyed)
		c.Close()
	})
}

// TestStalledDestroy: nor does the kernel's destroying go unnoticed, on either leg.
func TestStalledDestroy(t *testing.T) {
	for _, end := range []string{"client", "upstream"} {
		t.Run(end, func(t *testing.T) {
			eachWay(t, func(t *testing.T, w way) {
				if w.name == "plain-plain" && end == "upstream" || w.max == tls.VersionTLS12 || w.upMax == tls.VersionTLS12 {
					return // goroutines notice the source's end only when they can go on
				}
				failed := make(chan error, 1)
				r := w.rig(t, endless(failed))
				c := w.open(r)
				stall(t, r)
				victim := r.proxy.live.snapshot()[0].client
				if end == "upstream" {
					victim = r.proxy.live.snapshot()[0].upstream
				}
				destroy(t, victim)
				<-failed
				r.wantRelease(1, session.ReasonDestroyed)
				c.Close()
			})
		})
	}
}

// TestDataAndReset: data that comes with a reset behind it must not leave a flow waiting for ever.
func TestDataAndReset(t *testing.T) {
	noLeaks(t)
	w := ways[0]
	r := w.rig(t, func(c halfCloser) {
		_, _ = io.ReadFull(c, make([]byte, 1))
		_, _ = c.Write([]byte("last"))
		_ = c.(*net.TCPConn).SetLinger(0)
	})
	for i := range 200 {
		c := w.open(r)
		_, _ = c.Write([]byte("x"))
		_, _ = io.Copy(io.Discard, c)
		c.Close()
		r.wantRelease(i+1, session.ReasonUpstreamClosed)
	}
}

// TestDataAndEnd: the same with an orderly end, of which nothing may be lost.
func TestDataAndEnd(t *testing.T) {
	noLeaks(t)
	w := ways[0]
	r := w.rig(t, func(c halfCloser) {
		_, _ = io.ReadFull(c, make([]byte, 1))
		_, _ = c.Write([]byte("last"))
	})
	for i := range 200 {
		c := w.open(r)
		_, _ = c.Write([]byte("x"))
		if b, err := io.ReadAll(c); err != nil || string(b) != "last" {
			t.Fatalf("connection %d: %q, %v", i, b, err)
		}
		c.Close()
	}
}

// TestStalledHalfClosed: a socket that is shut down both ways reports a hangup for as long as the
// other stalls; the loop must not spin on it.
func TestStalledHalfClosed(t *testing.T) {
	const piece = 64 << 10
	w := ways[0]
	more := make(chan struct{})
	r := w.rig(t, func(c halfCloser) {
		_, _ = io.Copy(io.Discard, c)
		for range more {
			_, _ = c.Write(make([]byte, piece))
		}
	})
	c := w.open(r)
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	// Piece by piece, so that the last ones and the end behind them fit the proxy's socket.
	size, moved := int64(0), true
	for moved {
		more <- struct{}{}
		size += piece
		_, relayed, _ := r.events()
		a := &relayed[0].Connection.Activity
		for deadline := time.Now().Add(200 * time.Millisecond); ; time.Sleep(100 * time.Microsecond) {
			if moved = a.BytesFromUpstream.Load() == uint64(size); moved || time.Now().After(deadline) {
				break
			}
		}
	}
	close(more)
	r.wantHangup(t)
	before := processorTime(t)
	time.Sleep(300 * time.Millisecond)
	if spent := processorTime(t) - before; spent > 150*time.Millisecond {
		t.Errorf("%v of processor time in 300 ms of a stall", spent)
	}
	if n, err := io.Copy(io.Discard, c); n != size || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	r.wantRelease(1, session.ReasonClientClosed)
}

// wantHangup waits until the kernel says that the upstream's socket is shut down both ways.
func (r *rig) wantHangup(t *testing.T) {
	t.Helper()
	fds := []unix.PollFd{{Fd: int32(r.proxy.live.snapshot()[0].flow.ends[upstreamEnd].fd)}}
	eventually(t, "a hangup", func() bool {
		_, err := unix.Poll(fds, 0)
		return err == nil && fds[0].Revents&unix.POLLHUP != 0
	})
}

func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

// TestFallback: a flow that gets no descriptor leaves the relay to goroutines.
func TestFallback(t *testing.T) {
	noLeaks(t)
	p := newLegPair(t, tls.TLS_AES_128_GCM_SHA256, false)
	p.leg.sock.tcp.Close()
	c := &conn{client: p.leg.sock.tcp, upstream: p.leg.sock.tcp}
	f := &flow{relay: &relay{conn: c, clientLeg: p.leg, upstreamLeg: p.leg}}
	if err := c.detach(f); !errors.Is(err, net.ErrClosed) || c.flow != nil {
		t.Fatalf("detach: %v", err)
	}
}
