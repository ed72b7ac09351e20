// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"slices"

	"github.com/curfew-proxy/curfew/agent/session"
)

// Resolve asks all nodes which of their sessions match a request that only a node that has the connections
// can answer (Config.Resolve there). Returns the sessions, each once, and the nodes that did not answer
// before ctx was done, by name.
func (e *Engine) Resolve(ctx context.Context, request []byte) (ids []session.ID, silent []string) {
	ctx, cancel := context.WithTimeout(ctx, Patience)
	defer cancel()
	type answer struct {
		node string
		ids  []session.ID
		err  error
	}
	all := slices.DeleteFunc(e.allPeers(), func(p *peer) bool { return p.is() == Left })
	answers := make(chan answer, len(all))
	for _, p := range all {
		if !p.is().reachable() {
			answers <- answer{node: p.name, err: errNobody}
			continue
		}
		go func() {
			ids, err := e.resolveAt(ctx, p, request)
			answers <- answer{p.name, ids, err}
		}()
	}
	seen := map[session.ID]bool{}
	for range all {
		a := <-answers
		if a.err != nil {
			e.cfg.Log.Warn("resolve sessions", "node", a.node, "error", a.err)
			silent = append(silent, a.node)
			continue
		}
		for _, id := range a.ids {
			if !seen[id] {
				seen[id] = true
				ids = append(ids, id)
			}
		}
	}
	slices.Sort(silent)
	return ids, silent
}

func (e *Engine) resolveAt(ctx context.Context, p *peer, request []byte) ([]session.ID, error) {
	body, err := e.request(ctx, p, encodeResolve(request), kindResolveReply)
	if err != nil {
		return nil, err
	}
	return decodeIDs(body)
}
