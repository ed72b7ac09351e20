// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/cluster"
	"github.com/curfew-proxy/curfew/agent/session"
)

// question is what a node asks all others: which sessions a kill is about, or to think again about some.
type question struct {
	api.KillRequest
	Reconsider *session.Match `json:"reconsider,omitempty"`
}

// resolve answers another node's question which sessions it is about, as this node sees it: it alone knows its
// connections, and has the tokens of the sessions that began here.
func (n *clusterNode) resolve(ctx context.Context, request []byte) ([]session.ID, error) {
	var q question
	if err := json.Unmarshal(request, &q); err != nil {
		return nil, fmt.Errorf("question of another node: %w", err)
	}
	if q.Reconsider != nil {
		return n.p.endings().reconsiderHere(ctx, *q.Reconsider)
	}
	return n.p.act.resolve(q.KillRequest)
}

// reconsiderElsewhere has all other nodes ask about their sessions, and returns those that do not answer.
func (n *clusterNode) reconsiderElsewhere(ctx context.Context, who session.Match) (silent []string) {
	if n == nil {
		return nil
	}
	body, err := json.Marshal(question{Reconsider: &who})
	if err != nil {
		panic("encode a question: " + err.Error()) // nothing in it can fail to encode
	}
	_, silent = n.engine.Resolve(ctx, body)
	return silent
}

// outcome tells another node what became of the connections that its kill has ended here.
func (n *clusterNode) outcome(ctx context.Context, endings []cluster.EndedSession) (out cluster.Outcome, err error) {
	out.Verified = true
	var errs []error
	for _, e := range endings {
		o, err := n.p.terminator.wait(ctx, e.Number)
		if err != nil {
			errs, out.Verified = append(errs, err), false
			continue
		}
		errs = append(errs, o.Err)
		out.Verified = out.Verified && o.Verified
		for _, what := range o.Result {
			switch what {
			case api.OutcomeDestroyed:
				out.Destroyed++
			case api.OutcomeGone:
				out.Gone++
			default:
				out.Left++
			}
		}
	}
	return out, errors.Join(errs...)
}

// resolveElsewhere asks the other nodes which sessions a request is about, where this one cannot tell: a node
// knows its own connections only, and a group may be that of a session it has not heard of.
func (n *clusterNode) resolveElsewhere(ctx context.Context, req api.KillRequest) (ids []session.ID, silent []string) {
	if n == nil || req.Service == "" && req.Where == "" && req.Group == "" {
		return nil, nil
	}
	body, err := json.Marshal(question{KillRequest: req})
	if err != nil {
		panic("encode a kill: " + err.Error()) // nothing in it can fail to encode
	}
	ctx, cancel := context.WithTimeout(ctx, patience(req, 0))
	defer cancel()
	return n.engine.Resolve(ctx, body)
}

// patience is how long other nodes may take for a kill of so many sessions. Unless the request says, it grows with
// them: a node proves some two thousand a second.
func patience(req api.KillRequest, sessions int) time.Duration {
	return cmp.Or(req.Patience.Duration(), cluster.Patience+time.Duration(sessions)*time.Millisecond)
}

// raise ends what nodes that cannot be reached may have made of the sessions that a kill is about. Only kills
// of a subject and of everyone can be told in advance.
func (n *clusterNode) raise(req api.KillRequest, end session.End) ([]session.Ending, error) {
	others := api.KillRequest{All: req.All, Subject: req.Subject, Reason: req.Reason, NoWait: req.NoWait, Patience: req.Patience}
	if n == nil || req != others {
		return nil, nil
	}
	return n.engine.Raise(session.Watermark{Subject: req.Subject, Origin: n.time.Self(), Before: session.OriginTime(n.p.clock.Boot()), End: end})
}

// account is what became of a kill at each node, this one first.
func (n *clusterNode) account(ctx context.Context, req api.KillRequest, res api.KillResult, began session.Instant, silent []string) []api.KilledNode {
	if n == nil || len(res.Sessions) == 0 && len(silent) == 0 {
		return nil
	}
	return append([]api.KilledNode{n.mine(res, began)}, n.killed(ctx, req, res.Sessions, silent)...)
}

// killed waits until all nodes have ended the sessions, as far as the request asks for it.
func (n *clusterNode) killed(ctx context.Context, req api.KillRequest, ids []session.ID, silent []string) []api.KilledNode {
	if req.NoWait {
		return n.sentTo()
	}
	ctx, cancel := context.WithTimeout(ctx, patience(req, len(ids)))
	defer cancel()
	var list []api.KilledNode
	for _, k := range n.engine.Kill(ctx, cluster.Kill{IDs: ids, Report: true}) {
		node := api.KilledNode{Name: k.Node, State: api.KillAcknowledged, Acknowledged: api.Seconds(k.AckedAfter), Destroyed: k.Destroyed,
			Gone: k.Gone, Left: k.Left, Took: api.Seconds(k.Took), Verified: k.Verified, Error: k.Err}
		switch {
		case k.Acked < k.Sessions || k.State != cluster.Alive && k.Silent || slices.Contains(silent, k.Node):
			node.State = api.KillSilent
		case k.Silent || k.Reported < k.Sessions:
			node.State = api.KillUnconfirmed
		}
		list = append(list, node)
	}
	return list
}

// sentTo lists the other nodes for a kill that waits for none.
func (n *clusterNode) sentTo() (list []api.KilledNode) {
	for _, x := range n.engine.Nodes() {
		list = append(list, api.KilledNode{Name: x.Name, State: api.KillSent})
	}
	return list
}

// mine is this node's line in the account of a kill.
func (n *clusterNode) mine(res api.KillResult, began session.Instant) api.KilledNode {
	node := api.KilledNode{Name: n.time.Self().Node, State: api.KillAcknowledged, Destroyed: res.Destroyed, Gone: res.Gone, Left: res.Left,
		Took: res.Took, Verified: res.Verified}
	if res.Shut != 0 {
		node.Acknowledged = api.Seconds(max(res.Shut.Sub(began), 0))
	}
	return node
}

// skewed is cluster.Config.OnSkew.
func (n *clusterNode) skewed(s cluster.Skew) {
	detail := fmt.Sprintf("the wall clock of %s is %v ahead of this node's", s.Node, s.Ahead.Round(time.Millisecond))
	if s.Ahead < 0 {
		detail = fmt.Sprintf("the wall clock of %s is %v behind this node's", s.Node, -s.Ahead.Round(time.Millisecond))
	}
	if !s.Alarm {
		detail = fmt.Sprintf("the wall clock of %s is right again", s.Node)
	}
	n.p.log.Warn("clock skew", "node", s.Node, "ahead", s.Ahead, "skewed", s.Alarm)
	n.p.observe.publish(api.Event{Type: api.EventClockSkew, Detail: detail})
}

// majority is cluster.Config.OnMajority.
func (n *clusterNode) majority(m cluster.Majority) {
	detail := fmt.Sprintf("%d of %d nodes answer: a majority", m.Reachable, m.Known)
	if !m.Have {
		detail = fmt.Sprintf("%d of %d nodes answer: no majority", m.Reachable, m.Known)
	}
	n.p.log.Warn("majority", "have", m.Have, "reachable", m.Reachable, "known", m.Known)
	n.p.observe.publish(api.Event{Type: api.EventPartition, Detail: detail})
	n.strict.majority(m.Have)
}

func (n *clusterNode) setUpStrict() {
	n.strict.after = func() time.Duration { return n.p.bundle.Load().Config.Cluster.StrictAfter }
	n.strict.services = func() []string { return n.p.bundle.Load().strictServices() }
	n.strict.cut = func(ctx context.Context, services []string, why session.Reason) {
		for _, e := range n.p.table.Select(session.Selector{All: true}, false) {
			for _, c := range e.Conns {
				if slices.Contains(services, c.Service) {
					n.p.gate.because(c, why)
					n.p.cut(ctx, c)
				}
			}
		}
	}
	n.strict.changed = func(suspended []string) {
		detail := "strict services take connections again"
		if len(suspended) > 0 {
			detail = "strict services refuse connections: " + strings.Join(suspended, ", ")
		}
		n.p.observe.publish(api.Event{Type: api.EventPartition, Detail: detail})
	}
}
