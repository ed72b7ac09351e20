// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/cluster"
	"github.com/curfew-proxy/curfew/agent/control"
	"github.com/curfew-proxy/curfew/agent/session"
	"github.com/curfew-proxy/curfew/gossip"
	"github.com/curfew-proxy/curfew/gossip/trust"
)

// joinCluster makes this node a member of its cluster, if it is to be one.
func (p *proxyProcess) joinCluster(ctx context.Context) error {
	if p.cluster == nil {
		return nil
	}
	p.table.SetIdleGrace(idleGrace)
	return p.cluster.join(ctx)
}

// control is the node as the control API sees it; nil, not a nil pointer, where it is in no cluster.
func (n *clusterNode) control() control.Cluster {
	if n == nil {
		return nil
	}
	return n
}

// recall prepares a session that the store knew. One of before this node was in a cluster becomes its own; of
// the clocks of others, what was known when it was stored is known again.
func (n *clusterNode) recall(s *session.Session) {
	if s.Origin.Node == "" {
		s.Origin, s.Ends = n.time.Self(), session.OriginTime(s.Until)
		s.Born = cmp.Or(s.Ends-session.OriginTime(s.Deadline.Sub(s.Created)), 1) // zero would be none
		return
	}
	if s.Ended != nil {
		return // word of an end is kept for long where its deadline is not known: that says nothing of the clock
	}
	n.time.Adopt(s.Origin, time.Duration(s.Until)-time.Duration(s.Ends), recalledBound)
}

// recalledBound is how far off a deadline is taken to be that was stored by an earlier process.
const recalledBound = 10 * time.Millisecond

// kindTrust is what documents of gossip/trust travel as.
const kindTrust = 1

// becomeMember opens what this node knows of its cluster; joins one, if there is nothing and a token is at hand;
// or else makes one. It returns where other members are, if it has just joined.
func (n *clusterNode) becomeMember(ctx context.Context) (joined []string, err error) {
	b := n.p.bundle.Load()
	n.trust, err = trust.Open(n.dir, trust.Config{Log: n.p.log.With("part", "trust"), OnChange: n.trustChanged, Members: n.addresses})
	if err != nil {
		return nil, err
	}
	switch {
	case n.trust.Name() != "" && n.trust.Name() != b.Config.Name:
		return nil, &api.Error{Code: api.CodeBadRequest, Message: fmt.Sprintf("this node is %s in its cluster, and its configuration says name: %s", n.trust.Name(), b.Config.Name),
			Hint: "a node keeps its name; to join under another one, remove the node and delete " + n.dir}
	case n.trust.Name() != "":
		if b.Join != "" {
			n.p.log.Info("member already: the token is not used", "cluster", n.trust.Cluster())
		}
		return nil, nil
	case b.Join != "":
		return n.joinBy(ctx, b.Join, b.Config.Name)
	}
	n.p.log.Info("first node of a new cluster: let others join with curfew cluster token", "name", b.Config.Name)
	return nil, errors.Join(n.trust.Bootstrap(b.Config.Name), n.shareKey())
}

// addresses are where members are that answer, for one that joins.
func (n *clusterNode) addresses() []string {
	if n.members == nil {
		return nil
	}
	var list []string
	for _, m := range n.members.Members() {
		if m.State == gossip.Alive {
			list = append(list, m.Addr)
		}
	}
	return list
}

// membersChanged is gossip.Config.Changed: it tells the engine, and people what has changed.
func (n *clusterNode) membersChanged() {
	n.engine.MembersChanged()
	for _, m := range n.members.Members() {
		if m.Name == n.time.Self().Node || n.seen[m.Name] == m.State {
			continue
		}
		n.seen[m.Name] = m.State
		n.p.log.Info("member", "name", m.Name, "addr", m.Addr, "state", m.State)
		n.p.observe.publish(api.Event{Type: api.EventNode, Detail: fmt.Sprintf("node %s at %s is %s", m.Name, m.Addr, m.State)})
	}
}

// trustChanged passes what is known of the cluster's authority on.
func (n *clusterNode) trustChanged() {
	if n.engine == nil {
		return
	}
	for _, d := range n.documents() {
		if err := n.engine.Publish(fmt.Sprint(d.Kind), d); err != nil {
			n.p.log.Error("the cluster's authority is not told of", "error", err)
		}
	}
}

// documents is cluster.Config.Documents.
func (n *clusterNode) documents() []cluster.Document {
	body, err := n.trust.Document()
	if err != nil {
		return nil // of no cluster yet
	}
	key, err := n.gatewayKey()
	if err != nil {
		n.p.log.Error("gateway key not shared", "error", err)
	}
	return append(key, cluster.Document{Kind: kindTrust, Data: body})
}

// document is cluster.Config.Document.
func (n *clusterNode) document(from string, d cluster.Document) error {
	switch d.Kind {
	case kindTrust:
		if _, err := n.trust.Merge(d.Data); err != nil {
			return fmt.Errorf("what %s says of the cluster's authority: %w", from, err)
		}
	case kindGatewayKey:
		return n.takeGatewayKey(from, d.Data)
	}
	return nil // others are a newer version's
}
