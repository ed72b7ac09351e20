// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// Items could not be applied, which may be otherwise the next time.
var (
	errLeft    = errors.New("not all could be taken over")
	errNoClock = fmt.Errorf("%w: the other's clock is not known yet", errLeft)
)

// adopt applies what a request or reply of a peer carries. It returns when that is done, and how many items
// were applied; with errLeft, the others were not.
func (e *Engine) adopt(ctx context.Context, p *peer, fields []byte) (applied int, err error) {
	s, err := decodeState(fields)
	if err != nil || s.sender == (session.Origin{}) && len(s.items) == 0 {
		return 0, err
	}
	if s.sender.Node != p.name || s.sender.Boot == 0 || s.epoch == 0 {
		return 0, fmt.Errorf("state of %q from %q: %w", s.sender.Node, p.name, errMalformed)
	}
	arrivals, err := e.arrivals(&s, p.name, e.cfg.Clock.Boot())
	if err != nil {
		return 0, err
	}
	e.introduce(p, s.sender.Boot, s.epoch)
	e.learn(&s, p)
	for i, a := range arrivals {
		arrivals[i].clockless = a.it.kind == itemWatermark && e.nobodyKnows(&s, a.it.origin)
	}
	applied, left, err := e.applyAll(ctx, arrivals)
	if err == nil {
		err = e.whyLeft(s.sender, left)
	}
	return applied, err
}

// nobodyKnows reports whether neither we nor the sender of a message, whose clock we know, know a clock in it.
func (e *Engine) nobodyKnows(s *state, o session.Origin) bool {
	if _, _, ok := e.cfg.Timebase.Offset(o); ok {
		return false
	}
	_, _, ok := e.cfg.Timebase.Offset(s.sender)
	return ok && !slices.ContainsFunc(s.clocks, func(c remoteClock) bool { return c.origin == o && c.known })
}

// whyLeft says why items of these origins were not applied; nil if asking the sender again would not help,
// because it does not know their clocks either.
func (e *Engine) whyLeft(sender session.Origin, left []session.Origin) error {
	for _, o := range left {
		if _, _, ok := e.cfg.Timebase.Offset(o); ok {
			return errLeft // the disk; or the clock has become known meanwhile
		}
	}
	if _, _, ok := e.cfg.Timebase.Offset(sender); !ok && len(left) > 0 {
		return errNoClock
	}
	return nil
}

// relayLimit is how much news of ends a node that found it by anti-entropy passes on by gossip: one that was
// away for long finds what everybody knows.
const relayLimit = 64

// applyAll returns the origins of what was not applied.
func (e *Engine) applyAll(ctx context.Context, arrivals []arrival) (applied int, left []session.Origin, err error) {
	type result struct {
		origin session.Origin
		ok     bool
	}
	results := make(chan result, len(arrivals)) // a lane never waits for us
	relay := len(arrivals) <= relayLimit && e.Ready()
	waiting := 0
	for _, a := range arrivals {
		switch a.it.kind {
		case itemCreate, itemRevoke, itemActivity, itemWatermark, itemOpaque:
		default:
			continue // has no place here, or is of a later version
		}
		a.relay = relay
		a.finished = func(ok bool) { results <- result{a.it.origin, ok} }
		if err := e.putPatiently(ctx, a); err != nil {
			return applied, nil, err
		}
		waiting++
	}
	for ; waiting > 0; waiting-- {
		select {
		case r := <-results:
			if r.ok {
				applied++
			} else {
				left = append(left, r.origin)
			}
		case <-ctx.Done():
			return applied, nil, ctx.Err()
		}
	}
	return applied, left, nil
}

// putPatiently waits for room in a lane.
func (e *Engine) putPatiently(ctx context.Context, a arrival) error {
	l := e.inbox.of(&a)
	for !l.put(a) {
		select {
		case <-time.After(resendFirst):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// items are watermarks or documents, which rounds of anti-entropy compare by their hashes.
type items []item

func (it *item) hash() uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte{byte(it.kind)}) // a hash takes everything
	_, _ = h.Write([]byte(it.origin.Node))
	_, _ = h.Write(appendFixed(nil, 1, it.origin.Boot))
	_, _ = h.Write(it.body)
	return h.Sum64()
}

func (list items) hashes() []uint64 {
	hashes := make([]uint64, len(list))
	for i := range list {
		hashes[i] = list[i].hash()
	}
	return hashes
}

// without returns those whose hash is not among the given.
func (list items) without(hashes []uint64) items {
	have := make(map[uint64]bool, len(hashes))
	for _, h := range hashes {
		have[h] = true
	}
	return slices.DeleteFunc(slices.Clone(list), func(it item) bool { return have[it.hash()] })
}

func (e *Engine) documents() (list items) {
	if e.cfg.Documents == nil {
		return nil
	}
	for _, d := range e.cfg.Documents() {
		if it, ok := e.encoded(encodeDocument(d)); ok {
			list = append(list, it)
		}
	}
	return list
}

// maxGone is how many clocks of nodes that are gone are told of at a time.
const maxGone = 256

// goneClocks returns the clocks that are known and are none of a live member.
func (e *Engine) goneClocks() []session.Origin {
	live := map[session.Origin]bool{}
	for _, p := range e.livePeers() {
		if o, ok := p.origin(); ok {
			live[o] = true
		}
	}
	gone := slices.DeleteFunc(e.cfg.Timebase.origins(), func(o session.Origin) bool { return live[o] })
	return gone[:min(len(gone), maxGone)]
}
