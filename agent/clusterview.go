// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/session"
	"github.com/curfew-proxy/curfew/gossip"
)

// meta is what a node tells of itself to all others, in at most 500 bytes.
type meta struct {
	Version string `json:"v"`
}

func (n *clusterNode) meta() []byte {
	body, _ := json.Marshal(meta{Version: n.p.version[:min(len(n.p.version), 100)]}) // a struct of strings
	return body
}

// Nodes implements control.Cluster.
func (n *clusterNode) Nodes() api.ClusterInfo {
	m := n.engine.Majority()
	info := api.ClusterInfo{ID: n.trust.Cluster(), Node: n.time.Self().Node, Ready: n.engine.Ready(), Majority: m.Have,
		Since: n.wall(m.Since), Suspended: n.strict.suspended()}
	byName := map[string]*api.NodeInfo{}
	for _, x := range n.members.Members() {
		info.Nodes = append(info.Nodes, n.member(x))
	}
	for i := range info.Nodes {
		byName[info.Nodes[i].Name] = &info.Nodes[i]
	}
	for _, x := range n.engine.Nodes() {
		if node := byName[x.Name]; node != nil {
			node.Sessions, node.Connections, node.RoundTrip, node.ClockError = x.Sessions, x.Connections, api.Seconds(x.RoundTrip), api.Seconds(x.Bound)
			node.WallOffset, node.Compared, node.Unacknowledged = api.Seconds(x.WallAhead), n.wall(x.Synced), x.Outbox
		}
	}
	return info
}

func (n *clusterNode) member(x gossip.Member) api.NodeInfo {
	var said meta
	_ = json.Unmarshal(x.Meta, &said) // of another version: nothing is shown
	node := api.NodeInfo{Name: x.Name, Address: x.Addr, State: string(x.State), Since: x.Since, Version: said.Version}
	if x.Name != n.time.Self().Node {
		return node
	}
	node.Self = true
	node.Sessions, node.Connections = n.p.table.Count(), n.p.table.Connections()
	return node
}

// wall is an instant of this host as people read it; zero for zero.
func (n *clusterNode) wall(at session.Instant) time.Time {
	if at == 0 {
		return time.Time{}
	}
	return n.p.clock.Wall().Add(at.Sub(n.p.clock.Boot()))
}

// Token implements control.Cluster.
func (n *clusterNode) Token(_ context.Context, req api.TokenRequest, by string) (api.TokenResult, error) {
	token, expires, err := n.newToken(req)
	if err != nil {
		return api.TokenResult{}, err
	}
	n.p.log.Info("token to join made", "uses", req.Uses, "expires", expires, "replace", req.Replace, "by", by)
	n.p.observe.publish(api.Event{Type: api.EventCluster, By: by, Detail: fmt.Sprintf("token to join, good for %d, until %s", req.Uses, expires.Format(time.DateTime))})
	return api.TokenResult{Token: token, Expires: expires}, nil
}

// Change implements control.Cluster.
func (n *clusterNode) Change(_ context.Context, req api.ClusterChange, by string) error {
	detail := "new keys for the cluster's authority"
	var err error
	if req.Rotate {
		err = n.trust.RotateCA()
	} else {
		detail = req.Remove + " is removed"
		err = n.remove(req.Remove)
	}
	if err != nil {
		return err
	}
	n.p.log.Warn("cluster changed", "change", detail, "by", by)
	n.p.observe.publish(api.Event{Type: api.EventCluster, By: by, Detail: detail})
	return nil
}

// remove puts a node out of the cluster.
func (n *clusterNode) remove(name string) error {
	known := false
	for _, x := range n.members.Members() {
		known = known || x.Name == name
	}
	switch {
	case name == n.time.Self().Node:
		return &api.Error{Code: api.CodeBadRequest, Message: "a node does not remove itself", Hint: "run this on another node; to leave for a while, stop the agent"}
	case !known:
		return &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("there is no node %s", name), Hint: "list them with: curfew nodes"}
	}
	if err := n.trust.Remove(name); err != nil {
		return err
	}
	n.members.Forget(name)
	n.engine.Forget(name)
	return nil
}
