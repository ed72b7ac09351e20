// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// Anti-entropy finds what delivery and gossip missed: every second or two, with a random live member, and at
// once with one that appeared. Both nodes know the same when a round has completed:
//
//	DIGEST     our 256 buckets            -> the 256 leaves of each that differs; documents
//	SUMMARIES  leaves that differ         -> the hash of each session in them
//	PULL       sessions that differ       -> their records
//	PUSH       our records of those, and of what the other does not know
//
// Watermarks: see marks.go.

var errBusy = errors.New("it is serving another node")

// syncLoop has one round after the other until ctx is done, but for members with whom the last one failed.
func (e *Engine) syncLoop(ctx context.Context) {
	regular := e.cfg.Clock.Boot().Add(syncEvery) // when the next is due that nothing calls for
	for {
		now := e.cfg.Clock.Boot()
		p, next := e.partner(now, now >= regular)
		if p != nil {
			e.syncWith(ctx, p, digestLimit)
			now = e.cfg.Clock.Boot()
			if _, next = e.partner(now, false); next != 0 {
				next = max(next, now.Add(syncSpacing+rand.N(syncSpacing)))
			}
		}
		if now >= regular || p != nil {
			regular = now.Add(syncEvery + rand.N(syncEvery))
		}
		if !sleepUntil(ctx, e.cfg.Clock, session.Earliest(next, regular), e.syncWake) {
			return
		}
	}
}

// retryLoop has rounds with members with whom the last one failed. It is apart because they may take long to
// fail again, while the others go on.
func (e *Engine) retryLoop(ctx context.Context) {
	for sleepUntil(ctx, e.cfg.Clock, e.cfg.Clock.Boot().Add(syncEvery+rand.N(syncEvery)), nil) {
		failing := slices.DeleteFunc(slices.Clone(e.livePeers()), func(p *peer) bool { return !p.isFailing() })
		if len(failing) > 0 {
			e.syncWith(ctx, failing[rand.N(len(failing))], requestLimit)
		}
	}
}

// partner returns the member to have a round with: one that appeared, or any; and if there is none when to
// ask again for one that appeared, or zero.
func (e *Engine) partner(now session.Instant, any bool) (partner *peer, next session.Instant) {
	var appeared []*peer
	live := slices.DeleteFunc(slices.Clone(e.livePeers()), (*peer).isFailing)
	for _, p := range live {
		p.mu.Lock()
		switch {
		case !p.appeared:
		case now >= p.patient:
			appeared = append(appeared, p)
		default:
			next = session.Earliest(next, p.patient)
		}
		p.mu.Unlock()
	}
	switch {
	case len(appeared) > 0:
		return appeared[rand.N(len(appeared))], now
	case any && len(live) > 0:
		return live[rand.N(len(live))], next
	}
	return nil, next
}

// syncWith has a round with a peer, which is to answer its beginning within a limit.
func (e *Engine) syncWith(ctx context.Context, p *peer, limit time.Duration) {
	p.mu.Lock()
	p.appeared = false // before: it may appear again meanwhile
	p.mu.Unlock()
	err := e.round(ctx, p, limit)
	now := e.cfg.Clock.Boot()
	switch {
	case err == nil:
		e.cfg.Count(CountRounds, 1)
		p.roundCompleted(now)
		e.becomeReady()
	case ctx.Err() != nil:
	case errors.Is(err, errBusy):
		e.cfg.Count(CountBusy, 1)
		p.roundAgain(now.Add(servingLease + rand.N(servingLease)))
	case errors.Is(err, errNoClock):
		e.cfg.Count(CountIncomplete, 1)
		p.roundAgain(now.Add(syncSpacing + rand.N(syncSpacing)))
	case errors.Is(err, errLeft):
		e.cfg.Count(CountIncomplete, 1)
		p.roundAgain(now.Add(servingLease + rand.N(servingLease)))
	default:
		e.cfg.Count(CountRoundErrors, 1)
		e.cfg.Log.Warn("anti-entropy", "node", p.name, "error", err)
		p.roundFailed()
	}
}

// round is one round of anti-entropy with a peer. With errLeft, this node does not know all that it was told.
func (e *Engine) round(ctx context.Context, p *peer, limit time.Duration) error {
	ours := e.documents()
	marks := e.watermarks()
	clocks, _ := e.pack(nil, 0)
	request := digestRequest{fold: e.cfg.Table.Fold(), documents: ours.hashes(), marks: marks.fold, state: clocks}
	reply, err := e.digest(ctx, p, &request, limit)
	if err != nil {
		return err
	}
	_, left := e.adopt(ctx, p, reply.state)
	switch {
	case left != nil && !errors.Is(left, errLeft):
		return left
	case reply.busy:
		return errBusy
	case left == nil && reply.partial:
		left = errLeft
	}
	if err := e.push(ctx, p, ours.without(reply.documents)); err != nil {
		return err
	}
	if err := e.exchangeMarks(ctx, p, marks, reply.marks); errors.Is(err, errLeft) {
		left = cmp.Or(left, err)
	} else if err != nil {
		return err
	}
	return cmp.Or(e.reconcile(ctx, p, reply.leaves), left)
}

// digest begins a round.
func (e *Engine) digest(ctx context.Context, p *peer, d *digestRequest, limit time.Duration) (digestReply, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	body, err := e.request(ctx, p, encodeDigest(d), kindDigestReply)
	if err != nil {
		return digestReply{}, err
	}
	return decodeDigestReply(body)
}

// reconcile exchanges the sessions below leaves that differ.
func (e *Engine) reconcile(ctx context.Context, p *peer, theirs map[byte]*[leaves]uint64) error {
	differ := e.differing(theirs)
	if len(differ) == 0 {
		return nil
	}
	if len(differ) > manyLeaves && e.taking.CompareAndSwap(nil, p) {
		defer e.taking.Store(nil)
	}
	set := make(map[uint16]bool, len(differ))
	for _, l := range differ {
		set[l] = true
	}
	ours := map[session.ID]uint64{}
	for _, s := range e.cfg.Table.Summaries(set) {
		ours[s.ID] = s.Hash
	}
	var want []session.ID
	for len(differ) > 0 {
		r, err := e.summaries(ctx, p, differ)
		if err != nil {
			return err
		}
		differ = differ[r.covered:]
		for _, s := range r.summaries {
			if ours[s.ID] != s.Hash {
				want = append(want, s.ID)
			} else {
				delete(ours, s.ID)
			}
		}
	}
	// What differs goes both ways; what is left of ours the peer does not know.
	give := make([]session.ID, 0, len(ours))
	for id := range ours {
		give = append(give, id)
	}
	// In the order of the peer's session file, as want is: neighbours share its pages.
	slices.SortFunc(give, func(a, b session.ID) int { return bytes.Compare(a[:], b[:]) })
	left := e.pull(ctx, p, want)
	if left != nil && !errors.Is(left, errLeft) {
		return left
	}
	return cmp.Or(e.pushRecords(ctx, p, give), left)
}

// differing returns the leaves that are not the same here, in order.
func (e *Engine) differing(theirs map[byte]*[leaves]uint64) []uint16 {
	var list []uint16
	if len(theirs) == 0 {
		return nil
	}
	digest := e.cfg.Table.Digest()
	for bucket, l := range theirs {
		ours := digest.Leaves(bucket)
		for i := range ours {
			if ours[i] != l[i] {
				list = append(list, uint16(bucket)<<8|uint16(i))
			}
		}
	}
	slices.Sort(list)
	return list
}

func (e *Engine) summaries(ctx context.Context, p *peer, leaves []uint16) (summariesReply, error) {
	body, err := e.request(ctx, p, encodeSummaries(summariesRequest{leaves}), kindSummariesReply)
	if err != nil {
		return summariesReply{}, err
	}
	r, err := decodeSummariesReply(body)
	if err == nil && (r.covered <= 0 || r.covered > len(leaves)) {
		err = fmt.Errorf("summaries of %d leaves: %w", r.covered, errMalformed)
	}
	return r, err
}

// pullAtOnce is how many records, or watermarks, are asked for at a time.
const pullAtOnce = 4096

// pull asks for records. It goes on after errLeft, and returns it in the end.
func (e *Engine) pull(ctx context.Context, p *peer, want []session.ID) (left error) {
	return e.pullAll(ctx, p, len(want), kindPullReply,
		func(from, to int) []byte { return encodeIDs(kindPull, want[from:to]) },
		func(n int) { e.cfg.Count(CountPulled, n) })
}

// pullAll asks for so many things, whose names ask encodes, and takes over what the replies carry; got is told how many
// of them each answers. It goes on after errLeft, and returns it in the end.
func (e *Engine) pullAll(ctx context.Context, p *peer, want int, reply messageKind, ask func(from, to int) []byte, got func(n int)) (left error) {
	for from := 0; from < want; {
		n := min(want-from, pullAtOnce)
		body, err := e.request(ctx, p, ask(from, from+n), reply)
		if err != nil {
			return err
		}
		c, err := decodeCarrier(body)
		if err != nil {
			return err
		}
		if c.covered <= 0 || c.covered > n {
			return fmt.Errorf("%d of %d that were asked for: %w", c.covered, n, errMalformed)
		}
		if _, err := e.adopt(ctx, p, c.state); errors.Is(err, errLeft) {
			left = cmp.Or(left, err)
		} else if err != nil {
			return err
		}
		got(c.covered)
		from += c.covered
	}
	return left
}

func (e *Engine) pushRecords(ctx context.Context, p *peer, give []session.ID) error {
	for len(give) > 0 {
		n := min(len(give), pullAtOnce)
		items := e.recordItems(give[:n])
		if err := e.push(ctx, p, items); err != nil {
			return err
		}
		e.cfg.Count(CountPushed, len(items))
		give = give[n:]
	}
	return nil
}

// push sends items, in as many requests as it takes.
func (e *Engine) push(ctx context.Context, p *peer, items []item) error {
	for len(items) > 0 {
		state, n := e.pack(items, maxChunk)
		body, err := e.request(ctx, p, encodeCarrier(kindPush, carrier{state: state}), kindPushReply)
		if err != nil {
			return err
		}
		if c, err := decodeCarrier(body); err != nil {
			return err
		} else if c.busy {
			return errBusy
		}
		items = items[n:]
	}
	return nil
}

// pack packs as many items as fit into a limit, and returns how many those are. Along go the clocks of nodes that
// are gone, which the other node has no way to measure.
func (e *Engine) pack(items []item, limit int) (state []byte, n int) {
	w := e.writer()
	for _, o := range e.goneClocks() {
		w.mention(o)
	}
	for n < len(items) && w.fits(&items[n], limit) {
		w.add(&items[n])
		n++
	}
	return w.fieldsOnly(), n
}

// recordItems returns what is known of sessions.
func (e *Engine) recordItems(ids []session.ID) []item {
	var list []item
	for _, r := range e.cfg.Table.Records(ids) {
		encode := encodeCreate
		if r.Tombstone() {
			encode = encodeRevoke
		}
		if it, ok := e.encoded(encode(&r)); ok {
			list = append(list, it)
		}
	}
	return list
}

// request sends a request and returns the fields of its reply, which must be of a kind.
func (e *Engine) request(ctx context.Context, p *peer, message []byte, want messageKind) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, requestLimit)
	defer cancel()
	reply, err := e.cfg.Network.Request(ctx, p.name, message)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", p.name, err)
	}
	kind, body, err := openMessage(reply, maxRequest)
	if err == nil && kind != want {
		err = fmt.Errorf("reply of kind %d instead of %d: %w", kind, want, errMalformed)
	}
	if err != nil {
		e.refused(p.name, err)
	}
	return body, err
}
