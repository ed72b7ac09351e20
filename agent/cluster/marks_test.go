// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// metered counts what requests and their replies take.
type metered struct {
	Network
	bytes *atomic.Int64
}

func (m metered) Request(ctx context.Context, to string, request []byte) ([]byte, error) {
	reply, err := m.Network.Request(ctx, to, request)
	m.bytes.Add(int64(len(request) + len(reply)))
	return reply, err
}

// A few watermarks of many that two nodes do not both have are not worth telling all.
func TestFewOfManyWatermarks(t *testing.T) {
	simulate(t, func(t *testing.T) {
		var bytes atomic.Int64
		s := newSim(t, 2, func(c *Config) { c.Network = metered{c.Network, &bytes} })
		s.ready(t)
		raise := func(n *simNode, first, count int) {
			for i := range count {
				w := session.Watermark{Subject: "user" + strconv.Itoa(first+i), Origin: n.engine.self, Before: session.OriginTime(n.clock.Boot()), End: session.End{Reason: session.ReasonProvider, Message: "back-channel logout"}}
				if _, _, err := n.table.Raise(w); err != nil { // nobody is told
					t.Fatal(err)
				}
			}
		}
		a, b := s.nodes["n0"], s.nodes["n1"]
		same := func(want int) func() bool {
			return func() bool {
				ours, theirs := a.engine.watermarks(), b.engine.watermarks()
				return len(ours.items) == want && slices.Equal(ours.hashes, theirs.hashes)
			}
		}
		const many = 20_000
		raise(a, 0, many) // more hashes than a message has
		eventually(t, time.Minute, "all are known", same(many))
		all := bytes.Load()
		time.Sleep(10 * time.Second) // what was under way
		raise(a, many, 10)
		raise(b, many+10, 10)
		bytes.Store(0)
		eventually(t, 10*time.Second, "the last are known", same(many+20))
		if few := bytes.Load(); few > all/10 {
			t.Errorf("%d bytes for 20 watermarks, %d for %d", few, all, many)
		}
		if bad := a.counted(CountMalformed) + b.counted(CountMalformed) + a.counted(CountRoundErrors) + b.counted(CountRoundErrors); bad > 0 {
			t.Errorf("%d errors", bad)
		}
	})
}

func TestMarkList(t *testing.T) {
	var list items
	for i := range 40_000 {
		list = append(list, item{kind: itemWatermark, body: []byte(strconv.Itoa(i))})
	}
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	l := newMarkList(list)
	if !slices.IsSorted(l.hashes) {
		t.Fatal("out of order")
	}
	for i := range l.items {
		if it := l.find(l.items[i].hash()); it != &l.items[i] {
			t.Fatalf("%d: found %v", i, it)
		}
	}
	if l.find(l.hashes[0]+1) != nil {
		t.Error("found what is not there")
	}
	if hashes, covered := l.differing(&l.fold); len(hashes) != 0 || covered != buckets {
		t.Errorf("of the same: %d, %d", len(hashes), covered)
	}
	var got []uint64
	theirs, pages := [buckets]uint64{}, 0
	for covered := 0; covered < buckets; pages++ {
		var hashes []uint64
		if hashes, covered = l.differing(&theirs); len(hashes) > maxItems || len(hashes) == 0 {
			t.Fatalf("%d hashes", len(hashes))
		}
		got = append(got, hashes...)
		copy(theirs[:covered], l.fold[:]) // as if they had all of these now
	}
	if !slices.Equal(got, l.hashes) || pages != 3 {
		t.Errorf("%d of %d in %d pages", len(got), len(l.hashes), pages)
	}
}
