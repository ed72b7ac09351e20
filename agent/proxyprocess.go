// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/curfew-proxy/curfew/agent/control"
	"github.com/curfew-proxy/curfew/agent/enforcer"
	"github.com/curfew-proxy/curfew/agent/hostclock"
	"github.com/curfew-proxy/curfew/agent/identity"
	"github.com/curfew-proxy/curfew/agent/metrics"
	"github.com/curfew-proxy/curfew/agent/opinion"
	"github.com/curfew-proxy/curfew/agent/policy"
	"github.com/curfew-proxy/curfew/agent/servercert"
	"github.com/curfew-proxy/curfew/agent/session"
	"github.com/curfew-proxy/curfew/agent/store"
	"github.com/curfew-proxy/curfew/bpf"
	"github.com/curfew-proxy/curfew/proxy"
)

// Names of the files that the enforcer hands to the proxy process.
const (
	fileBundle  = "bundle"
	fileControl = "control"
)

// wallOffsetEnv sets the wall clock of an agent wrong, for tests: a duration. No deadline must depend on it.
const wallOffsetEnv = "CURFEW_TEST_WALL_OFFSET"

// eventsKept is how many events a follower that comes late still gets.
const eventsKept = 4096

// proxyProcess is everything the unprivileged process is made of. Fields are set in order by its
// constructors and do not change while it runs; what a reload replaces is behind atomic pointers.
type proxyProcess struct {
	version string
	log     *slog.Logger
	started time.Time
	clock   hostclock.Clock

	// From the enforcer.
	files  map[string]*os.File
	link   *enforcer.Client
	kernel *bpf.Tagger // nil with enforcement: userspace
	bundle atomic.Pointer[bundle]
	begun  *bundle // what was read at the start

	// What there is to know.
	metrics *metrics.Metrics
	observe *observer
	policy  atomic.Pointer[policy.Set]
	engines atomic.Pointer[opinion.Engines]
	store   *store.Store
	alarm   *hostclock.Alarm
	table   *session.Table

	cluster    *clusterNode // nil: this node is in none
	localKills *localKills
	takeovers  chan session.Takeover
	described  *described
	changes    changes
	scrub      scrubber

	// What is done about it.
	gate        *gate
	terminator  *terminator
	cert        *servercert.Source
	providers   *identity.Providers
	forsaken    []session.ID // whose provider was taken out of the configuration while the agent was down
	vault       *identity.Vault
	logins      *identity.Logins
	revalidator *identity.Revalidator
	machines    *identity.Machines
	signals     *listening
	view        *view
	act         *actor
	control     *control.Server
	api         *apiListener
	proxy       *proxy.Proxy
}

// RunProxy is the proxy process: it serves until the enforcer tells it to drain, or ctx is done. It
// must have been started by the enforcer.
func RunProxy(ctx context.Context, version string, log *slog.Logger) error {
	p := &proxyProcess{version: version, log: log, started: time.Now(), files: map[string]*os.File{}, takeovers: make(chan session.Takeover, 256), described: newDescribed(), scrub: newScrubber()}
	defer p.close()
	defer runtime.KeepAlive(tuneMemory())
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"harden process", harden},
		{"take over from the enforcer", p.inherit},
		{"open state", p.openState},
		{"set up enforcement", p.setUpEnforcement},
		{"set up sign-in", p.setUpSignIn},
		{"set up signals", p.setUpSignals},
		{"heed local kills", p.heedEarlierKills},
		{"end sessions of providers that are gone", p.endForsaken},
		{"join the cluster", func() error { return p.joinCluster(ctx) }},
		{"set up control", p.setUpControl},
		{"open listeners", p.setUpProxy},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return p.run(ctx)
}

// harden keeps other processes of the same user from reading this one's memory (ptrace, /proc/PID/mem,
// core dumps): it holds keys and tokens.
func harden() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl(PR_SET_DUMPABLE): %w", err)
	}
	return unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
}

// inherit takes over what the enforcer has handed to this process.
func (p *proxyProcess) inherit() error {
	in, err := enforcer.Inherit()
	if err != nil {
		return err
	}
	for _, f := range in.Files {
		p.files[f.Name] = f.File
	}
	for _, name := range []string{fileBundle, fileControl} {
		if p.files[name] == nil {
			return fmt.Errorf("descriptor %q is missing", name)
		}
	}
	b, err := readBundle(p.files[fileBundle])
	if err != nil {
		return err
	}
	p.bundle.Store(b)
	p.begun = b
	if offset := os.Getenv(wallOffsetEnv); offset != "" {
		if p.clock.WallOffset, err = time.ParseDuration(offset); err != nil {
			return fmt.Errorf("%s: %w", wallOffsetEnv, err)
		}
		p.log.Warn("the wall clock is set wrong, for a test", "offset", p.clock.WallOffset)
	}
	if p.link, err = enforcer.NewClient(in.Pair); err != nil {
		return err
	}
	if len(in.Maps) == 0 {
		return nil // enforcement: userspace
	}
	p.kernel, err = bpf.NewTagger(in.Maps)
	for _, f := range in.Maps {
		_ = f.Close() // the Tagger has its own
	}
	if err != nil {
		return err
	}
	// We would serve without a gate otherwise. The number is below all that the table will give out.
	return p.kernel.SelfTest(session.FirstNumber(p.clock.Boot()))
}

func (p *proxyProcess) setUpEnforcement() error {
	p.gate = &gate{
		table: p.table, kernel: p.kernel, clock: p.clock, log: p.log, admissions: map[uint64]*admission{},
		limits: func(service string) (time.Duration, bool) { return p.bundle.Load().serviceLimits(service) },
		closed: p.observe.closed, lost: p.lost, heed: p.heedLocalKills,
		may:   func(service string) error { return p.cluster.admitTo(service) },
		stale: func(c *session.Connection) bool { return p.changes.since(c.Session(), c.Since) },
	}
	p.gate.cut = func(c *session.Connection) { p.cut(context.Background(), c) }
	p.terminator = newTerminator(p.gate, p.clock)
	p.terminator.report = p.observe.ended
	if p.kernel != nil {
		p.terminator.destroy = p.link.Kill
	}
	return errors.Join(p.takeNow(p.prepareEngines), p.takeNow(p.preparePolicy))
}

// takeNow takes into service, at the start, what a reload would prepare.
func (p *proxyProcess) takeNow(prepare func(*bundle) (func(), error)) error {
	take, err := prepare(p.bundle.Load())
	if err == nil {
		take()
	}
	return err
}

// close frees what the constructors opened, in reverse order.
func (p *proxyProcess) close() {
	if p.proxy != nil {
		p.proxy.Close()
	}
	if p.cluster != nil {
		if err := p.cluster.close(); err != nil {
			p.log.Error("close cluster", "error", err)
		}
	}
	if p.alarm != nil {
		_ = p.alarm.Close() // read only
	}
	if p.store != nil {
		if err := p.store.Close(); err != nil {
			p.log.Error("close state", "error", err)
		}
	}
	if p.kernel != nil {
		_ = p.kernel.Close() // descriptors, all in the kernel already
	}
	if p.link != nil {
		_ = p.link.Close() // the enforcer sees it
	}
}

// run serves. It returns when the enforcer said drain, and all is drained or the time for it is over;
// or with the error of the first part that failed.
func (p *proxyProcess) run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	group, ctx := errgroup.WithContext(ctx)
	parts := []func(context.Context) error{
		p.table.Run, p.terminator.Run, p.store.Run, p.vault.Run, p.logins.Run, p.providers.Run, p.revalidator.Run, p.signals.Run, p.endOverdue, p.proxy.Run,
		p.serveAPI, p.serveControl, p.serveMetrics, p.reloads, p.askAgain,
		func(ctx context.Context) error { return p.link.Run(ctx, p.healthy) },
		func(ctx context.Context) error { return p.drain(ctx, stop) },
		func(ctx context.Context) error { return p.scrub.run(ctx, p.closeIdle) },
		func(ctx context.Context) error {
			return p.described.run(ctx, p.reauthoriseSessions)
		},
	}
	if p.cluster != nil {
		parts = append(parts, p.cluster.run)
	}
	for _, part := range parts {
		group.Go(func() error { return part(ctx) })
	}
	if err := p.link.Ready(); err != nil {
		return err
	}
	p.log.Info("serving", "name", p.bundle.Load().Config.Name, "version", p.version, "listeners", p.proxy.Addrs())
	return group.Wait()
}

// healthy is asked before each heartbeat: where a lock is stuck it blocks, and the heartbeats stop.
func (p *proxyProcess) healthy() bool {
	err := errors.Join(p.heedLocalKills(), p.proxy.Health())
	if err != nil {
		p.log.Warn("not healthy", "error", err)
	}
	return err == nil
}

// drain waits for the enforcer's word, lets connections end by themselves for a while, and stops.
func (p *proxyProcess) drain(ctx context.Context, stop func()) error {
	select {
	case <-ctx.Done():
		return nil
	case <-p.link.Drain():
	}
	defer stop()
	timeout := p.bundle.Load().Config.Limits.DrainTimeout
	p.log.Info("draining", "timeout", timeout)
	if p.cluster != nil {
		defer p.cluster.leave() // after the last connection: until then it has its say
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := p.proxy.Drain(ctx); err != nil {
		p.log.Warn("not everything ended by itself", "error", err)
	}
	return p.link.Goodbye()
}

var _ net.Listener = (*apiListener)(nil)
