// SPDX-License-Identifier: Apache-2.0

package gossip

import (
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/curfew-proxy/curfew/gossip/mesh"
)

// State of a member as this node sees it.
type State string

// States of members.
const (
	Alive   State = "alive"
	Suspect State = "suspect" // is not connected, but not given up yet
	Dead    State = "dead"
	Left    State = "left" // said goodbye
)

// Member is a node of the cluster. Whoever gets it owns it.
type Member struct {
	Name  string
	Addr  string // host:port
	State State
	Since time.Time // of State, at this node
	Meta  []byte
}

// Members returns this node and all others that are known, by name: also those that are gone, until Forget.
func (c *Cluster) Members() []Member {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := []Member{{Name: c.cfg.Name, Addr: c.cfg.Advertise.String(), State: Alive, Meta: c.cfg.Meta()}}
	for name, k := range c.known {
		m := Member{Name: name, Addr: k.addr, State: k.state, Since: k.since, Meta: slices.Clone(k.meta)}
		if m.State == Alive && !c.cfg.Carrier.Up(name) { // memberlist keeps its suspicions to itself
			m.State = Suspect
		}
		list = append(list, m)
	}
	slices.SortFunc(list, func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// Forget drops what is remembered of a member that was removed.
func (c *Cluster) Forget(name string) {
	c.mu.Lock()
	delete(c.known, name)
	c.mu.Unlock()
	c.hasChanged()
}

// What a member's metadata begins with. Memberlist does not tell whether a node has left or died, so that one
// that leaves says so itself, before.
const (
	metaStaying = 0
	metaLeaving = 1
)

// Update tells the other members of a changed Meta.
func (c *Cluster) Update() error {
	if err := c.list.UpdateNode(streamTimeout); err != nil {
		return fmt.Errorf("gossip: %w", err)
	}
	return nil
}

// remembered are the members that are worth looking for after a restart.
func (c *Cluster) remembered() []mesh.Peer {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []mesh.Peer
	for name, k := range c.known {
		if k.state != Left && !c.cfg.Removed(name) {
			list = append(list, mesh.Peer{Name: name, Addr: k.addr})
		}
	}
	slices.SortFunc(list, func(a, b mesh.Peer) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// note remembers what memberlist says of a member. It is called under memberlist's lock.
func (c *Cluster) note(n *memberlist.Node, state State) {
	if n.Name == c.cfg.Name {
		return
	}
	addr := net.JoinHostPort(n.Addr.String(), strconv.Itoa(int(n.Port)))
	c.mu.Lock()
	k := c.known[n.Name]
	if len(n.Meta) > 0 {
		k.leaving, k.meta = n.Meta[0] == metaLeaving, slices.Clone(n.Meta[1:])
	}
	if state == Dead && k.leaving {
		state = Left
	}
	if k.state != state {
		k.since = time.Now()
	}
	k.state, k.addr = state, addr
	c.known[n.Name] = k
	c.mu.Unlock()
	c.hasChanged()
}

// events implements memberlist.EventDelegate.
type events struct{ *Cluster }

func (e events) NotifyJoin(n *memberlist.Node)   { e.note(n, Alive) }
func (e events) NotifyUpdate(n *memberlist.Node) { e.note(n, Alive) }
func (e events) NotifyLeave(n *memberlist.Node)  { e.note(n, Dead) }

// admission implements memberlist.AliveDelegate: a member is one only if it has proved its name. Who has
// not yet is asked to, and admitted the next time that its name comes up.
type admission struct{ *Cluster }

func (a admission) NotifyAlive(n *memberlist.Node) error {
	switch {
	case n.Name == a.cfg.Name:
		return nil
	case a.cfg.Removed(n.Name):
		return fmt.Errorf("node %s was removed", n.Name)
	case a.cfg.Carrier.Up(n.Name):
		return nil
	}
	addr := net.JoinHostPort(n.Addr.String(), strconv.Itoa(int(n.Port)))
	_ = a.cfg.Carrier.Send(mesh.Peer{Name: n.Name, Addr: addr}, mesh.KindApplication, nil) // makes the carrier connect, if it can
	a.cfg.Count(EventPhantom)
	return fmt.Errorf("node %s at %s has not proved its name yet", n.Name, addr)
}
