// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
)

// wire is a UDP relay between one dialler and one listener that keeps a copy of what it passes.
type wire struct {
	front  *net.UDPConn // the dialler sends here
	target *net.UDPAddr

	mu     sync.Mutex
	client *net.UDPAddr
	seen   [][]byte // from the dialler, in order
	answer [][]byte // from the listener
}

func newWire(t *testing.T, target netip.AddrPort) *wire {
	t.Helper()
	front, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{front: front, target: net.UDPAddrFromAddrPort(target)}
	done := make(chan struct{})
	go func() { defer close(done); w.run() }()
	t.Cleanup(func() { _ = front.Close(); <-done })
	return w
}

// run uses one socket for both directions: whoever is not the target is the dialler.
func (w *wire) run() {
	buffer := make([]byte, 65536)
	for {
		n, from, err := w.front.ReadFromUDP(buffer)
		if err != nil {
			return // closed
		}
		datagram := bytes.Clone(buffer[:n])
		w.mu.Lock()
		to := w.target
		if from.String() == w.target.String() {
			to = w.client
			w.answer = append(w.answer, datagram)
		} else {
			w.client = from
			w.seen = append(w.seen, datagram)
		}
		w.mu.Unlock()
		if to != nil {
			_, _ = w.front.WriteToUDP(datagram, to) // loss is allowed
		}
	}
}

func (w *wire) captured() [][]byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.seen)
}

// inject sends datagrams to a node, through the address that its peer is known by or from elsewhere.
func inject(t *testing.T, from *net.UDPConn, to netip.AddrPort, datagrams [][]byte) {
	t.Helper()
	for _, d := range datagrams {
		if _, err := from.WriteToUDPAddrPort(d, to); err != nil && !strings.Contains(err.Error(), "message too long") {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Microsecond) // the receive buffer of a node is not what is tested
	}
}

// over has a dial b through a wire and sends a few packets.
func over(t *testing.T, a, b *node) *wire {
	t.Helper()
	w := newWire(t, b.LocalAddr())
	to := Peer{Name: b.name, Addr: w.front.LocalAddr().String()}
	for _, data := range []string{"kill session 1", strings.Repeat("large", 3000)} {
		eventually(t, "packet over the wire", func() bool {
			if err := a.Send(to, 2, []byte(data)); err != nil {
				t.Fatal(err)
			}
			select {
			case p := <-b.Packets():
				return string(p.Data) == data
			case <-time.After(50 * time.Millisecond):
				return false
			}
		})
	}
	return w
}

// silent fails if anything arrives at a node until the probe does.
func silent(t *testing.T, n, from *node, to Peer) {
	t.Helper()
	eventually(t, "the probe", func() bool {
		if err := from.Send(to, 2, []byte("probe")); err != nil {
			t.Fatal(err)
		}
		for {
			select {
			case p := <-n.Packets():
				if string(p.Data) != "probe" {
					t.Fatalf("a datagram of the attacker arrived: %.40q", p.Data)
				}
				return true
			case s := <-n.Streams():
				t.Fatalf("a stream of the attacker arrived: %v", s)
			case <-time.After(50 * time.Millisecond):
				return false
			}
		}
	})
}

// drained takes what is left of retransmissions.
func drained(n *node) {
	for {
		select {
		case <-n.Packets():
		case <-time.After(100 * time.Millisecond):
			return
		}
	}
}

// memberlist's own encryption accepted a captured packet two hours later, and at another node.
func TestReplayedDatagrams(t *testing.T) {
	ca := newAuthority(t)
	a, b := start(t, ca.member(t, "a", time.Hour)), start(t, ca.member(t, "b", time.Hour))
	c := start(t, ca.member(t, "c", time.Hour))
	w := over(t, a, b)
	to := Peer{Name: "b", Addr: w.front.LocalAddr().String()}
	drained(b)
	captured := w.captured()
	if len(captured) < 5 {
		t.Fatalf("captured only %d datagrams", len(captured))
	}

	inject(t, w.front, b.LocalAddr(), captured)
	silent(t, b, a, to)
	eventually(t, "copies are counted", func() bool { return b.of(EventDatagramDuplicate) > 0 })

	elsewhere, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer elsewhere.Close()
	inject(t, elsewhere, b.LocalAddr(), captured)
	silent(t, b, a, to)
	inject(t, elsewhere, c.LocalAddr(), captured)
	silent(t, c, a, c.at())
	if !a.Up("b") || b.of(EventLinkDown) > 0 {
		t.Error("the link suffered")
	}
	if n := len(c.liveLinks()); n != 1 {
		t.Errorf("c has %d links, of which a's is one", n)
	}
	eventually(t, "the replayed handshake is given up", func() bool { return c.of(EventHandshakeFailed) > 0 })
	t.Logf("b counted %d copies, %d forged, %d stray; c counted %d forged, %d stray", b.of(EventDatagramDuplicate),
		b.of(EventDatagramForged), b.of(EventDatagramStray), c.of(EventDatagramForged), c.of(EventDatagramStray))
}

func TestDamagedDatagrams(t *testing.T) {
	a, b, _ := pair(t)
	w := over(t, a, b)
	to := Peer{Name: "b", Addr: w.front.LocalAddr().String()}
	drained(b)
	var damaged [][]byte
	for _, d := range w.captured() {
		flipped := bytes.Clone(d)
		flipped[len(d)-1-rand.IntN(min(len(d), 16))] ^= 1 << rand.IntN(8)
		damaged = append(damaged, flipped, d[:len(d)/2], d[:min(len(d), 9)], append(bytes.Clone(d), d...))
	}
	garbage := make([]byte, 1400)
	for i := range garbage {
		garbage[i] = byte(rand.Uint32())
	}
	damaged = append(damaged, garbage, garbage[:1], bytes.Repeat(garbage, 40))
	inject(t, w.front, b.LocalAddr(), damaged)
	silent(t, b, a, to)
	if b.of(EventDatagramForged) == 0 {
		t.Error("no forged datagram was counted")
	}
	if !a.Up("b") || b.of(EventLinkDown) > 0 {
		t.Error("the link suffered")
	}
}

func TestNoNameOnTheWire(t *testing.T) {
	ca := newAuthority(t)
	a, b := start(t, ca.member(t, "name-of-the-dialler", time.Hour)), start(t, ca.member(t, "name-of-the-listener", time.Hour))
	w := over(t, a, b)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, d := range append(slices.Clone(w.seen), w.answer...) {
		if bytes.Contains(d, []byte("name-of")) || bytes.Contains(d, []byte("kill session")) {
			t.Fatal("a name or a message can be read on the wire")
		}
	}
	if conf := a.clientTLS(a.mustOwn()); conf.ServerName != serverName {
		t.Errorf("server name %q", conf.ServerName)
	}
}

// An insider that does not keep to the protocol is refused and counted, and harms nobody else.
func TestInsiderBreaksProtocol(t *testing.T) {
	ca := newAuthority(t)
	b := start(t, ca.member(t, "b", time.Hour))
	evil := start(t, ca.member(t, "evil", time.Hour))
	say := func(first []byte) *quic.Conn {
		conn, err := evil.transport.Dial(t.Context(), net.UDPAddrFromAddrPort(b.LocalAddr()), evil.clientTLS(evil.mustOwn()), evil.quicConfig())
		if err != nil {
			t.Fatal(err)
		}
		stream, err := conn.OpenStream()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Write(first); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	for _, first := range [][]byte{hello{name: "other"}.encode(), make([]byte, 500), append([]byte{2}, hello{name: "evil"}.encode()[1:]...)} {
		before := b.of(EventHelloRefused)
		conn := say(first)
		eventually(t, "hello refused", func() bool { return b.of(EventHelloRefused) > before && conn.Context().Err() != nil })
	}
	say(hello{name: "evil"}.encode()[:5])
	eventually(t, "half a hello refused", func() bool { return b.of(EventHelloRefused) > 3 })
	if b.Up("evil") {
		t.Fatal("up without a hello")
	}

	conn := say(hello{name: "evil", boot: 9}.encode())
	eventually(t, "up", func() bool { return b.Up("evil") })
	for _, data := range [][]byte{nil, {1}, make([]byte, MaxPacket+2)} {
		before := b.of(EventPacketRefused)
		stream, err := conn.OpenUniStream()
		if err != nil {
			t.Fatal(err)
		}
		_, _ = stream.Write(data) // the other end stops reading
		_ = stream.Close()        // as above
		eventually(t, "packet refused", func() bool { return b.of(EventPacketRefused) > before })
	}
	if stream, err := conn.OpenStream(); err == nil {
		_ = stream.Close() // without a kind
	}
	eventually(t, "stream refused", func() bool { return b.of(EventStreamRefused) > 0 })
	if !b.Up("evil") {
		t.Error("a bad packet ended the link: others could be blamed for it")
	}
}

func TestJoin(t *testing.T) {
	ca := newAuthority(t)
	b := start(t, ca.member(t, "b", time.Hour), func(c *Config) {
		c.Join = func(_ context.Context, conn *JoinConn) {
			question, _ := io.ReadAll(conn) // the test sees what is missing
			_, _ = conn.Write(append(question, conn.ChannelBinding()...))
		}
	})
	shut := start(t, ca.member(t, "shut", time.Hour))
	pin := func(chain []*x509.Certificate) error {
		if len(chain) != 2 || !chain[1].Equal(ca.cert) {
			return errors.New("another cluster")
		}
		return chain[0].CheckSignatureFrom(chain[1])
	}
	conn, err := DialJoin(t.Context(), b.LocalAddr().String(), pin)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("let me in")); err != nil {
		t.Fatal(err)
	}
	_ = conn.CloseWrite() // the answer says if the question came
	got, err := io.ReadAll(conn)
	if err != nil || string(got) != "let me in"+string(conn.ChannelBinding()) || len(conn.ChannelBinding()) != bindingSize {
		t.Errorf("answer %q, %v", got, err)
	}
	_ = conn.Close() // it was all read

	if _, err := DialJoin(t.Context(), b.LocalAddr().String(), func([]*x509.Certificate) error { return errors.New("not pinned") }); err == nil {
		t.Error("a member that is not pinned was believed")
	}
	if _, err := DialJoin(t.Context(), shut.LocalAddr().String(), pin); err == nil {
		t.Error("joined where nobody joins")
	}
	if len(b.liveLinks()) != 0 {
		t.Error("a stranger has a link")
	}
}

func TestJoinsAreBounded(t *testing.T) {
	ca := newAuthority(t)
	hold := make(chan struct{})
	b := start(t, ca.member(t, "b", time.Hour), func(c *Config) {
		c.Join = func(ctx context.Context, _ *JoinConn) {
			select {
			case <-hold:
			case <-ctx.Done():
			}
		}
	})
	trusting := func([]*x509.Certificate) error { return nil }
	for range maxJoins + 2 {
		conn, err := DialJoin(t.Context(), b.LocalAddr().String(), trusting)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.release()
		_, _ = conn.Write([]byte("x")) // refusal is counted
	}
	eventually(t, "joins beyond the bound are refused", func() bool { return b.of(EventJoinRefused) == 2 })
	close(hold)
}

func FuzzHello(f *testing.F) {
	f.Add(hello{boot: 1, name: "a"}.encode())
	f.Add(hello{boot: 1 << 63, name: strings.Repeat("n", MaxName)}.encode())
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 0, 0, 255})
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := readHello(bytes.NewReader(data))
		if err != nil {
			return
		}
		if again := h.encode(); !bytes.HasPrefix(data, again) {
			t.Errorf("%x reads as %v, which is %x", data, h, again)
		}
	})
}
