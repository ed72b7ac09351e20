// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"encoding/hex"
	"errors"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// goldenFresh is the body of freshMark's item. Its last field is the one that the first version of the protocol skips.
const goldenFresh = "0a0b68747470733a2f2f6964701205757365723118c60122120a1070726f76696465722d7265766f6b6564" + "3880a8d6b907"

func freshMark(origin session.Origin, before session.OriginTime) session.Watermark {
	return session.Watermark{Issuer: "https://idp", Subject: "user1", Origin: origin, Before: before, Fresh: 2_000_000_000, End: session.End{Reason: session.ReasonProvider}}
}

func TestFreshOnTheWire(t *testing.T) {
	w := freshMark(originA, 99)
	it, err := encodeWatermark(&w)
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(it.body); got != goldenFresh {
		t.Errorf("\n got %s\nwant %s", got, goldenFresh)
	}
	if got, err := it.watermark(); err != nil || got != w {
		t.Errorf("%+v, %v", got, err)
	}
	w.Fresh = 0
	if plain, err := encodeWatermark(&w); err != nil || plain.hash() == it.hash() {
		t.Errorf("to anti-entropy it is the same with and without: %v", err)
	}
	it.body = appendVarint(it.body[:len(it.body)-6], 7, 1<<63) // more than there is
	if got, err := it.watermark(); err != nil || got.Fresh < 0 {
		t.Errorf("%+v, %v", got, err)
	}
}

// mustBeFresh checks that a node lets user1 in if the provider says that it was authenticated since, and else not.
func (n *simNode) mustBeFresh(t *testing.T, key byte) {
	t.Helper()
	for since, want := range map[int64]error{1_999_999_999: session.ErrNotFresh, 2_000_000_000: nil} {
		_, err := n.table.Create(session.Session{Key: session.Key{key}, Method: "browser",
			Identity: session.Identity{Issuer: "https://idp", Subject: "user1", AuthTime: time.Unix(since, 0)}}, time.Minute)
		if !errors.Is(err, want) {
			t.Errorf("%s, authenticated at %d: %v", n.name, since, err)
		}
	}
}

// A node that joins long after knows that somebody has to be authenticated anew, also when nobody is left who could compare the
// clock by which that was said; and so do those who have been restarted.
func TestFreshIsKnownToWhoJoinsLater(t *testing.T) {
	simulate(t, func(t *testing.T) {
		s := newSim(t, 2, nil)
		s.ready(t)
		n0, n1 := s.nodes["n0"], s.nodes["n1"]
		if _, err := n0.engine.Raise(freshMark(n0.engine.self, session.OriginTime(n0.clock.Boot()))); err != nil {
			t.Fatal(err)
		}
		eventually(t, time.Second, "told", s.onAll(func(n *simNode) bool { return len(n.table.Watermarks()) == 1 }))
		time.Sleep(time.Second)
		n1.mustBeFresh(t, 1)

		n2 := s.add("n2", nil)
		n2.start()
		s.ready(t)
		n2.mustBeFresh(t, 2)

		time.Sleep(time.Minute)
		for _, n := range []*simNode{n0, n1, n2} {
			n.down()
			n.clock.boot += time.Hour
		}
		n0.start()
		n1.start()
		n3 := s.add("n3", nil)
		n3.start()
		s.ready(t)
		for i, n := range []*simNode{n0, n1, n3} {
			n.mustBeFresh(t, byte(10+i))
		}
	})
}

// freshState is a message with freshMark.
func freshState(t testing.TB) []byte {
	t.Helper()
	mark := freshMark(originB, 99)
	it, err := encodeWatermark(&mark)
	if err != nil {
		t.Fatal(err)
	}
	it.number = 1
	w := newStateWriter(originB, 7, nil)
	w.add(&it)
	return w.message()
}
