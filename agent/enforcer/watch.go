// SPDX-License-Identifier: Apache-2.0

//go:build linux

package enforcer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// pulseInterval is how often the time of the last heartbeat is looked at.
	pulseInterval = 50 * time.Millisecond
	// statsInterval is how often the proxy is told what was counted.
	statsInterval = time.Second
	// silenceAfter is how long heartbeats may be missing until sweeps come faster.
	silenceAfter = 4 * HeartbeatInterval
)

// Why a proxy was killed.
var (
	errNotReady   = errors.New("proxy is not ready in time")
	errHung       = errors.New("proxy has stopped beating")
	errPairClosed = errors.New("proxy closed the pair")
	errDrainTime  = errors.New("proxy did not finish draining in time")
	errDrainAbort = errors.New("drain was cut short")
	errNotDrained = errors.New("proxy cannot be told to drain")
)

// watched is one run of the proxy.
//
//	starting --Ready--> serving --stop--> draining --exit--> (gone)
//	    |                  |                  |
//	    +--ReadyTimeout----+--HangTimeout-----+--DrainTimeout, abort--> killed
type watched struct {
	*Supervisor
	child   *child
	server  *server
	events  chan event
	exited  chan error
	served  chan error
	started time.Time
	pulse   time.Time // of the last checkPulse
	ready   bool
	drainBy <-chan time.Time // set while draining
}

// runProxy runs one proxy process to its end, and returns why it ended: nil if it was asked to.
func (s *Supervisor) runProxy(ctx context.Context) error {
	c, err := s.startChild()
	if err != nil {
		return err
	}
	stopped := make(chan struct{})
	w := &watched{
		Supervisor: s, child: c, started: time.Now(),
		events: make(chan event), exited: make(chan error, 1), served: make(chan error, 1),
	}
	w.server = &server{fd: c.fd, started: w.started, killer: s.killer, log: s.log, sweep: s.sweepNow, events: w.events, stopped: stopped}
	go func() { w.exited <- c.cmd.Wait() }()
	go func() { w.served <- w.server.serve() }()
	err = w.watch(ctx)
	close(stopped)
	_ = c.cmd.Process.Kill() // it may have exited
	w.join()
	s.silent.Store(false)
	return err
}

// join waits for the goroutines of this run and closes the pair.
func (w *watched) join() {
	if w.exited != nil {
		<-w.exited
	}
	if w.served != nil {
		_ = unix.Shutdown(w.child.fd, unix.SHUT_RDWR) // wakes serve, if it has not ended
		<-w.served
	}
	_ = unix.Close(w.child.fd) // nothing is left to be written
}

// watch returns when the proxy has exited, or has to be killed.
func (w *watched) watch(ctx context.Context) error {
	tick := time.NewTicker(pulseInterval)
	defer tick.Stop()
	report := time.NewTicker(statsInterval)
	defer report.Stop()
	stop := ctx.Done()
	for {
		select {
		case err := <-w.exited:
			w.exited = nil
			if err == nil && w.drainBy != nil {
				return nil
			}
			return exitError(err)
		case err := <-w.served:
			w.served = nil
			if err != nil {
				return fmt.Errorf("messages of proxy: %w", err)
			}
			if w.drainBy == nil {
				return w.exitOr(errPairClosed)
			}
		case e := <-w.events:
			w.handle(e)
		case <-stop:
			stop = nil
			if err := w.drain(); err != nil {
				return err
			}
		case <-w.drainBy:
			return errDrainTime
		case <-w.abort:
			return errDrainAbort
		case <-w.reload:
			w.passOnReload()
		case <-report.C:
			// A proxy that does not read has other troubles: it is told the next time.
			_ = send(w.child.fd, &message{typ: typeStats, stats: w.counters.stats()})
		case <-tick.C:
			if err := w.checkPulse(); err != nil {
				return err
			}
		}
	}
}

// exitOr gives a proxy whose pair has closed a moment to have exited by itself: then its status
// says more than otherwise.
func (w *watched) exitOr(otherwise error) error {
	select {
	case err := <-w.exited:
		w.exited = nil
		return exitError(err)
	case <-time.After(silenceAfter):
		return otherwise
	}
}

func (w *watched) handle(e event) {
	switch e.typ {
	case typeReady:
		if !w.ready {
			w.log.Info("proxy is ready", "pid", w.child.cmd.Process.Pid, "after", time.Since(w.started))
		}
		w.ready, w.everReady = true, true
		w.tell("READY=1")
	case typeStatus:
		w.tell("STATUS=" + e.status)
	case typeGoodbye:
		w.log.Info("proxy has drained")
	}
}

func (w *watched) drain() error {
	w.tell("STOPPING=1")
	w.drainBy = time.After(w.cfg.DrainTimeout)
	if err := notify(w.child.fd, typeDrain); err != nil {
		return fmt.Errorf("%w: %w", errNotDrained, err)
	}
	return nil
}

func (w *watched) passOnReload() {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // cannot fail
	w.tell(reloading(time.Duration(now.Nano())))
	if err := notify(w.child.fd, typeReload); err != nil {
		w.log.Error("proxy cannot be told to reload", "error", err)
	}
}

// checkPulse makes sweeps faster while heartbeats are missing, and gives the proxy up after
// HangTimeout.
func (w *watched) checkPulse() error {
	late := time.Since(w.pulse) > silenceAfter
	w.pulse = time.Now()
	if !w.ready {
		if time.Since(w.started) > w.cfg.ReadyTimeout {
			return errNotReady
		}
		return nil
	}
	if late { // we were stopped ourselves: the heartbeats may be waiting to be read
		return nil
	}
	silence := w.server.silence()
	if silent := silence > silenceAfter; silent != w.silent.Load() {
		w.log.Warn("proxy heartbeats", "missing", silent)
		w.silent.Store(silent)
		if silent {
			w.counters.missed.Add(1)
			select {
			case w.sweepNow <- struct{}{}:
			default: // one is on its way
			}
		}
	}
	if silence > w.cfg.HangTimeout {
		return fmt.Errorf("%w for %v", errHung, silence.Round(time.Millisecond))
	}
	return nil
}
