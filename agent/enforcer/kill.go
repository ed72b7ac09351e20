// SPDX-License-Identifier: Apache-2.0

//go:build linux

package enforcer

import (
	"errors"
	"fmt"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
	"github.com/curfew-proxy/curfew/bpf"
)

// maxKill bounds the sockets of kills that are being received.
const maxKill = 1 << 20

// receiveKill carries a kill out when its last part is there.
func (s *server) receiveKill(m *message) error {
	if !m.more && len(s.parts) == 0 { // nearly always
		return s.kill(m, m.sockets)
	}
	if s.pending += len(m.sockets); s.pending > maxKill {
		return fmt.Errorf("kill of more than %d sockets", maxKill)
	}
	all := append(s.parts[m.seq], m.sockets...)
	if m.more {
		s.parts[m.seq] = all
		return nil
	}
	delete(s.parts, m.seq)
	s.pending -= len(all)
	return s.kill(m, all)
}

func (s *server) kill(m *message, socks []session.Socket) error {
	s.busy.Store(true)
	defer func() {
		s.alive() // heartbeats were waiting meanwhile
		s.busy.Store(false)
	}()
	start := time.Now()
	outcomes, err := s.destroy(socks)
	took := time.Since(start)
	if err != nil {
		s.log.Error("kill went wrong", "number", m.number, "sockets", len(socks), "error", err)
	}
	for _, o := range outcomes {
		if o == bpf.Refused || o == bpf.Survived || o == bpf.Failed {
			s.log.Error("kill incomplete", "number", m.number, "sockets", len(socks), "first_outcome", o.String())
			break
		}
	}
	for len(outcomes) > 0 {
		n := min(len(outcomes), maxOutcomes)
		reply := message{typ: typeKilled, seq: m.seq, number: m.number, duration: took, outcomes: outcomes[:n], more: n < len(outcomes)}
		if err := s.send(&reply); err != nil {
			return err
		}
		outcomes = outcomes[n:]
	}
	return nil
}

// errUserspace: the proxy asks for what it was told is not to be had.
var errUserspace = errors.New("enforcement is in user space")

func (s *server) destroy(socks []session.Socket) ([]bpf.Outcome, error) {
	if s.killer != nil {
		return s.killer.Kill(socks)
	}
	outcomes := make([]bpf.Outcome, len(socks))
	for i := range outcomes {
		outcomes[i] = bpf.Failed
	}
	return outcomes, errUserspace
}
