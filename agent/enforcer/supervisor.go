// SPDX-License-Identifier: Apache-2.0

//go:build linux

package enforcer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/curfew-proxy/curfew/bpf"
)

// Supervisor is the privileged process. Make it with New, run it once.
type Supervisor struct {
	cfg     Config
	log     *slog.Logger
	manager serviceManager

	objects   *bpf.Objects
	destroyer *bpf.Destroyer
	cgroup    string // its directory
	killer    *bpf.Killer

	counters  counters
	silent    atomic.Bool   // heartbeats are missing: sweep more often
	everReady bool          // a proxy has been ready; of the goroutine that keeps it running
	sweepNow  chan struct{} // asks for a sweep
	reload    chan struct{} // asks for a Reload
	abort     chan struct{} // closed: do not wait for the drain
}

// New returns a Supervisor, or says what is wrong with cfg.
func New(cfg Config) (*Supervisor, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	return &Supervisor{
		cfg: cfg, log: cfg.Log, manager: newServiceManager(),
		sweepNow: make(chan struct{}, 1), reload: make(chan struct{}, 1), abort: make(chan struct{}),
	}, nil
}

// Reload makes the proxy read its configuration again. Does not block.
func (s *Supervisor) Reload() {
	select {
	case s.reload <- struct{}{}:
	default: // one is on its way
	}
}

// RunWithSignals is Run as a service wants it: SIGTERM and SIGINT drain, a second one does not
// wait for the drain, SIGHUP reloads.
func (s *Supervisor) RunWithSignals(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	defer signal.Stop(signals)
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	for {
		select {
		case err := <-done:
			return err
		case sig := <-signals:
			switch {
			case sig == unix.SIGHUP:
				s.reloadConfig()
			case ctx.Err() == nil:
				cancel()
			default:
				signal.Stop(signals)
				close(s.abort)
				return <-done
			}
		}
	}
}

func (s *Supervisor) reloadConfig() {
	if s.cfg.OnReload != nil {
		if err := s.cfg.OnReload(); err != nil {
			s.log.Error("configuration not reloaded: the old one stays", "error", err)
			return
		}
	}
	s.Reload()
}

// Run enforces, and keeps a proxy running, until ctx ends; then it drains the proxy, destroys what
// is left and removes pins and cgroup. It fails only if it cannot begin, or leaves something
// behind.
func (s *Supervisor) Run(ctx context.Context) error {
	if err := s.setUp(); err != nil {
		return errors.Join(err, s.tearDown())
	}
	g, _ := errgroup.WithContext(ctx) // ctx ends the proxy first, and all else after it
	sweeping, stopSweeping := context.WithCancel(context.Background())
	g.Go(func() error { return s.sweepLoop(sweeping) })
	g.Go(func() error { return s.watchdogLoop(sweeping) })
	g.Go(func() error {
		defer stopSweeping()
		return s.keepProxyRunning(ctx)
	})
	return errors.Join(g.Wait(), s.tearDown())
}

func (s *Supervisor) setUp() (err error) {
	if err := protectFromOOM(); err != nil {
		s.log.Warn("enforcer is not protected when memory runs out", "error", err)
	}
	if s.cfg.Userspace {
		s.log.Warn("enforcement is in user space: a proxy that hangs enforces nothing")
		return nil
	}
	if s.objects, err = bpf.Load(s.cfg.BPF); err != nil {
		return err
	}
	if can, why := s.objects.CanDestroy(); !can {
		s.log.Warn("sweeps list and destroy by netlink: no bpf_sock_destroy", "error", why)
	}
	if s.cgroup, err = bpf.CreateCgroup(s.cfg.BPF.Instance); err != nil {
		return err
	}
	if err := s.objects.AttachGate(s.cgroup); err != nil {
		return err
	}
	if s.destroyer, err = bpf.NewDestroyer(); err != nil {
		return err
	}
	s.killer, err = bpf.NewKiller(s.objects, s.destroyer, s.cgroup)
	return err
}

func (s *Supervisor) tearDown() error {
	var errs []error
	if s.cgroup != "" {
		errs = append(errs, bpf.KillCgroup(s.cgroup), bpf.RemoveCgroup(s.cgroup))
	}
	if s.objects != nil {
		errs = append(errs, s.objects.Unpin())
	}
	if s.destroyer != nil {
		errs = append(errs, s.destroyer.Close())
	}
	return errors.Join(errs...)
}

// keepProxyRunning starts the proxy again and again until ctx ends. A proxy that was never ready
// has no past to be trusted for: its first failure is the agent's.
func (s *Supervisor) keepProxyRunning(ctx context.Context) error {
	var pause backoff
	for {
		started := time.Now()
		err := s.runProxy(ctx)
		for clear := s.clearUp(); clear != nil; clear = s.clearUp() {
			s.log.Error("clear up after proxy", "error", clear)
			if !sleep(ctx, time.Second) {
				return nil // what is left is destroyed by the next start, and its gate is shut
			}
		}
		if ctx.Err() != nil {
			if err != nil {
				s.log.Error("proxy did not stop in order", "error", err)
			}
			return nil
		}
		if !s.everReady {
			return fmt.Errorf("the proxy process does not start: %w", err)
		}
		wait := pause.next(time.Since(started))
		s.log.Error("proxy ended", "error", err, "restart_in", wait)
		s.tell("STATUS=proxy ended, restarting")
		if !sleep(ctx, wait) {
			return nil
		}
	}
}

// tell is best effort: enforcing does not depend on the service manager.
func (s *Supervisor) tell(state string) {
	if err := s.manager.notify(state); err != nil {
		s.log.Warn("service manager does not listen", "error", err)
	}
}

func (s *Supervisor) watchdogLoop(ctx context.Context) error {
	every := s.manager.watchdog()
	if every == 0 {
		return nil
	}
	for {
		s.tell("WATCHDOG=1")
		if !sleep(ctx, every) {
			return nil
		}
	}
}

// backoff paces restarts: at once, then 100 ms, doubling up to 5 s; a proxy that ran for 30 s
// starts it over.
type backoff struct{ wait time.Duration }

func (b *backoff) next(ran time.Duration) time.Duration {
	if ran >= 30*time.Second {
		b.wait = 0
	}
	wait := b.wait
	b.wait = min(max(2*wait, 100*time.Millisecond), 5*time.Second)
	return wait
}

// sleep reports whether d passed before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// exitError names the proxy's end for the log.
func exitError(err error) error {
	if err == nil {
		return errors.New("exited with status 0")
	}
	return fmt.Errorf("exited: %w", err)
}
