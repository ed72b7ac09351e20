// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"hash/maphash"
	"sync"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// Changed tells every node of a change of a session that was made here: it is to be called as, or by,
// session.TableConfig.OnChange. It does not block.
func (e *Engine) Changed(r session.Record) {
	switch {
	case r.Revoked != nil:
		if e.told.covers(r.Revoked) {
			return // the watermark says it
		}
		e.changedRevoke(&r)
	case r.Active == 0:
		e.Validated(r)
	default:
		whole := sync.OnceValues(func() (item, bool) { return e.encoded(encodeCreate(&r)) })
		if it, ok := e.encoded(encodeActivity(&r)); ok {
			e.tell(sessionKey(r.ID), it, min(batchActivity, r.IdleTimeout/80), whole)
		}
	}
}

// Validated is Changed for a session whose identity was validated here.
func (e *Engine) Validated(r session.Record) {
	if it, ok := e.encoded(encodeCreate(&r)); ok {
		e.tell(sessionKey(r.ID), it, 0, nil)
		e.gossip("c/"+string(r.ID[:]), it)
	}
}

func (e *Engine) changedRevoke(r *session.Record) {
	it, ok := e.encoded(encodeRevoke(r))
	if !ok {
		return
	}
	e.tell(sessionKey(r.ID), it, 0, nil)
	e.gossip(revokeName(r.ID), it)
}

func (e *Engine) gossipRevoke(r *session.Record) {
	if it, ok := e.encoded(encodeRevoke(r)); ok {
		e.gossip(revokeName(r.ID), it)
	}
}

func revokeName(id session.ID) string { return "r/" + string(id[:]) }

// encoded notes a record that nobody would read.
func (e *Engine) encoded(it item, err error) (item, bool) {
	if err != nil {
		e.cfg.Count(CountTooLong, 1)
		e.cfg.Log.Error("tell other nodes of a session", "error", err)
	}
	return it, err == nil
}

// tell puts an item into the outbox of every peer.
func (e *Engine) tell(key outboxKey, it item, delay time.Duration, whole func() (item, bool)) {
	due := e.cfg.Clock.Boot().Add(delay)
	for _, p := range e.livePeers() {
		e.put(p, key, it, due, nil, whole)
	}
}

// put puts an item into the outbox of a peer; see outbox.put.
func (e *Engine) put(p *peer, key outboxKey, it item, due session.Instant, task *killTask, whole func() (item, bool)) {
	p.outbox.put(key, it, due, task, whole)
	e.deliveries.add(p, due)
}

// gossip broadcasts an item, if it fits a packet.
func (e *Engine) gossip(key string, it item) {
	w := e.writer()
	it.number = 0
	w.add(&it)
	b := w.message()
	if len(b) > maxGossip {
		return // delivery and anti-entropy carry it
	}
	e.seen.add(maphash.Bytes(e.seen.seed, b)) // it is no news to us when it comes back
	_ = e.cfg.Network.Broadcast(key, b)       // what is lost comes by delivery or anti-entropy
}

// Raise ends the sessions that a watermark covers, here and on every node. Returns what ended here. With an
// error of the store they have ended nevertheless.
func (e *Engine) Raise(w session.Watermark) ([]session.Ending, error) {
	if w.End.At.IsZero() { // it is to be the same everywhere
		w.End.At = e.cfg.Clock.Wall()
	}
	it, err := encodeWatermark(&w)
	if err != nil {
		return nil, fmt.Errorf("raise watermark: %w", err)
	}
	defer e.told.begin(&w.End)()
	news, endings, err := e.cfg.Table.Raise(w)
	if news {
		e.tell(outboxKey{kind: itemWatermark, name: watermarkName(&w)}, it, 0, nil)
		e.gossip(watermarkName(&w), it)
	}
	return endings, err
}

// raise takes over the watermark of another node.
func (e *Engine) raise(w session.Watermark) (news bool, err error) {
	defer e.told.begin(&w.End)()
	news, endings, err := e.cfg.Table.Raise(w)
	e.recent.add(endings, e.cfg.Clock.Boot())
	return news, err
}

func watermarkName(w *session.Watermark) string {
	return fmt.Sprintf("w/%s\x00%s\x00%s\x00%s\x00%x\x00%t", w.Issuer, w.Subject, w.SID, w.Origin.Node, w.Origin.Boot, w.Fresh != 0)
}

// raising is the ends of watermarks that are being raised. Each node ends their sessions by itself, and need
// not tell all others of each one of them.
type raising struct {
	mu   sync.Mutex
	ends map[string]int
}

func endName(e *session.End) string { return string(appendEnd(nil, e)) }

// begin returns what is to be called when the watermark was raised.
func (r *raising) begin(end *session.End) (done func()) {
	name := endName(end)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ends == nil {
		r.ends = map[string]int{}
	}
	r.ends[name]++
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.ends[name]--; r.ends[name] == 0 {
			delete(r.ends, name)
		}
	}
}

func (r *raising) covers(end *session.End) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.ends) > 0 && r.ends[endName(end)] > 0
}
