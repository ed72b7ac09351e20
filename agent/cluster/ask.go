// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"fmt"
)

// Ask asks one node something that means nothing to the engine, and returns its answer (Config.Answer there); both up to 60
// KiB.
func (e *Engine) Ask(ctx context.Context, node string, request []byte) ([]byte, error) {
	p := e.peer(node)
	if p == nil {
		return nil, fmt.Errorf("ask %q: %w", node, errNobody)
	}
	if len(request) > maxOpaque {
		return nil, fmt.Errorf("ask %s: %w", node, errTooLong)
	}
	body, err := e.request(ctx, p, appendBytes(appendHeader(nil, kindAsk), 1, request), kindAskReply)
	if err != nil {
		return nil, err
	}
	return decodeOpaque(body)
}

func (e *Engine) serveAsk(ctx context.Context, p *peer, body []byte) ([]byte, error) {
	request, err := decodeOpaque(body)
	if err != nil {
		return nil, err
	}
	if e.cfg.Answer == nil {
		return nil, errNotOffered
	}
	answer, err := e.cfg.Answer(ctx, p.name, request)
	if err != nil {
		return nil, err
	}
	if len(answer) > maxOpaque {
		return nil, fmt.Errorf("answer: %w", errTooLong)
	}
	return appendBytes(appendHeader(nil, kindAskReply), 1, answer), nil
}

func decodeOpaque(b []byte) (opaque []byte, err error) {
	err = eachField(b, func(f field) error {
		if f.num == 1 {
			return f.bytes(&opaque, maxOpaque)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("ask: %w", err)
	}
	return opaque, nil
}
