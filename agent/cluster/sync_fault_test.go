// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// faulty is a Network in front of a node's own. request answers in its place where it returns true.
type faulty struct {
	Network
	mute    func(to string, data []byte) bool // loses a packet
	request func(ctx context.Context, to string) (reply []byte, err error, instead bool)
}

func (f *faulty) Send(to string, data []byte) error {
	if f.mute != nil && f.mute(to, data) {
		return nil
	}
	return f.Network.Send(to, data)
}

func (f *faulty) Request(ctx context.Context, to string, data []byte) ([]byte, error) {
	if f.request != nil {
		if b, err, instead := f.request(ctx, to); instead {
			return b, err
		}
	}
	return f.Network.Request(ctx, to, data)
}

// A restarted node that was told of a watermark, but cannot place it yet, took what it was told for known: it
// let in those whom the watermark shuts out.
func TestNotReadyBeforeWatermarksAreApplied(t *testing.T) {
	simulate(t, func(t *testing.T) {
		s := newSim(t, 2, nil)
		s.ready(t)
		v := s.create(t, "n0", 1, time.Hour, 0)
		s.same(t, time.Second)
		n0, n1 := s.nodes["n0"], s.nodes["n1"]
		n1.down()
		time.Sleep(time.Second)
		w := session.Watermark{Subject: "user1", Origin: n0.engine.self, Before: session.OriginTime(n0.clock.Boot()), End: session.End{Reason: session.ReasonProvider}}
		if _, err := n0.engine.Raise(w); err != nil {
			t.Fatal(err)
		}
		until := time.Now().Add(3 * time.Second) // no clock is compared
		n1.conf = func(c *Config) {
			c.Network = &faulty{Network: c.Network, mute: func(string, []byte) bool { return time.Now().Before(until) }}
		}
		n1.start()
		for !n1.engine.Ready() {
			if time.Now().After(until.Add(2 * time.Second)) {
				t.Fatal("it is never ready")
			}
			time.Sleep(time.Millisecond)
		}
		if len(n1.table.Watermarks()) != 1 || !s.ended(v)() {
			t.Error("ready without the watermark")
		}
	})
}

// A member that is alive and fails every round, at once or by never answering, got all rounds: the others
// found out nothing from each other any more.
func TestOneBadMemberDoesNotStarveTheOthers(t *testing.T) {
	for name, bad := range map[string]func(context.Context) ([]byte, error){
		"error": func(context.Context) ([]byte, error) { return nil, errors.New("of another version") },
		"hangs": func(ctx context.Context) ([]byte, error) { <-ctx.Done(); return nil, ctx.Err() },
	} {
		t.Run(name, func(t *testing.T) {
			simulate(t, func(t *testing.T) {
				s := newSim(t, 3, func(c *Config) {
					c.Network = &faulty{Network: c.Network, request: func(ctx context.Context, to string) ([]byte, error, bool) {
						if to != "n2" {
							return nil, nil, false
						}
						b, err := bad(ctx)
						return b, err, true
					}}
				})
				n0, n1 := s.nodes["n0"], s.nodes["n1"]
				eventually(t, 5*time.Second, "ready", func() bool { return n0.engine.Ready() && n1.engine.Ready() })
				time.Sleep(30 * time.Second)
				before := n0.counted(CountRounds) + n1.counted(CountRounds)
				time.Sleep(time.Minute)
				if n := n0.counted(CountRounds) + n1.counted(CountRounds) - before; n < 20 {
					t.Errorf("%d rounds in a minute", n)
				}
			})
		})
	}
}

// More watermarks than a reply carries are asked for again: until all have come a node is not ready.
func TestNotReadyBeforeAllWatermarksCame(t *testing.T) {
	simulate(t, func(t *testing.T) {
		s := newSim(t, 3, func(c *Config) {
			c.Network = &faulty{Network: c.Network, request: func(_ context.Context, to string) ([]byte, error, bool) {
				return nil, errors.New("not now"), to == "n1" // the others begin no rounds with it
			}}
		})
		s.ready(t)
		n0, n1, n2 := s.nodes["n0"], s.nodes["n1"], s.nodes["n2"]
		n1.down()
		const marks = 5000
		for i := range marks {
			w := session.Watermark{Subject: strings.Repeat("s", 300) + strconv.Itoa(i), Origin: n0.engine.self, Before: session.OriginTime(n0.clock.Boot()), End: session.End{Reason: session.ReasonProvider}}
			if _, err := n0.engine.Raise(w); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, time.Minute, "known to who is there", func() bool { return len(n2.table.Watermarks()) == marks })
		n1.start()
		eventually(t, 10*time.Second, "ready", func() bool { return n1.engine.Ready() })
		if n := len(n1.table.Watermarks()); n != marks {
			t.Errorf("ready with %d watermarks of %d", n, marks)
		}
	})
}
