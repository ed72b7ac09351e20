// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"context"
	"fmt"
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

// resolveAt asks one node, again for as long as there may be more than fits into a reply. A node that fails on the
// way counts as one that did not answer.
func (e *Engine) resolveAt(ctx context.Context, p *peer, request []byte) (ids []session.ID, err error) {
	for ask := (resolveRequest{selector: request}); ; {
		body, err := e.request(ctx, p, encodeResolve(ask), kindResolveReply)
		if err != nil {
			return nil, err
		}
		page, err := decodeIDs(body)
		if err != nil {
			return nil, err
		}
		if !inOrder(ask.after, page) {
			return nil, fmt.Errorf("ids out of order: %w", errMalformed)
		}
		if ids = append(ids, page...); len(page) < maxIDs {
			return ids, nil
		}
		ask.after = page[len(page)-1]
	}
}

// inOrder reports whether each id is greater than the one before, which is what makes asking again end.
func inOrder(after session.ID, ids []session.ID) bool {
	for _, id := range ids {
		if compareIDs(after, id) >= 0 {
			return false
		}
		after = id
	}
	return true
}

func compareIDs(a, b session.ID) int { return bytes.Compare(a[:], b[:]) }
