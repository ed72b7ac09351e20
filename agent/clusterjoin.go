// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/gossip"
	"github.com/curfew-proxy/curfew/gossip/mesh"
	"github.com/curfew-proxy/curfew/gossip/trust"
)

// joinPatience is how long a node tries to join before it gives up.
const joinPatience = 20 * time.Second

// joinBy makes this node a member by a token, and returns addresses of others.
func (n *clusterNode) joinBy(ctx context.Context, text, name string) ([]string, error) {
	token, err := trust.ParseToken(text)
	if err != nil {
		return nil, &api.Error{Code: api.CodeBadRequest, Message: "--join: " + err.Error(), Hint: "give the whole output of: curfew cluster token"}
	}
	ctx, cancel := context.WithTimeout(ctx, joinPatience)
	defer cancel()
	addrs, err := n.trust.Join(ctx, token, name, dialJoin)
	if err != nil {
		return nil, &api.Error{Code: api.CodeUnavailable, Message: "join the cluster: " + err.Error(), Hint: joinHint(err), Cause: err}
	}
	n.p.log.Info("joined", "cluster", n.trust.Cluster(), "members", addrs)
	return addrs, nil
}

func dialJoin(ctx context.Context, addr string, verify func([]*x509.Certificate) error) (trust.Conn, error) {
	c, err := mesh.DialJoin(ctx, addr, verify)
	if err != nil {
		return nil, err // not a nil *JoinConn
	}
	return c, nil
}

func joinHint(err error) string {
	switch {
	case errors.Is(err, trust.ErrNameTaken):
		return "choose another name: in the configuration; or, for a node that has lost its state: curfew cluster token --replace"
	case errors.Is(err, trust.ErrTokenExpired):
		return "make another one, with: curfew cluster token"
	}
	return "check that the address in the token is reached from here by UDP, and make a fresh token: curfew cluster token"
}

// admit is mesh.Config.Join: it lets a node in that has a token.
func (n *clusterNode) admit(ctx context.Context, conn *mesh.JoinConn) {
	name, err := n.trust.Admit(ctx, conn)
	if err != nil {
		n.p.log.Warn("a node was not let in", "name", name, "from", conn.RemoteAddr(), "error", err)
		n.p.metrics.Cluster("trust", "join_refused", 1)
		n.p.observe.publish(api.Event{Type: api.EventCluster, Detail: fmt.Sprintf("a node at %v was not let in: %v", conn.RemoteAddr(), err)})
		return
	}
	n.p.log.Info("a node was let in", "name", name, "from", conn.RemoteAddr())
	n.p.metrics.Cluster("trust", "joined", 1)
	n.p.observe.publish(api.Event{Type: api.EventCluster, Detail: fmt.Sprintf("node %s was let in from %v", name, conn.RemoteAddr())})
}

// newToken makes a token that names every member that answers.
func (n *clusterNode) newToken(req api.TokenRequest) (string, time.Time, error) {
	const few = 5 // addresses in a token: it is copied by hand
	addrs := n.addresses()
	token, err := n.trust.NewToken(addrs[:min(few, len(addrs))], trust.TokenOptions{Life: req.TTL.Duration(), Uses: cmp.Or(req.Uses, 1), Replace: req.Replace})
	if err != nil {
		return "", time.Time{}, err
	}
	return token.Text(), n.p.clock.Wall().Add(req.TTL.Duration()), nil
}

// catchUp asks remembered members for what became of the authority while this node was away: it may have been
// rotated, so that they do not know each other any more.
func (n *clusterNode) catchUp(ctx context.Context) error {
	tick := time.NewTicker(catchUpInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for _, m := range n.members.Members() {
			if m.State != gossip.Dead || ctx.Err() != nil {
				continue
			}
			attempt, cancel := context.WithTimeout(ctx, catchUpTimeout)
			if err := n.trust.CatchUp(attempt, m.Addr, dialJoin); err != nil {
				n.p.log.Debug("not caught up", "node", m.Name, "error", err)
			}
			cancel()
		}
	}
}

// A node that is cut off and one that knows an old authority look the same: so it is asked from time to time.
const (
	catchUpInterval = 10 * time.Second
	catchUpTimeout  = 2 * time.Second
)
