// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

var (
	errNobody     = errors.New("not a peer")
	errUnknown    = errors.New("unknown request")
	errNotOffered = errors.New("not offered here")
)

// Serve answers a request of a member, which may take some seconds. It is safe for concurrent use; its caller
// bounds how many run.
func (e *Engine) Serve(from string, request []byte) ([]byte, error) {
	p := e.peer(from)
	if p == nil {
		return nil, errNobody
	}
	ctx, cancel := context.WithTimeout(e.lifetime, requestLimit)
	defer cancel()
	kind, body, err := openMessage(request, maxRequest)
	if err != nil {
		e.refused(from, err)
		return nil, err
	}
	reply, err := e.serve(ctx, p, kind, body)
	if errors.Is(err, errMalformed) || errors.Is(err, errTooLong) {
		e.refused(from, err)
	}
	return reply, err
}

func (e *Engine) serve(ctx context.Context, p *peer, kind messageKind, body []byte) ([]byte, error) {
	switch kind {
	case kindDigest:
		return e.serveDigest(ctx, p, body)
	case kindSummaries:
		defer e.serving.extend(p.name, e.cfg.Clock)
		return e.serveSummaries(body)
	case kindPull:
		defer e.serving.extend(p.name, e.cfg.Clock)
		return e.servePull(body)
	case kindPullMarks:
		return e.servePullMarks(body)
	case kindPush:
		defer e.serving.extend(p.name, e.cfg.Clock)
		return e.servePush(ctx, p, body)
	case kindFind:
		return e.serveFind(body)
	case kindResolve:
		return e.serveResolve(ctx, body)
	case kindAsk:
		return e.serveAsk(ctx, p, body)
	}
	e.cfg.Count(CountUnknown, 1)
	return nil, fmt.Errorf("kind %d: %w", kind, errUnknown)
}

func (e *Engine) serveDigest(ctx context.Context, p *peer, body []byte) ([]byte, error) {
	d, err := decodeDigest(body)
	if err != nil {
		return nil, err
	}
	if _, err := e.adopt(ctx, p, d.state); err != nil {
		return nil, err
	}
	documents := e.documents()
	reply := digestReply{documents: documents.hashes(), leaves: map[byte]*[leaves]uint64{}}
	if marks := e.watermarks(); marks.fold != d.marks {
		reply.marks = &markReply{fold: marks.fold}
		reply.marks.hashes, reply.marks.covered = marks.differing(&d.marks)
	}
	give := documents.without(d.documents)
	var packed int
	reply.state, packed = e.pack(give, maxChunk/4) // what does not fit we push, in the round that we begin
	reply.partial = packed < len(give)
	if e.cfg.Table.Fold() != d.fold {
		if reply.busy = e.takesFromOther(p) || !e.serving.take(p.name, e.cfg.Clock); !reply.busy {
			e.addLeaves(&reply, &d.fold)
		}
	}
	return encodeDigestReply(&reply), nil
}

// addLeaves adds the leaves of the buckets that differ.
func (e *Engine) addLeaves(reply *digestReply, theirs *[buckets]uint64) {
	digest := e.cfg.Table.Digest()
	for i, sum := range digest.Fold() {
		if sum != theirs[i] {
			l := digest.Leaves(byte(i))
			reply.leaves[byte(i)] = &l
		}
	}
}

// serveSummaries answers for as many of the leaves as fit.
func (e *Engine) serveSummaries(body []byte) ([]byte, error) {
	r, err := decodeSummaries(body)
	if err != nil {
		return nil, err
	}
	if !slices.IsSorted(r.leaves) || len(r.leaves) == 0 {
		return nil, fmt.Errorf("leaves out of order: %w", errMalformed)
	}
	set := make(map[uint16]bool, len(r.leaves))
	for _, l := range r.leaves {
		set[l] = true
	}
	all := e.cfg.Table.Summaries(set)
	slices.SortFunc(all, func(a, b session.Summary) int { return slices.Compare(a.ID[:], b.ID[:]) })
	reply := summariesReply{covered: len(r.leaves), summaries: all}
	if most := maxChunk / summarySize; len(all) > most {
		// Up to the leaf that the limit falls into; one that is longer than that by itself goes whole.
		cut := session.LeafOf(all[most].ID)
		if cut == session.LeafOf(all[0].ID) {
			cut++
		}
		reply.covered, _ = slices.BinarySearch(r.leaves, cut)
		n, _ := slices.BinarySearchFunc(all, cut, func(s session.Summary, l uint16) int { return int(session.LeafOf(s.ID)) - int(l) })
		reply.summaries = all[:n]
	}
	return encodeSummariesReply(&reply), nil
}

// servePull answers for as many of the sessions as fit.
func (e *Engine) servePull(body []byte) ([]byte, error) {
	ids, err := decodeIDs(body)
	if err != nil {
		return nil, err
	}
	c := carrier{covered: len(ids)}
	list := e.recordItems(ids)
	state, n := e.pack(list, maxChunk)
	c.state = state
	if n < len(list) {
		first, _ := decodeRecord(list[n].body) // encoded a moment ago
		c.covered = slices.Index(ids, first.ID)
	}
	return encodeCarrier(kindPullReply, c), nil
}

func (e *Engine) servePush(ctx context.Context, p *peer, body []byte) ([]byte, error) {
	c, err := decodeCarrier(body)
	if err != nil {
		return nil, err
	}
	if len(body) > muchAtOnce && e.takesFromOther(p) {
		return encodeCarrier(kindPushReply, carrier{busy: true}), nil
	}
	n, err := e.adopt(ctx, p, c.state)
	if errors.Is(err, errLeft) {
		err = nil // what was not taken differs in the next round still
	}
	return encodeCarrier(kindPushReply, carrier{covered: n}), err
}

func (e *Engine) serveFind(body []byte) ([]byte, error) {
	key, err := decodeFind(body)
	if err != nil {
		return nil, err
	}
	var c carrier
	if r, ok := e.cfg.Table.RecordOf(key); ok {
		if it, ok := e.encoded(encodeCreate(&r)); ok {
			c.state, c.covered = e.pack([]item{it}, maxChunk)
		}
	}
	return encodeCarrier(kindFindReply, c), nil
}

// serveResolve answers with as many of the sessions as fit.
func (e *Engine) serveResolve(ctx context.Context, body []byte) ([]byte, error) {
	request, err := decodeResolve(body)
	if err != nil {
		return nil, err
	}
	if e.cfg.Resolve == nil {
		return nil, errNotOffered
	}
	ids, err := e.cfg.Resolve(ctx, request.selector)
	if err != nil {
		return nil, err
	}
	ids = slices.DeleteFunc(ids, func(id session.ID) bool { return compareIDs(id, request.after) <= 0 })
	slices.SortFunc(ids, compareIDs)
	ids = slices.Compact(ids)
	ids = ids[:min(len(ids), maxIDs)]
	return encodeIDs(kindResolveReply, ids), nil
}

// A node that compares many sessions with one member does not want to be told the same by others: it has no leaves for them and
// takes only so many bytes at once from them.
const (
	manyLeaves = 1 << 10 // that differ
	muchAtOnce = 64 << 10
)

func (e *Engine) takesFromOther(p *peer) bool {
	from := e.taking.Load()
	return from != nil && from != p
}

// servingToken lets one node at a time find out what differs and transfer it, so that a node that has just joined
// is not given everything by everyone at once.
type servingToken struct {
	mu     sync.Mutex
	holder string
	until  session.Instant
}

// servingLease is how long the holder may take between two requests.
const servingLease = 300 * time.Millisecond

func (t *servingToken) take(node string, clock session.Clock) bool {
	now := clock.Boot()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.holder != node && now < t.until {
		return false
	}
	t.holder, t.until = node, now.Add(servingLease)
	return true
}

// extend renews the lease when a request of the holder has been served.
func (t *servingToken) extend(node string, clock session.Clock) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.holder == node {
		t.until = clock.Boot().Add(servingLease)
	}
}
