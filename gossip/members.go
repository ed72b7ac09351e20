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

// known is what is remembered of a member.
type known struct {
	addr  string // as memberlist has it
	told  string // by the member itself, since memberlist admitted it; empty: nothing
	state State
	since time.Time
	meta  []byte

	leaving bool // it said so last
}

func (k known) reach() string {
	if k.told != "" {
		return k.told
	}
	return k.addr
}

// Members returns this node and all others that are known, by name: also those that are gone, until Forget.
func (c *Cluster) Members() []Member {
	self := Member{Name: c.cfg.Name, Addr: c.cfg.Advertise.String(), State: Alive, Since: c.started, Meta: slices.Clone(*c.meta.Load())}
	if c.leaving.Load() {
		self.State = Left
	}
	c.mu.Lock()
	list := make([]Member, 0, 1+len(c.known))
	for name, k := range c.known {
		list = append(list, Member{Name: name, Addr: k.reach(), State: k.state, Since: k.since, Meta: slices.Clone(k.meta)})
	}
	c.mu.Unlock()
	list = slices.DeleteFunc(list, func(m Member) bool { return c.cfg.Removed(m.Name) })
	for i := range list {
		if m := &list[i]; m.State == Alive && !c.cfg.Carrier.Up(m.Name) { // memberlist keeps its suspicions to itself
			m.State = Suspect
		}
	}
	list = append(list, self)
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

// peer is how a member is reached.
func (c *Cluster) peer(name string) (mesh.Peer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k, ok := c.known[name]
	if !ok {
		return mesh.Peer{}, fmt.Errorf("%s: %w", name, ErrNoMember)
	}
	return mesh.Peer{Name: name, Addr: k.reach()}, nil
}

// peers returns the members of which ok is true and that were not removed, by name.
func (c *Cluster) peers(ok func(known) bool) []mesh.Peer {
	var list []mesh.Peer
	c.mu.Lock()
	for name, k := range c.known {
		if ok(k) {
			list = append(list, mesh.Peer{Name: name, Addr: k.reach()})
		}
	}
	c.mu.Unlock()
	list = slices.DeleteFunc(list, func(p mesh.Peer) bool { return c.cfg.Removed(p.Name) })
	slices.SortFunc(list, func(a, b mesh.Peer) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// heard notes what a member says of itself.
func (c *Cluster) heard(name string, h head) {
	addr := h.addr.String()
	c.mu.Lock()
	defer c.mu.Unlock()
	k, ok := c.known[name]
	if !ok || k.reach() == addr && k.leaving == h.leaving {
		return
	}
	k.leaving = h.leaving
	if k.reach() != addr {
		k.told = addr
	}
	if k.state == Dead && k.leaving { // its goodbye came after the news
		k.state = Left
	}
	c.known[name] = k
	c.hasChanged()
}

// isElsewhere reports whether a member says that it is not where memberlist believes it to be.
func (c *Cluster) isElsewhere(a memberlist.Address) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	k, ok := c.known[a.Name]
	return ok && k.state == Alive && k.addr == a.Addr && k.reach() != a.Addr
}

// note remembers what memberlist says of a member. It is called under memberlist's lock.
func (c *Cluster) note(n *memberlist.Node, state State) {
	if n.Name == c.cfg.Name {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	k, ok := c.known[n.Name]
	if !ok && state == Dead {
		return // it was forgotten meanwhile
	}
	k.meta = slices.Clone(n.Meta)
	switch {
	case state == Dead && k.leaving:
		state = Left
	case state == Alive && k.state != Alive:
		k.leaving = false // it was its earlier self that said so
	}
	if k.state != state {
		k.since, k.told = time.Now(), ""
	}
	k.state, k.addr = state, addrOfNode(n)
	c.known[n.Name] = k
	delete(c.unproved, n.Name)
	c.hasChanged()
}

func addrOfNode(n *memberlist.Node) string {
	return net.JoinHostPort(n.Addr.String(), strconv.Itoa(int(n.Port)))
}

// events implements memberlist.EventDelegate.
type events struct{ *Cluster }

func (e events) NotifyJoin(n *memberlist.Node)   { e.note(n, Alive) }
func (e events) NotifyUpdate(n *memberlist.Node) { e.note(n, Alive) }
func (e events) NotifyLeave(n *memberlist.Node)  { e.note(n, Dead) }
