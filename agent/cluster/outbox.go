// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"cmp"
	"container/heap"
	"sync"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// outbox is what one peer has to be told until it acknowledges it.
//
// An item replaces an older one of the same key. There are as many items in flight as the window of their class
// allows; the others wait their turn. When there are more than the limit, they are dropped, and
// anti-entropy tells the peer instead.
type outbox struct {
	mu       sync.Mutex
	open     bool // the peer is a live member
	number   uint64
	byKey    map[outboxKey]*outgoing
	byNumber map[uint64]*outgoing
	classes  [classCount]class
	overflow bool // something was dropped: the peer needs anti-entropy now
}

// outboxKey names what an item is about.
type outboxKey struct {
	kind itemKind // itemCreate stands for REVOKE and ACTIVITY too
	id   session.ID
	n    uint64 // of a KILL or REPORT
	name string // of a WATERMARK or OPAQUE
}

func sessionKey(id session.ID) outboxKey { return outboxKey{kind: itemCreate, id: id} }

// outgoing is an item on its way to one peer.
type outgoing struct {
	key   outboxKey
	it    item
	due   session.Instant // when it is sent, or sent again
	sends int
	task  *killTask // whom to tell of the acknowledgement; or nil
	index int       // in one of the class's heaps
}

// The classes of items, in the order in which they are sent.
const (
	classUrgent = iota
	classCreate
	classActivity
	classRest
	classCount
)

type class struct {
	fresh, sent byPlace[*outgoing]
}

func classOf(k itemKind) int {
	switch {
	case k.urgent():
		return classUrgent
	case k == itemCreate:
		return classCreate
	case k == itemActivity:
		return classActivity
	}
	return classRest
}

// windows is how many items of a class are in flight at a time, limits how many wait.
var (
	windows = [classCount]int{2048, 512, 1024, 256}
	limits  = [classCount]int{65_536, 16_384, 16_384, 4_096}
)

// packetsPerTurn is how many packets go to one peer before the others have their turn.
const packetsPerTurn = 32

func newOutbox() *outbox {
	return &outbox{byKey: map[outboxKey]*outgoing{}, byNumber: map[uint64]*outgoing{}}
}

// setOpen opens or closes the outbox. A closed one keeps and takes only what anti-entropy does not bring
// when the peer is back.
func (o *outbox) setOpen(open bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.open = open
	o.cleanLocked()
}

// clean takes out what nobody waits for any more, of a peer that is gone.
func (o *outbox) clean() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.cleanLocked()
}

func (o *outbox) cleanLocked() {
	if o.open {
		return
	}
	for _, g := range o.byKey {
		if !lasts(g.it.kind, g.task) {
			o.removeLocked(g)
		}
	}
}

// lasts reports whether an item is kept for a peer that is gone, which may be for a moment only: an order that
// a kill waits for, and a report, which the peer's may wait for.
func lasts(k itemKind, task *killTask) bool {
	return k == itemReport || task != nil && !task.over.Load()
}

// put adds an item that is due at an instant. whole returns the session's CREATE, for the case that the peer
// has not acknowledged an earlier one that the item would replace; nil for all but ACTIVITY.
func (o *outbox) put(key outboxKey, it item, due session.Instant, task *killTask, whole func() (item, bool)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.open && !lasts(it.kind, task) {
		return
	}
	if old := o.byKey[key]; old != nil {
		switch {
		case old.it.kind == itemRevoke && it.kind != itemRevoke:
			return // it has ended: nothing else matters
		case old.it.kind == itemCreate && it.kind == itemActivity:
			var ok bool
			if it, ok = whole(); !ok {
				return
			}
		}
		o.removeLocked(old)
	}
	o.number++
	it.number = o.number
	g := &outgoing{key: key, it: it, due: due, task: task}
	o.byKey[key], o.byNumber[it.number] = g, g
	c := classOf(it.kind)
	heap.Push(&o.classes[c].fresh, g)
	if o.classes[c].fresh.Len() > limits[c] {
		o.dropLocked(c)
	}
}

// dropLocked drops what waits in a class, but what somebody counts on.
func (o *outbox) dropLocked(c int) {
	for _, g := range append(byPlace[*outgoing](nil), o.classes[c].fresh...) {
		if g.task == nil {
			o.removeLocked(g)
		}
	}
	o.overflow = true
}

func (o *outbox) removeLocked(g *outgoing) {
	delete(o.byKey, g.key)
	delete(o.byNumber, g.it.number)
	c := &o.classes[classOf(g.it.kind)]
	if g.sends == 0 {
		heap.Remove(&c.fresh, g.index)
	} else {
		heap.Remove(&c.sent, g.index)
	}
}

// drop takes an item out that need not be told any more.
func (o *outbox) drop(key outboxKey) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if g := o.byKey[key]; g != nil {
		o.removeLocked(g)
	}
}

// acked takes out what the peer acknowledged, and returns what somebody waited for.
func (o *outbox) acked(numbers []uint64) (waited []*outgoing) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, n := range numbers {
		g := o.byNumber[n]
		if g == nil {
			continue // acknowledged before, or replaced since
		}
		o.removeLocked(g)
		if g.task != nil {
			waited = append(waited, g)
		}
	}
	return waited
}

// take packs what is due into messages, and returns when to come again; zero: when something is put or
// acknowledged. It reports how many of the items were sent before.
func (o *outbox) take(now session.Instant, trip time.Duration, writer func() *stateWriter) (packets [][]byte, again int, next session.Instant) {
	o.mu.Lock()
	defer o.mu.Unlock()
	p := packer{writer: writer}
	for i := range o.classes {
		c := &o.classes[i]
		fresh := now
		for g := c.next(now, fresh, windows[i]); g != nil && len(p.packets) < packetsPerTurn; g = c.next(now, fresh, windows[i]) {
			if i == classActivity {
				fresh = now.Add(batchActivity) // what would go soon goes along
			}
			p.add(&g.it)
			if g.sends > 0 {
				again++
			}
			patience := g.sends
			if i == classUrgent {
				patience = max(patience-eager, 0)
			}
			c.resent(g, now.Add(resendAfter(patience, trip)))
		}
	}
	packets = p.finish()
	for i := range o.classes {
		next = session.Earliest(next, o.classes[i].due(windows[i]))
	}
	return packets, again, next
}

// eager is how often an end is sent again without waiting any longer than at first: with every fifth packet lost,
// one in 150 is not acknowledged after five times.
const eager = 3

// resendAfter is how long to wait for the acknowledgement of what was sent once, and sends times before.
func resendAfter(sends int, trip time.Duration) time.Duration {
	wait := max(resendFirst, trip+trip/2)
	for range sends {
		if wait >= resendLast {
			break
		}
		wait += wait / 2
	}
	return min(wait, resendLast)
}

// next is what of the class is to be sent now: again, or for the first time if it is due until fresh.
func (c *class) next(now, fresh session.Instant, window int) *outgoing {
	if c.sent.Len() > 0 && c.sent[0].due <= now {
		return c.sent[0]
	}
	if c.fresh.Len() > 0 && c.fresh[0].due <= fresh && c.sent.Len() < window {
		return c.fresh[0]
	}
	return nil
}

func (c *class) resent(g *outgoing, due session.Instant) {
	if g.sends == 0 {
		heap.Remove(&c.fresh, g.index)
		g.sends, g.due = 1, due
		heap.Push(&c.sent, g)
		return
	}
	g.sends, g.due = g.sends+1, due
	heap.Fix(&c.sent, g.index)
}

// due is when next has something to return.
func (c *class) due(window int) (at session.Instant) {
	if c.sent.Len() > 0 {
		at = c.sent[0].due
	}
	if c.fresh.Len() > 0 && c.sent.Len() < window {
		at = session.Earliest(at, c.fresh[0].due)
	}
	return at
}

// length is how many items the peer has not acknowledged.
func (o *outbox) length() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.byKey)
}

// overflowed reports whether something was dropped since it was last asked.
func (o *outbox) overflowed() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	was := o.overflow
	o.overflow = false
	return was
}

// packer distributes items over packets.
type packer struct {
	writer  func() *stateWriter
	current *stateWriter
	packets [][]byte
}

func (p *packer) add(it *item) {
	if p.current != nil && !p.current.fits(it, maxPacket) {
		p.packets = append(p.packets, p.current.message())
		p.current = nil
	}
	if p.current == nil {
		p.current = p.writer()
	}
	p.current.add(it)
}

func (p *packer) finish() [][]byte {
	if p.current != nil {
		p.packets = append(p.packets, p.current.message())
	}
	return p.packets
}

// before orders items by when they are due, then by age.
func (g *outgoing) before(other *outgoing) bool {
	return cmp.Or(cmp.Compare(g.due, other.due), cmp.Compare(g.it.number, other.it.number)) < 0
}

func (g *outgoing) place() *int { return &g.index }
