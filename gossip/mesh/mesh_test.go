// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"
)

func pair(t *testing.T) (a, b *node, ca *authority) {
	ca = newAuthority(t)
	return start(t, ca.member(t, "a", time.Hour)), start(t, ca.member(t, "b", time.Hour)), ca
}

func TestPacketsBothWays(t *testing.T) {
	a, b, _ := pair(t)
	for _, size := range []int{1, 1100, 1300, 5000, MaxPacket} {
		data := strings.Repeat("x", size-1) + "!"
		if got := exchange(t, a, b, data); got.From != a.at() || got.Kind != KindApplication || got.At.IsZero() {
			t.Errorf("%d bytes came as %v kind %d at %v", size, got.From, got.Kind, got.At)
		}
		exchange(t, b, a, data)
	}
	if err := a.Send(b.at(), 1, make([]byte, MaxPacket+1)); !errors.Is(err, ErrSize) {
		t.Errorf("oversize: %v", err)
	}
	if err := a.Send(Peer{Addr: "127.0.0.1:1"}, 1, []byte("x")); !errors.Is(err, ErrName) {
		t.Errorf("nobody: %v", err)
	}
	if err := a.Send(Peer{Addr: b.LocalAddr().String()}, 1, []byte("x")); err != nil {
		t.Errorf("by address alone: %v", err)
	}
	if err := a.Send(a.at(), 1, []byte("x")); !errors.Is(err, ErrSelf) {
		t.Errorf("to itself: %v", err)
	}
	if s := a.Stats(); len(s) != 1 || s[0].Name != "b" || s[0].Sent == 0 || s[0].RTT <= 0 {
		t.Errorf("stats: %+v", s)
	}
}

func TestStream(t *testing.T) {
	a, b, _ := pair(t)
	for _, to := range []Peer{{Addr: b.LocalAddr().String()}, b.at()} { // the first peer has no name yet
		conn, err := a.Dial(t.Context(), to, 7)
		if err != nil {
			t.Fatal(err)
		}
		s := <-b.Streams()
		if s.From != "a" || s.Kind != 7 {
			t.Errorf("stream of %q, kind %d", s.From, s.Kind)
		}
		echo(t, conn, s.Conn)
	}
	if _, err := a.Dial(t.Context(), Peer{Addr: a.LocalAddr().String()}, 7); !errors.Is(err, ErrSelf) {
		t.Errorf("dial itself by address: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if _, err := a.Dial(ctx, Peer{Name: "c", Addr: b.LocalAddr().String()}, 7); err == nil || a.of(EventNameRefused) == 0 {
		t.Errorf("b answered for c: %v", err)
	}
}

func echo(t *testing.T, near, far net.Conn) {
	t.Helper()
	go func() {
		_, _ = io.Copy(far, far) // the reader sees what is missing
		_ = far.Close()
	}()
	sent := bytes.Repeat([]byte("0123456789abcdef"), 40_000)
	go func() {
		_, _ = near.Write(sent) // as above
		_ = near.(interface{ CloseWrite() error }).CloseWrite()
	}()
	got, err := io.ReadAll(near)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("echo of %d bytes: %d, %v", len(sent), len(got), err)
	}
	_ = near.Close()
}

// Without a persistent reset key a peer that was restarted is unreachable for the idle timeout of 10 s.
func TestRestartedPeerIsUsableAtOnce(t *testing.T) {
	ca := newAuthority(t)
	trust := ca.member(t, "b", time.Hour)
	a, b := start(t, ca.member(t, "a", time.Hour)), start(t, trust)
	exchange(t, a, b, "before")
	addr := b.LocalAddr()
	crash(t, b)
	again := start(t, trust, at(addr))
	begin := time.Now()
	exchange(t, a, again, "after")
	t.Logf("usable %v after the restart", time.Since(begin))
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("usable only after %v", took)
	}
}

// crash ends a node without a word to its peers.
func crash(t *testing.T, n *node) {
	t.Helper()
	_ = n.socket.Close() // the mesh says what it could not do
	_ = n.Mesh.Close()
}

func TestOtherClusterIsRefused(t *testing.T) {
	a, b, _ := pair(t)
	stranger := start(t, newAuthority(t).member(t, "a", time.Hour))
	exchange(t, a, b, "friend")
	for range 5 {
		if err := stranger.Send(b.at(), 1, []byte("foe")); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "refusal", func() bool { return stranger.of(EventDialFailed) > 0 })
	if stranger.Up("b") {
		t.Error("a stranger has a link")
	}
	// A stranger who does not care whom he talks to is refused by the other end.
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	mute := start(t, &member{authority: newAuthority(t), own: stranger.mustOwn()})
	_, err := mute.transport.Dial(ctx, net.UDPAddrFromAddrPort(b.LocalAddr()), insecure(mute), mute.quicConfig())
	t.Logf("the dial of one who trusts everybody: %v", err)
	eventually(t, "refusal at b", func() bool { return b.of(EventPeerRefused) > 0 })
	if !a.Up("b") {
		t.Error("the member's link suffered")
	}
}

func TestDeniedWhileUp(t *testing.T) {
	a, b, ca := pair(t)
	exchange(t, a, b, "welcome")
	conn, err := a.Dial(t.Context(), b.at(), 2)
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	ca.deny("b")
	if _, err := io.ReadAll(conn); err == nil {
		t.Error("the stream ended as if all was well")
	}
	eventually(t, "a has no link", func() bool { return !a.Up("b") && !b.Up("a") })
	t.Logf("out after %v", time.Since(begin))
	if err := b.Send(a.at(), 1, []byte("let me in")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "refusal", func() bool { return b.of(EventDialFailed) > 0 })
	if a.Up("b") || a.of(EventLinkSwept) == 0 {
		t.Error("denied, and up again")
	}
}

// Live links outlive a certificate unless something ends them.
func TestLinkEndsWithCertificate(t *testing.T) {
	ca := newAuthority(t)
	a, b := start(t, ca.member(t, "a", time.Hour)), start(t, ca.member(t, "b", 2500*time.Millisecond))
	exchange(t, a, b, "young")
	eventually(t, "expiry", func() bool { return !a.Up("b") && a.of(EventLinkSwept) > 0 })
	if err := a.Send(b.at(), 1, []byte("old")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "refusal", func() bool { return a.of(EventDialFailed) > 0 })
}

func TestRenewalLosesNothing(t *testing.T) {
	ca := newAuthority(t)
	ta, tb := ca.member(t, "a", time.Hour), ca.member(t, "b", time.Hour)
	a, b := start(t, ta), start(t, tb)
	connect(t, a, b)
	go serveEcho(b)
	first := a.peers["b"].live()
	sent, lost := 0, 0
	for i := range 150 {
		switch i {
		case 30:
			ta.renew(t, "a", time.Hour)
		case 60:
			tb.renew(t, "b", time.Hour)
		case 90:
			ta.renew(t, "a", time.Hour)
			tb.renew(t, "b", time.Hour)
		}
		sent++
		if err := roundTrip(a, b.at()); err != nil {
			lost++
			t.Logf("request %d: %v", i, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	eventually(t, "a link with the newest certificates of both", func() bool {
		l := a.peers["b"].live()
		return l != nil && l != first && l.own == ta.mustLeaf() && l.chain[0].Equal(tb.mustLeaf())
	})
	t.Logf("%d requests over three renewals, %d lost", sent, lost)
	if lost > 0 {
		t.Errorf("%d of %d lost", lost, sent)
	}
}

func serveEcho(n *node) {
	for s := range n.Streams() {
		go func() {
			_, _ = io.Copy(s.Conn, s.Conn) // the other end sees what is missing
			_ = s.Conn.Close()
		}()
	}
}

func roundTrip(from *node, to Peer) error {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	conn, err := from.Dial(ctx, to, KindApplication)
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline) // fails on a closed stream only
	const question = "0123456789"
	if _, err := conn.Write([]byte(question)); err != nil {
		return err
	}
	_ = conn.(*streamConn).CloseWrite() // the answer says if it came
	got, err := io.ReadAll(conn)
	if err == nil && string(got) != question {
		err = fmt.Errorf("answer %q", got)
	}
	return err
}

func TestSimultaneousDialsLeaveOneLink(t *testing.T) {
	for round := range 5 {
		a, b, _ := pair(t)
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = a.Send(b.at(), 1, []byte("from a")) // what follows says if it came
		}()
		_ = b.Send(a.at(), 1, []byte("from b")) // as above
		<-done
		eventually(t, "one link at both ends", func() bool {
			a.Mesh.mu.Lock()
			b.Mesh.mu.Lock()
			defer a.Mesh.mu.Unlock()
			defer b.Mesh.mu.Unlock()
			return len(a.links) == 1 && len(b.links) == 1 && a.peers["b"].live() != nil && b.peers["a"].live() != nil &&
				a.peers["b"].live().dialled != b.peers["a"].live().dialled
		})
		t.Logf("round %d: dialled by the smaller name: %v", round, a.peers["b"].live().dialled)
		exchange(t, a, b, "a to b")
		exchange(t, b, a, "b to a")
		a.stop()
		b.stop()
	}
}

// Whoever gossips a wrong address of a peer must not take its link away; a right one is taken.
func TestMovedPeer(t *testing.T) {
	ca := newAuthority(t)
	trust := ca.member(t, "b", time.Hour)
	a, b, c := start(t, ca.member(t, "a", time.Hour)), start(t, trust), start(t, ca.member(t, "c", time.Hour))
	exchange(t, a, b, "here")
	if err := a.Send(Peer{Name: "b", Addr: c.LocalAddr().String()}, 1, []byte("to b, wherever")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "c is found not to be b", func() bool { return a.of(EventNameRefused) > 0 })
	if got := <-b.Packets(); string(got.Data) != "to b, wherever" && string(got.Data) != "here" {
		t.Errorf("b got %q", got.Data)
	}
	if !a.Up("b") {
		t.Error("b's link is gone")
	}
	moved := start(t, trust)
	exchange(t, a, moved, "there")
}

func TestCloseLeavesNothingBehind(t *testing.T) {
	runtime.GC()
	before := runtime.NumGoroutine()
	a, b, _ := pair(t)
	exchange(t, a, b, "x")
	conn, err := a.Dial(t.Context(), b.at(), 2)
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		_ = a.Send(Peer{Name: "nobody", Addr: "127.0.0.1:9"}, 1, []byte("x")) // never goes
	}
	a.stop()
	b.stop()
	if _, err := conn.Write([]byte("x")); err == nil {
		t.Error("a stream outlived its mesh")
	}
	if err := a.Send(b.at(), 1, []byte("x")); !errors.Is(err, ErrClosed) {
		t.Errorf("send on a closed mesh: %v", err)
	}
	for range a.Packets() {
	}
	eventually(t, "goroutines are gone", func() bool { return runtime.NumGoroutine() <= before })
	socket, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(a.LocalAddr().String())))
	if err != nil {
		t.Fatalf("the socket is still bound: %v", err)
	}
	_ = socket.Close()
}
