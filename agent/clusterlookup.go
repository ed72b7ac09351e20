// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"context"
	"errors"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/session"
)

// lookup finds sessions for the proxy: one that was made at another node a moment ago is asked for before its
// key is refused. It implements proxy.Sessions.
type lookup struct {
	*session.Table
	cluster *clusterNode // nil: this node is in none
}

// ByKey is Table.ByKey, and asks the other nodes for a key that is unknown.
func (l lookup) ByKey(key session.Key) (session.Session, error) {
	s, err := l.Table.ByKey(key)
	if l.cluster == nil || !errors.Is(err, session.ErrUnknownKey) {
		return s, err
	}
	if !l.cluster.engine.Find(context.Background(), key) { // it bounds itself
		return s, err
	}
	return l.Table.ByKey(key)
}

var errNotReady = errors.New("this node has not compared its sessions with another's yet")

// ready refuses to make sessions while this node does not know what it missed.
func (n *clusterNode) ready() error {
	if n == nil || n.engine.Ready() {
		return nil
	}
	return &api.Error{Code: api.CodeUnavailable, Message: errNotReady.Error(), Hint: "sign in at another node, or wait; see: curfew nodes"}
}

// admitTo refuses connections that this node cannot answer for. It is asked for each.
func (n *clusterNode) admitTo(service string) error {
	switch {
	case n == nil:
		return nil
	case !n.engine.Ready():
		return session.Refuse(session.ReasonNotReady, errNotReady)
	}
	return n.strict.admit(service)
}
