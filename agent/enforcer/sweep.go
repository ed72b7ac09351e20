// SPDX-License-Identifier: Apache-2.0

//go:build linux

package enforcer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/curfew-proxy/curfew/bpf"
)

const (
	// sweepTick is the interval of sweeps while heartbeats are missing; each sweepEvery-th tick
	// otherwise.
	sweepTick  = 250 * time.Millisecond
	sweepEvery = 4
)

// sweepLoop is layer 2: it destroys what has ended, whether the proxy asks for it or not.
func (s *Supervisor) sweepLoop(ctx context.Context) error {
	ticker := time.NewTicker(sweepTick)
	defer ticker.Stop()
	for tick := 1; ; tick++ {
		select {
		case <-ctx.Done():
			return nil
		case <-s.sweepNow:
		case <-ticker.C:
			if tick%sweepEvery != 0 && !s.silent.Load() {
				continue
			}
		}
		s.sweep()
	}
}

// sweep never fails the enforcer: the next one is due soon, and the gate is shut anyway.
func (s *Supervisor) sweep() {
	if s.cfg.Userspace {
		return
	}
	done, err := s.objects.Sweep()
	if err != nil {
		s.log.Error("sweep", "error", err)
	}
	s.counters.sweeps.Add(1)
	s.logSwept(done)
}

func (s *Supervisor) logSwept(done []bpf.Record) {
	destroyed, left := 0, 0
	for _, r := range done {
		switch r.Outcome {
		case bpf.Destroyed:
			destroyed++
		case bpf.Survived, bpf.Failed:
			left++
		}
	}
	s.counters.swept.Add(uint64(destroyed))
	if destroyed+left > 0 {
		s.log.Info("swept", "destroyed", destroyed, "left", left)
	}
}

// errLeft: sockets of a dead proxy are left. No other one is started beside them.
var errLeft = errors.New("tagged sockets are left")

// clearUp ends and destroys all that a dead proxy has left.
func (s *Supervisor) clearUp() error {
	if s.cfg.Userspace {
		return nil // the kernel has closed the sockets
	}
	if err := bpf.KillCgroup(s.cgroup); err != nil {
		return err
	}
	done, err := s.objects.EndAll()
	s.logSwept(done)
	if err != nil {
		return err
	}
	left, err := s.objects.List()
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("%d: %w", len(left), errLeft)
	}
	return nil
}
