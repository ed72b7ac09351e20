// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"context"
	"fmt"
	"hash/fnv"
	"slices"

	"github.com/hashicorp/memberlist"
)

// Bounds of broadcasts.
const (
	MaxBroadcast  = 1000 // bytes: one that does not fit into a packet would wait for ever
	maxBroadcasts = 1024 // waiting: what is sent in half a minute; later, delivery and anti-entropy have done it
	castBacklog   = 4096
	keySize       = 8
)

// broadcasts carries messages to all members by gossip: each passes on what is news to it, a few times.
type broadcasts struct {
	cluster  *Cluster
	queue    memberlist.TransmitLimitedQueue
	incoming chan broadcast
}

func newBroadcasts(c *Cluster) *broadcasts {
	b := &broadcasts{cluster: c, incoming: make(chan broadcast, castBacklog)}
	b.queue.RetransmitMult = retransmitMult
	b.queue.NumNodes = func() int { return c.list.NumMembers() }
	return b
}

// Broadcast sends data to all members by gossip, best effort. A later one with the same key takes the place
// of an earlier one that is on its way, also where members pass it on. It does not keep data.
func (c *Cluster) Broadcast(key string, data []byte) error {
	if len(data) > MaxBroadcast {
		return fmt.Errorf("broadcast of %d bytes: at most %d fit", len(data), MaxBroadcast)
	}
	hash := fnv.New64a()
	_, _ = hash.Write([]byte(key)) // a hash takes everything
	c.cast.send(append(hash.Sum(make([]byte, 0, keySize+len(data))), data...))
	return nil
}

func (b *broadcasts) send(m broadcast) {
	b.queue.QueueBroadcast(m)
	if b.queue.NumQueued() > maxBroadcasts {
		b.queue.Prune(maxBroadcasts)
		b.cluster.cfg.Count(EventBroadcastFull)
	}
}

// work hands out what comes in, and passes on what is news.
func (b *broadcasts) work(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-b.incoming:
			if b.cluster.cfg.Handler.Gossiped(slices.Clone(m.data())) { // the handler owns what it gets
				b.send(m)
			}
		}
	}
}

// broadcast is a memberlist.NamedBroadcast: a hash of its key, then its data.
type broadcast []byte

// parseBroadcast checks what came from a member. It does not keep b.
func parseBroadcast(b []byte) (broadcast, error) {
	if len(b) < keySize || len(b) > keySize+MaxBroadcast {
		return nil, errMalformed
	}
	return slices.Clone(b), nil
}

func (b broadcast) data() []byte    { return b[keySize:] }
func (b broadcast) Name() string    { return string(b[:keySize]) }
func (b broadcast) Message() []byte { return b }
func (b broadcast) Finished()       {}
func (b broadcast) Invalidates(other memberlist.Broadcast) bool {
	named, ok := other.(memberlist.NamedBroadcast)
	return ok && named.Name() == b.Name()
}

// delegate implements memberlist.Delegate. Memberlist's exchange of full states carries none.
type delegate struct{ *Cluster }

func (d delegate) NodeMeta(int) []byte { return *d.meta.Load() }

func (d delegate) NotifyMsg(data []byte) {
	m, err := parseBroadcast(data) // a copy: memberlist uses the buffer again
	if err != nil {
		d.cfg.Count(EventMalformed)
		return
	}
	select {
	case d.cast.incoming <- m:
	default:
		d.cfg.Count(EventGossipFull)
	}
}

func (d delegate) GetBroadcasts(overhead, limit int) [][]byte {
	return d.cast.queue.GetBroadcasts(overhead, limit)
}

func (delegate) LocalState(bool) []byte        { return nil }
func (delegate) MergeRemoteState([]byte, bool) {}
