// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
)

// Watermarks may be many, when a provider signs out everybody, and are exchanged as sessions are:
//
//	DIGEST      the XOR of our hashes in each of 256 buckets  -> theirs, and the hashes in those that differ
//	PULL_MARKS  hashes that we do not have                    -> their watermarks
//	PUSH        our watermarks of those buckets that they do not have

// markList is all watermarks, as they are told, by their hashes. It is not changed once made.
type markList struct {
	items  items
	hashes []uint64 // of items, ascending
	fold   [buckets]uint64
}

// markBucket is the bucket that a hash is in: each has one range of a markList.
func markBucket(hash uint64) int { return int(hash >> 56) }

func newMarkList(list items) *markList {
	type hashed struct {
		hash uint64
		item *item
	}
	sorted := make([]hashed, len(list))
	for i := range list {
		sorted[i] = hashed{list[i].hash(), &list[i]}
	}
	slices.SortFunc(sorted, func(a, b hashed) int { return cmp.Compare(a.hash, b.hash) })
	l := &markList{items: make(items, len(list)), hashes: make([]uint64, len(list))}
	for i, h := range sorted {
		l.items[i], l.hashes[i] = *h.item, h.hash
		l.fold[markBucket(h.hash)] ^= h.hash
	}
	return l
}

// find returns the watermark of a hash, or nil.
func (l *markList) find(hash uint64) *item {
	if i, ok := slices.BinarySearch(l.hashes, hash); ok {
		return &l.items[i]
	}
	return nil
}

// differing returns the hashes in the buckets that differ from others', and how many buckets it has looked at: as many as fit.
func (l *markList) differing(theirs *[buckets]uint64) (hashes []uint64, covered int) {
	for rest := l.hashes; covered < buckets; covered++ {
		n, _ := slices.BinarySearchFunc(rest, covered+1, func(h uint64, b int) int { return markBucket(h) - b })
		if l.fold[covered] != theirs[covered] {
			if len(hashes) > 0 && len(hashes)+n > maxItems {
				break
			}
			hashes = append(hashes, rest[:n]...)
		}
		rest = rest[n:]
	}
	return hashes, covered
}

// markLists keeps the latest. Safe for concurrent use.
type markLists struct {
	mu      sync.Mutex
	version uint64 // of the table's watermarks
	now     *markList
}

// watermarks returns all watermarks. There may be many, and they are asked for in each round.
func (e *Engine) watermarks() *markList {
	m := &e.marks
	m.mu.Lock()
	defer m.mu.Unlock()
	version := e.cfg.Table.WatermarksVersion() // before: what comes meanwhile makes another one
	if m.now != nil && version == m.version {
		return m.now
	}
	var list items
	for _, w := range e.cfg.Table.Watermarks() {
		if it, err := encodeWatermark(&w); err == nil { // it was encoded before, to get here
			list = append(list, it)
		}
	}
	m.version, m.now = version, newMarkList(list)
	return m.now
}

// exchangeMarks makes a peer's watermarks and ours the same, by what it has answered to ours. With errLeft, not all are.
func (e *Engine) exchangeMarks(ctx context.Context, p *peer, ours *markList, theirs *markReply) error {
	if theirs == nil {
		return nil // they are
	}
	known := make(map[uint64]bool, len(theirs.hashes))
	var want []uint64
	for _, h := range theirs.hashes {
		if known[h] = true; ours.find(h) == nil {
			want = append(want, h)
		}
	}
	var give items
	for i, h := range ours.hashes {
		if b := markBucket(h); b < theirs.covered && ours.fold[b] != theirs.fold[b] && !known[h] {
			give = append(give, ours.items[i])
		}
	}
	left := e.pullAll(ctx, p, len(want), kindPullMarksReply,
		func(from, to int) []byte { return encodeHashes(kindPullMarks, want[from:to]) }, func(int) {})
	if left != nil && !errors.Is(left, errLeft) {
		return left
	}
	if theirs.covered < buckets {
		left = cmp.Or(left, errLeft)
	}
	return cmp.Or(e.push(ctx, p, give), left)
}

// servePullMarks answers for as many of the watermarks as fit.
func (e *Engine) servePullMarks(body []byte) ([]byte, error) {
	hashes, err := decodePullMarks(body)
	if err != nil {
		return nil, err
	}
	ours := e.watermarks()
	var list items
	var at []int // in hashes, of those in list
	for i, h := range hashes {
		if it := ours.find(h); it != nil { // else it was raised meanwhile, or forgotten
			list, at = append(list, *it), append(at, i)
		}
	}
	c := carrier{covered: len(hashes)}
	var n int
	if c.state, n = e.pack(list, maxChunk); n < len(list) {
		c.covered = at[n]
	}
	return encodeCarrier(kindPullMarksReply, c), nil
}
