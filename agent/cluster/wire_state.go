// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/curfew-proxy/curfew/agent/session"
)

// state is the body of a STATE, and of everything else that carries items.
type state struct {
	sender session.Origin
	epoch  uint64        // names the run of the sender's engine: its numbers mean something in it only
	clocks []remoteClock // of origins that are used, and are not the sender
	items  []item
}

// remoteClock is how the sender's clock compares to that of another.
type remoteClock struct {
	origin session.Origin
	known  bool
	offset time.Duration // what the sender's clock reads when origin's reads zero
	bound  time.Duration // how far that may be off
}

const maxBound = time.Hour

// stateWriter builds a state, item by item, in as few bytes as it takes.
type stateWriter struct {
	clock   func(session.Origin) remoteClock
	sender  session.Origin
	origins map[session.Origin]uint64 // to index in the dictionary, from 2
	head    []byte
	items   []byte
	count   int
}

func newStateWriter(sender session.Origin, epoch uint64, clock func(session.Origin) remoteClock) *stateWriter {
	head := appendFixed(nil, 1, epoch)
	head = appendText(head, 2, sender.Node)
	head = appendFixed(head, 3, sender.Boot)
	return &stateWriter{clock: clock, sender: sender, head: head}
}

// size is how long the message is now.
func (w *stateWriter) size() int { return 2 + len(w.head) + len(w.items) }

// fits reports whether an item may be added to a message of at most limit bytes. An item that is longer than
// any message gets one of its own.
func (w *stateWriter) fits(it *item, limit int) bool {
	if w.count == 0 {
		return true
	}
	size := w.size() + itemOverhead + len(it.body)
	if w.index(it.origin) == 0 && it.origin != (session.Origin{}) {
		size += clockOverhead + len(it.origin.Node)
	}
	return size <= limit && w.count < maxItems && len(w.origins) < maxOrigins
}

const (
	itemOverhead  = 3 + 11 + 2 + 4 + 4 // tag and length, number, kind, origin, body's tag and length
	clockOverhead = 3 + 3 + 9 + 11 + 11
)

// index is the number of an origin in the dictionary; zero: it has none.
func (w *stateWriter) index(o session.Origin) uint64 {
	if o == w.sender {
		return 1
	}
	return w.origins[o]
}

func (w *stateWriter) add(it *item) {
	index := w.mention(it.origin)
	b := appendVarint(make([]byte, 0, itemOverhead+len(it.body)), 1, it.number)
	b = appendVarint(b, 2, uint64(it.kind))
	b = appendVarint(b, 3, index)
	b = appendBytes(b, 4, it.body)
	w.items = appendElement(w.items, 5, b)
	w.count++
}

// mention takes a clock into the dictionary, and returns its number.
func (w *stateWriter) mention(o session.Origin) uint64 {
	index := w.index(o)
	if index == 0 && o != (session.Origin{}) {
		index = uint64(len(w.origins)) + 2
		if w.origins == nil {
			w.origins = map[session.Origin]uint64{}
		}
		w.origins[o] = index
		w.head = appendElement(w.head, 4, appendClock(nil, w.clock(o)))
	}
	return index
}

// fieldsOnly returns the fields, to stand within another message.
func (w *stateWriter) fieldsOnly() []byte { return append(w.head, w.items...) }

func (w *stateWriter) message() []byte {
	return append(append(appendHeader(make([]byte, 0, w.size()), kindState), w.head...), w.items...)
}

func appendClock(b []byte, c remoteClock) []byte {
	b = appendText(b, 1, c.origin.Node)
	b = appendFixed(b, 2, c.origin.Boot)
	if !c.known {
		return b
	}
	b = appendSigned(b, 3, int64(c.offset))
	return appendVarint(b, 4, uint64(max(c.bound, 1)))
}

func decodeClock(b []byte) (c remoteClock, err error) {
	var bound uint64
	err = eachField(b, func(f field) error {
		switch f.num {
		case 1:
			return f.text(&c.origin.Node, maxNode)
		case 2:
			return f.fixed(&c.origin.Boot)
		case 3:
			return f.signed((*int64)(&c.offset))
		case 4:
			return f.varint(&bound)
		}
		return nil
	})
	c.known = bound > 0 && bound <= uint64(maxBound) && c.offset > -maxInstant && c.offset < maxInstant
	c.bound = time.Duration(bound)
	if err == nil && c.origin.Node == "" {
		err = errMalformed
	}
	return c, err
}

// decodeState decodes the fields of a state. Bodies of items share memory with b.
func decodeState(b []byte) (state, error) {
	var s state
	var indexes []uint64
	err := eachField(b, func(f field) error {
		switch f.num {
		case 1:
			return f.fixed(&s.epoch)
		case 2:
			return f.text(&s.sender.Node, maxNode)
		case 3:
			return f.fixed(&s.sender.Boot)
		case 4:
			return s.addClock(f)
		case 5:
			index, err := s.addItem(f)
			indexes = append(indexes, index)
			return err
		}
		return nil
	})
	if err == nil {
		err = s.resolve(indexes)
	}
	if err != nil {
		return state{}, fmt.Errorf("state: %w", err)
	}
	return s, nil
}

func (s *state) addClock(f field) error {
	var b []byte
	if err := f.bytes(&b, 2*maxNode); err != nil {
		return err
	}
	if len(s.clocks) == maxOrigins {
		return errTooLong
	}
	c, err := decodeClock(b)
	s.clocks = append(s.clocks, c)
	return err
}

func (s *state) addItem(f field) (index uint64, err error) {
	var b []byte
	if err := f.bytes(&b, maxMessage); err != nil {
		return 0, err
	}
	if len(s.items) == maxItems {
		return 0, errTooLong
	}
	var it item
	var kind uint64
	err = eachField(b, func(f field) error {
		switch f.num {
		case 1:
			return f.varint(&it.number)
		case 2:
			return f.varint(&kind)
		case 3:
			return f.varint(&index)
		case 4:
			return f.bytes(&it.body, maxMessage)
		}
		return nil
	})
	if kind <= 255 { // else it stays zero, which nobody knows
		it.kind = itemKind(kind)
	}
	s.items = append(s.items, it)
	return index, err
}

// resolve gives each item its origin.
func (s *state) resolve(indexes []uint64) error {
	for i, index := range indexes {
		switch {
		case index == 0:
		case index == 1:
			s.items[i].origin = s.sender
		case index-2 < uint64(len(s.clocks)):
			s.items[i].origin = s.clocks[index-2].origin
		default:
			return fmt.Errorf("origin %d: %w", index, errMalformed)
		}
	}
	return nil
}

// ack says which items of a run of the receiver's engine need not be sent again.
type ack struct {
	epoch   uint64
	numbers []uint64
}

// maxAcks keeps an acknowledgement within a packet.
const maxAcks = 100

func encodeAck(a ack) []byte {
	b := appendFixed(appendHeader(nil, kindAck), 1, a.epoch)
	var packed []byte
	for _, n := range a.numbers {
		packed = protowire.AppendVarint(packed, n)
	}
	return appendBytes(b, 2, packed)
}

func decodeAck(b []byte) (a ack, err error) {
	err = eachField(b, func(f field) error {
		switch f.num {
		case 1:
			return f.fixed(&a.epoch)
		case 2:
			var packed []byte
			if err := f.bytes(&packed, maxPacket); err != nil {
				return err
			}
			for len(packed) > 0 {
				v, n := protowire.ConsumeVarint(packed)
				if n < 0 || len(a.numbers) == maxPacket {
					return errMalformed
				}
				a.numbers, packed = append(a.numbers, v), packed[n:]
			}
		}
		return nil
	})
	if err != nil {
		return ack{}, fmt.Errorf("ack: %w", err)
	}
	return a, nil
}
