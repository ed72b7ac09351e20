// SPDX-License-Identifier: Apache-2.0

package sim

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/curfew-proxy/curfew/agent/cluster"
	"github.com/curfew-proxy/curfew/agent/session"
	"github.com/curfew-proxy/curfew/gossip"
	"github.com/curfew-proxy/curfew/gossip/memnet"
	"github.com/curfew-proxy/curfew/gossip/mesh"
)

// node is a host: what outlives its processes.
type node struct {
	world *world
	index int
	name  string
	addr  netip.AddrPort
	clock *clock
	store *store
	away  atomic.Bool // it restarts

	mu    sync.Mutex
	life  *life                        // nil: it is down
	peers []mesh.Peer                  // that it remembers
	ended map[session.ID]time.Time     // what has ended here, and must never live again
	sent  memnet.Traffic               // by lives that are over
	lives int                          // how many there were
	conns map[*session.Connection]bool // that live; guarded as the rest
}

// life is one run of a node's process.
type life struct {
	node    *node
	since   time.Time
	carrier *memnet.Node
	table   *session.Table
	base    *cluster.Timebase
	members *gossip.Cluster
	engine  *cluster.Engine
	answers atomic.Int64 // requests of ours that were answered
	ready   atomic.Bool  // OnReady was called
	settled []session.ID // what had ended on every other node when this life began
	end     func() error
}

func newNode(w *world, i int, boot, wall time.Duration, ppm int64) *node {
	return &node{
		world: w, index: i, name: fmt.Sprint("n", i),
		addr:  netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 7946),
		clock: &clock{start: time.Now(), boot: boot, wall: wall, ppm: ppm}, store: newStore(),
		ended: map[session.ID]time.Time{}, conns: map[*session.Connection]bool{},
	}
}

// running returns the life that the node has, or nil.
func (n *node) running() *life {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.life
}

// origin is the node's clock as others name it.
func (n *node) origin() session.Origin {
	return session.Origin{Node: n.name, Boot: uint64(n.index + 1)}
}

// when returns the true time at which the node's clock reads what it is given.
func (n *node) when(at session.OriginTime) time.Time {
	passed := float64(time.Duration(at)-n.clock.boot) / (1 + float64(n.clock.ppm)/1e6)
	return n.clock.start.Add(time.Duration(passed))
}

// hasEnded is session.TableConfig.OnEnd.
func (l *life) hasEnded(e session.Ending) {
	l.engine.Ended(e)
	n := l.node
	n.mu.Lock()
	if _, before := n.ended[e.Session.ID]; before {
		n.world.fail("(2) %s: session %s ends there a second time", n.name, e.Session.ID.Short())
	}
	n.ended[e.Session.ID] = time.Now()
	for _, c := range e.Conns {
		delete(n.conns, c)
	}
	n.mu.Unlock()
	n.world.book.noteEnd(n, e)
}

// isReady is cluster.Config.OnReady: what had ended everywhere else must have ended here by now.
func (l *life) isReady() {
	l.ready.Store(true)
	for _, id := range l.settled {
		if _, err := l.table.ByID(id); err == nil {
			l.node.world.fail("(6) %s is ready and session %s lives there, which had ended on all other nodes", l.node.name, id.Short())
		}
	}
}

// Receive, Serve and Gossiped implement gossip.Handler.
func (l *life) Receive(from string, data []byte) { l.engine.Receive(from, data) }
func (l *life) Gossiped(data []byte) bool        { return l.engine.Gossiped(data) }
func (l *life) Serve(from string, request []byte) ([]byte, error) {
	return l.engine.Serve(from, request)
}

// Send, Request and Broadcast implement cluster.Network.
func (l *life) Send(to string, data []byte) error { return l.members.Send(to, data) }

func (l *life) Broadcast(key string, data []byte) error { return l.members.Broadcast(key, data) }

func (l *life) Request(ctx context.Context, to string, data []byte) ([]byte, error) {
	b, err := l.members.Request(ctx, to, data)
	if err == nil {
		l.answers.Add(1)
	}
	return b, err
}

// Members implements cluster.Membership.
func (l *life) Members() []cluster.Member {
	var list []cluster.Member
	for _, m := range l.members.Members() {
		list = append(list, cluster.Member{Name: m.Name, State: cluster.MemberState(m.State)})
	}
	return list
}

// sees returns how many members the node takes to be alive, itself included.
func (l *life) sees() (alive int) {
	for _, m := range l.members.Members() {
		if m.State == gossip.Alive {
			alive++
		}
	}
	return alive
}

func ended(err error) bool {
	var e *session.EndedError
	return errors.As(err, &e)
}
