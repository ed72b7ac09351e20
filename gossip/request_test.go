// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/curfew-proxy/curfew/gossip/mesh"
)

// pair starts two nodes that know each other, with room for 1,000 bytes in a request.
func pair(t *testing.T, f func(t *testing.T, w *world, a, b *node)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, lan)
		defer w.stop()
		for i := range 2 {
			w.start(i+1, func(c *Config) { c.MaxRequest = 1000 })
		}
		w.eventually("two members", 10*time.Second, w.whole(2))
		f(t, w, w.nodes["node1"], w.nodes["node2"])
	})
}

func TestSend(t *testing.T) {
	pair(t, func(t *testing.T, w *world, a, b *node) {
		if err := a.Send("node2", []byte("hello")); err != nil {
			t.Fatal(err)
		}
		w.eventually("the packet", time.Second, func() bool { return slices.Equal(b.got(), []string{"node1:hello"}) })
		if err := a.Send("nobody", []byte("hello")); !errors.Is(err, ErrNoMember) {
			t.Errorf("a packet to nobody: %v", err)
		}
	})
}

func TestRequest(t *testing.T) {
	pair(t, func(t *testing.T, w *world, a, b *node) {
		reply, err := a.Request(t.Context(), "node2", []byte("why"))
		if err != nil || string(reply) != "node1 asked node2 why" {
			t.Errorf("%q, %v", reply, err)
		}
		if reply, err = a.Request(t.Context(), "node2", nil); err != nil || string(reply) != "node1 asked node2 " {
			t.Errorf("an empty request: %q, %v", reply, err)
		}
		if _, err := a.Request(t.Context(), "nobody", nil); !errors.Is(err, ErrNoMember) {
			t.Errorf("a request to nobody: %v", err)
		}
		var refused *RefusedError
		if _, err := a.Request(t.Context(), "node2", []byte("fail")); !errors.As(err, &refused) || refused.Text != "no" {
			t.Errorf("a request that fails: %v", err)
		}
		if _, err := a.Request(t.Context(), "node2", make([]byte, 1001)); err == nil || errors.As(err, &refused) {
			t.Errorf("a request that is too long: %v", err)
		}
		if _, err := a.Request(t.Context(), "node2", bytes.Repeat([]byte("x"), 990)); !errors.As(err, &refused) {
			t.Errorf("a reply that is too long: %v", err)
		}
	})
}

func TestRequestTimesOut(t *testing.T) {
	pair(t, func(t *testing.T, w *world, a, b *node) {
		for _, x := range []struct {
			what, request string
			want          error
			begin         func()
		}{
			{"one that hangs", "hang", context.DeadlineExceeded, func() {}},
			{"a partition", "why", context.DeadlineExceeded, func() { w.net.Part("node2") }},
			{"a link that is broken", "why", nil, func() { time.Sleep(15 * time.Second) }}, // or that there is none
		} {
			x.begin()
			began := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if _, err := a.Request(ctx, "node2", []byte(x.request)); err == nil || x.want != nil && !errors.Is(err, x.want) || time.Since(began) > time.Second {
				t.Errorf("%s: after %v: %v", x.what, time.Since(began), err)
			}
			cancel()
		}
		w.net.Part()
		w.eventually("two members", 10*time.Second, w.whole(2))
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if _, err := a.Request(ctx, "node2", []byte("hang")); !errors.Is(err, context.Canceled) {
			t.Errorf("one that was called off: %v", err)
		}
		time.Sleep(20 * time.Second) // for those that hang
	})
}

// Requests beyond those that are served at a time are refused at once, and membership goes on.
func TestTooManyRequests(t *testing.T) {
	pair(t, func(t *testing.T, w *world, a, b *node) {
		results := make(chan error)
		for range maxServed + 10 {
			go func() {
				_, err := a.Request(t.Context(), "node2", []byte("hang"))
				results <- err
			}()
		}
		failed := 0
		for range maxServed + 10 {
			if <-results != nil {
				failed++
			}
		}
		if failed != 10 || b.counted(EventRequestFull) != 10 {
			t.Errorf("%d were refused, %d counted", failed, b.counted(EventRequestFull))
		}
		w.noneIs(Dead)
	})
}

// What is no request ends the stream and nothing else.
func TestNonsense(t *testing.T) {
	pair(t, func(t *testing.T, w *world, a, b *node) {
		for _, text := range []string{"\xff\xff\xff\xff", "\x00\x00\x00\x05abc", "abc"} {
			for _, kind := range []byte{mesh.KindApplication, mesh.KindMembership, 77} {
				conn, err := a.carrier.Dial(t.Context(), mesh.Peer{Name: "node2", Addr: addrOf(2).String()}, kind)
				if err != nil {
					t.Fatal(err)
				}
				_, _ = io.WriteString(conn, text) // it may be closed already
				_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
				if _, err := io.ReadAll(conn); err != nil {
					t.Errorf("%q of kind %d: %v", text, kind, err)
				}
				conn.Close()
			}
		}
		for _, data := range []string{"x", "\x00", "\x06abcd\x00\x00", "\x06abcdef\xff\xff"} {
			for _, kind := range []byte{mesh.KindMembership, kindConnect, 77} {
				if err := a.carrier.Send(mesh.Peer{Name: "node2"}, kind, []byte(data)); err != nil {
					t.Fatal(err)
				}
			}
		}
		time.Sleep(5 * time.Second)
		if got := b.counted(EventMalformed); got != 3 {
			t.Errorf("%d malformed packets counted", got)
		}
		if !w.whole(2)() || len(b.got()) != 0 {
			t.Errorf("%+v, received %q", b.Members(), b.got())
		}
	})
}

func FuzzReadFrame(f *testing.F) {
	f.Add("")
	f.Add("\x00\x00\x00\x02ab")
	f.Add("\x00\x00\x00\x02abc")
	f.Add("\xff\xff\xff\xffab")
	f.Fuzz(func(t *testing.T, in string) {
		data, err := readFrame(strings.NewReader(in), 1000)
		if err != nil {
			return
		}
		var out strings.Builder
		if err := writeFrame(&out, nil, data); err != nil || !strings.HasPrefix(in, out.String()) || len(data) > 1000 {
			t.Errorf("%q was read as %q", in, data)
		}
	})
}
