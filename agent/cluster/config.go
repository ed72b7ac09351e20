// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// Network carries bytes between members that know each other's names for sure. It is safe for concurrent use.
type Network interface {
	// Send sends a packet, of 1,100 bytes mostly, at most 63 KiB. It never blocks and may lose it.
	Send(to string, data []byte) error
	// Request sends up to 1.1 MiB over a stream and returns the reply of the other engine's Serve, or an
	// error that says what went wrong.
	Request(ctx context.Context, to string, data []byte) ([]byte, error)
	// Broadcast hands a message of at most 1,000 bytes to gossip; a later one with the same key replaces it
	// in the queue.
	Broadcast(key string, data []byte) error
}

// Membership knows who is there.
type Membership interface {
	Members() []Member // ourselves included
}

// Member is a node as membership sees it.
type Member struct {
	Name  string
	State MemberState
}

// MemberState is what membership believes of a node.
type MemberState string

// What a node can be.
const (
	Alive   MemberState = "alive"
	Suspect MemberState = "suspect" // did not answer lately
	Dead    MemberState = "dead"
	Left    MemberState = "left"   // said good-bye
	Absent  MemberState = "absent" // known from before, not seen since this node started
)

// reachable reports whether it is worth sending something.
func (s MemberState) reachable() bool { return s == Alive || s == Suspect }

// EndedSession names a session that has ended here, to all nodes and in this one's kernel.
type EndedSession struct {
	ID     session.ID
	Number uint64
}

// Outcome is what became of the connections of sessions that another node ended.
type Outcome struct {
	Destroyed int  // connections that were destroyed for it
	Gone      int  // that had ended by themselves
	Left      int  // that are still there
	Verified  bool // sockets were listed afterwards
}

// Config is what an Engine needs. Callbacks are called from the engine's goroutines and without locks; those
// that say nothing else must not block.
type Config struct {
	Clock      session.Clock
	Timebase   *Timebase // knows this node's Origin
	Table      *session.Table
	Network    Network
	Membership Membership

	// Peers are the names of other nodes that were members when this one last ran. Alone: there is no other
	// node that could know what this one missed.
	Peers []string
	Alone bool

	// Outcome waits until it is known what became of the connections of sessions that an order of
	// another node ended. Optional: without it nothing is verified.
	Outcome func(context.Context, []EndedSession) (Outcome, error)
	// Resolve names the sessions that match the request of another node; the list is the engine's from then on.
	// It may take its time, and is called once for each 65,536 sessions. Optional.
	Resolve func(ctx context.Context, request []byte) ([]session.ID, error)
	// Answer answers what another node asks this one with Engine.Ask. It may take its time. Optional.
	Answer func(ctx context.Context, from string, request []byte) ([]byte, error)
	// Documents returns all that others should have, each at most 60 KiB; Document takes one over, and
	// may take its time. It must expect those that it has, and forged ones. Optional, both.
	Documents func() []Document
	Document  func(from string, d Document) error

	// OnSkew is called when the wall clock of another node goes more than a second apart from ours, and when
	// it comes back. OnMajority is called when this node loses sight of the majority, and when it has
	// it again. OnReady is called once. Optional, all.
	OnSkew     func(Skew)
	OnMajority func(Majority)
	OnReady    func()

	// Count adds n to the counter of this name. Optional.
	Count func(name string, n int)
	Log   *slog.Logger // optional
}

func (c *Config) validate() error {
	switch {
	case c.Clock == nil, c.Timebase == nil, c.Table == nil, c.Network == nil, c.Membership == nil:
		return errors.New("cluster: Clock, Timebase, Table, Network and Membership are required")
	case c.Timebase.Self().Node == "" || len(c.Timebase.Self().Node) > maxNode:
		return errors.New("cluster: the timebase's node needs a name of 1 to 64 bytes")
	}
	if c.Count == nil {
		c.Count = func(string, int) {}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Names of counters. Those that count what was refused or lost are worth an alarm when they grow steadily.
const (
	CountSent         = "packets_sent"
	CountReceived     = "packets_received"
	CountMalformed    = "messages_malformed"  // refused: a bug, or an attack by a member
	CountUnknown      = "messages_unknown"    // of a later version, ignored
	CountUnknownItems = "items_unknown"       // of a later version, ignored
	CountRetransmits  = "items_retransmitted" // not acknowledged in time
	CountOverflow     = "outbox_overflows"    // left to anti-entropy
	CountInboxFull    = "items_not_taken"     // to be sent again by their sender
	CountNoClock      = "items_without_clock" // likewise
	CountMergeErrors  = "merge_errors"        // not durable: the disk
	CountTooLong      = "records_too_long"    // could not be told to others
	CountRounds       = "sync_rounds"         // of anti-entropy, completed
	CountRoundErrors  = "sync_errors"         // not completed
	CountIncomplete   = "sync_incomplete"     // the other told what this node could not take over
	CountBusy         = "sync_busy"           // the other served somebody else
	CountPulled       = "sync_records_pulled" // missed by delivery
	CountPushed       = "sync_records_pushed" // likewise, on the other side
	CountFinds        = "finds"               // unknown keys that others were asked for
	CountFound        = "finds_found"         // that another knew
	CountFindsLimited = "finds_limited"       // not asked: too many strangers
	CountKillsSilent  = "kills_with_silent"   // kills that some node did not answer
)

// Timing: how much traffic there is, and how soon. Nothing that nodes have to agree upon.
const (
	resendFirst = 5 * time.Millisecond // or one and a half round trips
	resendLast  = 200 * time.Millisecond

	batchActivity = 50 * time.Millisecond

	syncEvery    = time.Second // to twice that
	syncSpacing  = 50 * time.Millisecond
	digestLimit  = 3 * time.Second // the beginning of a round, while there are others to turn to
	requestLimit = 10 * time.Second

	// Patience is how long a kill waits for nodes when its caller does not say.
	Patience = 5 * time.Second
)
