// SPDX-License-Identifier: Apache-2.0

package memnet

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/curfew-proxy/curfew/gossip"
	"github.com/curfew-proxy/curfew/gossip/mesh"
)

var _ gossip.Carrier = (*Node)(nil)

// with runs f in a bubble on a network with the nodes a, b and c; at its end none of their goroutines is left.
func with(t *testing.T, cfg Config, f func(t *testing.T, n *Network, nodes map[string]*Node)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := New(cfg)
		nodes := map[string]*Node{}
		for _, name := range []string{"a", "b", "c"} {
			node, err := n.Node(name, "at-"+name)
			if err != nil {
				t.Fatal(err)
			}
			nodes[name] = node
			defer node.Close()
		}
		f(t, n, nodes)
	})
}

func peer(name string) mesh.Peer { return mesh.Peer{Name: name, Addr: "at-" + name} }

func send(t *testing.T, from *Node, to, text string) {
	t.Helper()
	if err := from.Send(peer(to), mesh.KindApplication, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

// drain waits for everything that is on its way and returns what has arrived.
func drain(n *Node) (got []string) {
	time.Sleep(5 * time.Second)
	for {
		select {
		case p := <-n.Packets():
			got = append(got, p.From.Name+":"+string(p.Data))
		default:
			return got
		}
	}
}

func dial(t *testing.T, from, to *Node) (near, far net.Conn) {
	t.Helper()
	near, err := from.Dial(t.Context(), peer(to.name), mesh.KindApplication)
	if err != nil {
		t.Fatal(err)
	}
	return near, (<-to.Streams()).Conn
}

func TestPacketsTakeTheirTime(t *testing.T) {
	with(t, Config{Latency: 10 * time.Millisecond, Jitter: 5 * time.Millisecond}, func(t *testing.T, _ *Network, nodes map[string]*Node) {
		began := time.Now()
		send(t, nodes["a"], "b", "with a new link")
		<-nodes["b"].Packets()
		if took := time.Since(began); took < 30*time.Millisecond || took > 45*time.Millisecond {
			t.Errorf("with a new link: %v", took)
		}
		for range 100 {
			began = time.Now()
			send(t, nodes["b"], "a", "x")
			p := <-nodes["a"].Packets()
			if took := p.At.Sub(began); took < 10*time.Millisecond || took > 15*time.Millisecond {
				t.Fatalf("took %v", took)
			}
		}
	})
}

func TestLossIsByDirection(t *testing.T) {
	with(t, Config{Seed: 1, Loss: 0.2}, func(t *testing.T, n *Network, nodes map[string]*Node) {
		near, far := dial(t, nodes["a"], nodes["b"]) // the link is up
		defer near.Close()
		defer far.Close()
		n.SetLossBetween("a", "b", 1)
		for range 1000 {
			send(t, nodes["a"], "b", "x")
			send(t, nodes["b"], "a", "x")
		}
		if got := len(drain(nodes["b"])); got != 0 {
			t.Errorf("%d packets got where all are lost", got)
		}
		if got := len(drain(nodes["a"])); got < 750 || got > 850 {
			t.Errorf("%d of 1000 packets with a loss of 0.2", got)
		}
		if s := nodes["b"].Stats(); s.Sent.Packets != 1000 || s.Sent.PacketBytes != 1000 {
			t.Errorf("%+v", s)
		}
	})
}

func TestDuplicatesAndReordering(t *testing.T) {
	with(t, Config{Seed: 1, Latency: time.Millisecond, Duplicate: 0.1, Reorder: 0.1}, func(t *testing.T, _ *Network, nodes map[string]*Node) {
		send(t, nodes["a"], "b", "first")
		drain(nodes["b"])
		const all = 1000
		for i := range all {
			send(t, nodes["a"], "b", string(rune(0x4000+i)))
			time.Sleep(100 * time.Microsecond)
		}
		got := drain(nodes["b"])
		if len(got) < all+60 || len(got) > all+140 {
			t.Errorf("%d packets came", len(got))
		}
		seen, late := map[string]bool{}, 0
		for i, text := range got {
			if i > 0 && text < got[i-1] && !seen[text] {
				late++
			}
			seen[text] = true
		}
		if len(seen) != all || late < 30 {
			t.Errorf("%d different ones, %d late", len(seen), late)
		}
		if s := nodes["b"].Stats(); s.Received.Packets != len(got)+1 || s.Overrun != 0 {
			t.Errorf("%+v of %d", s, len(got))
		}
	})
}

func TestWhatIsRefused(t *testing.T) {
	with(t, Config{}, func(t *testing.T, n *Network, nodes map[string]*Node) {
		a := nodes["a"]
		for name, got := range map[string]struct{ err, want error }{
			"an empty packet": {a.Send(peer("b"), 1, nil), ErrSize},
			"a large packet":  {a.Send(peer("b"), 1, make([]byte, maxPacket+1)), ErrSize},
			"to itself":       {a.Send(peer("a"), 1, []byte("x")), ErrSelf},
			"to nobody":       {a.Send(mesh.Peer{Addr: "at-b"}, 1, []byte("x")), ErrName},
		} {
			if !errors.Is(got.err, got.want) {
				t.Errorf("%s: %v", name, got.err)
			}
		}
		for name, x := range map[string]struct {
			to   mesh.Peer
			want error
		}{
			"another name":       {mesh.Peer{Name: "phantom", Addr: "at-b"}, ErrName},
			"nobody's address":   {mesh.Peer{Name: "b", Addr: "elsewhere"}, ErrTimeout},
			"the own address":    {mesh.Peer{Addr: "at-a"}, ErrSelf},
			"the own name":       {peer("a"), ErrSelf},
			"an unknown address": {mesh.Peer{Addr: "elsewhere"}, ErrTimeout},
		} {
			if _, err := a.Dial(t.Context(), x.to, 1); !errors.Is(err, x.want) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if a.Up("phantom") || a.Up("b") {
			t.Error("a link to somebody who did not prove the name")
		}
		if _, err := n.Node("a", "at-d"); err == nil {
			t.Error("a name was given twice")
		}
		if _, err := n.Node("d", "at-a"); err == nil {
			t.Error("an address was given twice")
		}
		if conn, err := a.Dial(t.Context(), mesh.Peer{Addr: "at-b"}, 1); err != nil || !a.Up("b") || !nodes["b"].Up("a") {
			t.Errorf("dialling whoever is there: %v", err)
		} else {
			conn.Close()
		}
	})
}

func TestStreamCarries(t *testing.T) {
	with(t, Config{Seed: 1, Latency: time.Millisecond, Jitter: 5 * time.Millisecond, Loss: 0.2}, func(t *testing.T, _ *Network, nodes map[string]*Node) {
		near, far := dial(t, nodes["a"], nodes["b"])
		text := strings.Repeat("0123456789", 500_000) // more than fits into the window
		go func() {
			for rest := text; len(rest) > 0; rest = rest[min(len(rest), 9999):] {
				if _, err := io.WriteString(near, rest[:min(len(rest), 9999)]); err != nil {
					t.Error(err)
				}
			}
			near.Close()
		}()
		got, err := io.ReadAll(far)
		if err != nil || string(got) != text {
			t.Errorf("%d of %d bytes, %v", len(got), len(text), err)
		}
		far.Close()
		if s := nodes["b"].Stats().Received; s.Streams != 1 || s.StreamBytes != len(text) {
			t.Errorf("%+v", s)
		}
	})
}

// A cut stalls a stream: until a deadline, until it is mended, or until the link breaks.
func TestStreamIsCut(t *testing.T) {
	for name, cut := range map[string]func(*Network, bool){
		"there":     func(n *Network, on bool) { n.Cut("a", "b", on) },
		"parted":    func(n *Network, on bool) { n.Part(map[bool][]string{true: {"b"}}[on]...) },
		"cable out": func(n *Network, on bool) { n.Down("a", on) },
	} {
		t.Run(name, func(t *testing.T) {
			with(t, Config{Latency: time.Millisecond}, func(t *testing.T, n *Network, nodes map[string]*Node) {
				near, far := dial(t, nodes["a"], nodes["b"])
				defer near.Close()
				defer far.Close()
				cut(n, true)
				if _, err := near.Write([]byte("hello")); err != nil {
					t.Fatal(err)
				}
				far.SetReadDeadline(time.Now().Add(time.Second))
				if _, err := far.Read(make([]byte, 9)); !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatalf("through a cut: %v", err)
				}
				far.SetReadDeadline(time.Time{})
				cut(n, false)
				if got, err := far.Read(make([]byte, 9)); err != nil || got != 5 {
					t.Fatalf("mended: %d, %v", got, err)
				}
				cut(n, true)
				began := time.Now()
				if _, err := far.Read(make([]byte, 9)); !errors.Is(err, ErrLost) || time.Since(began) != idleLimit {
					t.Fatalf("after %v: %v", time.Since(began), err)
				}
				if nodes["a"].Up("b") || nodes["b"].Up("a") {
					t.Error("the link is still up")
				}
				send(t, nodes["a"], "b", "too early")
				drain(nodes["b"])
				cut(n, false)
				send(t, nodes["a"], "b", "again")
				if got := drain(nodes["b"]); len(got) != 1 || got[0] != "a:again" {
					t.Errorf("over a new link: %q", got)
				}
			})
		})
	}
}

func TestOneWay(t *testing.T) {
	with(t, Config{}, func(t *testing.T, n *Network, nodes map[string]*Node) {
		send(t, nodes["a"], "b", "1")
		drain(nodes["b"])
		n.Cut("a", "b", true)
		send(t, nodes["a"], "b", "2")
		send(t, nodes["b"], "a", "3")
		if there, back := drain(nodes["b"]), drain(nodes["a"]); len(there) != 0 || len(back) != 1 {
			t.Errorf("%q there, %q back", there, back)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		n.Cut("a", "c", true) // no link to c has been made
		if _, err := nodes["c"].Dial(ctx, peer("a"), 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a link over one way: %v", err)
		}
	})
}

// A link that could not be made is there soon after the cut was mended, without being asked for again.
func TestDialOutlastsCut(t *testing.T) {
	with(t, Config{}, func(t *testing.T, n *Network, nodes map[string]*Node) {
		n.Part("a")
		time.AfterFunc(time.Second, func() { n.Part() })
		began := time.Now()
		conn, err := nodes["a"].Dial(t.Context(), peer("b"), 1)
		if err != nil || time.Since(began) > 1500*time.Millisecond {
			t.Fatalf("after %v: %v", time.Since(began), err)
		}
		conn.Close()
	})
}

// Peers of a node that crashed notice it by its silence, or when it is back.
func TestCrash(t *testing.T) {
	for name, back := range map[string]bool{"gone": false, "restarted": true} {
		t.Run(name, func(t *testing.T) {
			with(t, Config{}, func(t *testing.T, n *Network, nodes map[string]*Node) {
				near, far := dial(t, nodes["a"], nodes["b"])
				n.Down("b", true)
				nodes["b"].Close()
				n.Down("b", false)
				if _, err := far.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
					t.Errorf("at the one that crashed: %v", err)
				}
				send(t, nodes["a"], "b", "lost")
				if _, err := near.Write([]byte("lost")); err != nil || !nodes["a"].Up("b") {
					t.Errorf("noticed at once: %v", err)
				}
				began := time.Now()
				if back {
					again, err := n.Node("b", "at-b")
					if err != nil {
						t.Fatal(err)
					}
					defer again.Close()
				}
				_, err := near.Read(make([]byte, 1))
				took := time.Since(began)
				if !errors.Is(err, ErrLost) || back != (took == 0) || took > idleLimit || nodes["a"].Up("b") {
					t.Errorf("after %v: %v", took, err)
				}
			})
		})
	}
}

func TestClose(t *testing.T) {
	with(t, Config{Latency: time.Millisecond}, func(t *testing.T, n *Network, nodes map[string]*Node) {
		a, b := nodes["a"], nodes["b"]
		near, far := dial(t, a, b)
		read := make(chan error)
		for _, c := range []net.Conn{near, far} {
			go func() { _, err := c.Read(make([]byte, 1)); read <- err }()
		}
		go func() { _, err := b.Dial(t.Context(), peer("nobody"), 1); read <- err }()
		synctest.Wait()
		send(t, a, "b", "on its way")
		b.Close()
		b.Close()
		for range 3 {
			if err := <-read; !errors.Is(err, ErrLost) && !errors.Is(err, ErrClosed) {
				t.Errorf("what waited got %v", err)
			}
		}
		if _, open := <-b.Packets(); open {
			t.Error("a packet came after the end")
		}
		if _, open := <-b.Streams(); open {
			t.Error("a stream came after the end")
		}
		if err := b.Send(peer("a"), 1, []byte("x")); !errors.Is(err, ErrClosed) {
			t.Errorf("from a closed node: %v", err)
		}
		if _, err := near.Write([]byte("x")); !errors.Is(err, ErrLost) {
			t.Errorf("to a closed node: %v", err)
		}
		again, err := n.Node("b", "at-b2")
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		if a.Up("b") {
			t.Error("up before it was met")
		}
		if err := a.Send(mesh.Peer{Name: "b", Addr: "at-b2"}, 1, []byte("welcome")); err != nil {
			t.Error(err)
		}
		if got := drain(again); len(got) != 1 {
			t.Errorf("the restarted node got %q", got)
		}
	})
}
