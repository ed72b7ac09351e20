// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package demo plays the main job on one machine, with the real agent, the real client and the kernel;
// only the OpenID provider and the service behind the agent are of its own making. It is what a
// stranger sees of Curfew first, so it shows measurements, not assurances, and fails if one of them
// is not as promised.
package demo

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/curfew-proxy/curfew/agent/hostclock"
	"github.com/curfew-proxy/curfew/agent/session"
)

// Config of a demo.
type Config struct {
	Out      io.Writer
	Terminal bool          // Out can show a countdown in place
	Streams  int           // in each round; zero means 50
	Session  time.Duration // how long a session lasts; zero means 6 s
	// Keep leaves everything running after the rounds until ctx is done.
	Keep bool
}

// stopBefore is how long before the deadline the proxy process is stopped in the second round.
const stopBefore = time.Second

// patience is how long after its deadline a round may take.
const patience = 20 * time.Second

// Result is what a round showed.
type Result struct {
	Round     string   `json:"round"`
	Streams   int      `json:"streams"`
	Destroyed int      `json:"destroyed"`
	Client    Lateness `json:"client"`   // as the clients saw the end
	Upstream  Lateness `json:"upstream"` // as the service saw it
	Before    uint64   `json:"bytes_before"`
	After     int      `json:"stamps_after_deadline"` // must be 0
	Refused   bool     `json:"refused_after"`
	Again     bool     `json:"signed_in_again"`
}

// Lateness is the time from the deadline to the end, in seconds.
type Lateness struct {
	P50 float64 `json:"p50_seconds"`
	P99 float64 `json:"p99_seconds"`
	Max float64 `json:"max_seconds"`
}

// player runs a demo.
type player struct {
	Config
	*stage
}

// Run plays the demo and returns what it showed; an error if something was not as promised.
func Run(ctx context.Context, c Config) (results []Result, err error) {
	if c.Streams == 0 {
		c.Streams = 50
	}
	if c.Session == 0 {
		c.Session = 6 * time.Second
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("the demo needs root: it loads BPF programs; try: sudo curfew demo")
	}
	s, err := build(c.Session)
	if err != nil {
		return nil, fmt.Errorf("set the stage: %w", err)
	}
	p := &player{c, s}
	defer func() { err = errors.Join(err, s.tearDown()) }()
	ctx, cancel := context.WithCancel(ctx)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.upstream.run(ctx) })
	group.Go(func() error { return s.idp.Run(ctx) })
	results, err = p.play(ctx)
	cancel()
	return results, errors.Join(err, group.Wait())
}

func (p *player) say(format string, args ...any) { fmt.Fprintf(p.Out, format+"\n", args...) }

func (p *player) play(ctx context.Context) ([]Result, error) {
	if err := p.stage.start(ctx); err != nil {
		return nil, err
	}
	p.say("An OpenID provider, a service that streams for ever, and a curfew agent in front of it are running.")
	p.say("The agent is two processes: %d enforces, as root; %d talks to the network, as user nobody.\n", p.agent.cmd.Process.Pid, p.mustProxyPID())
	var results []Result
	for _, round := range []struct {
		name string
		stop bool
	}{{"the normal case", false}, {"the proxy process stopped (SIGSTOP) before the deadline", true}} {
		r, err := p.round(ctx, len(results)+1, round.name, round.stop)
		if err != nil {
			return results, err
		}
		results = append(results, r)
	}
	r, err := p.clusterRound(ctx, len(results)+1)
	if err != nil {
		return results, err
	}
	results = append(results, r)
	if p.Keep {
		p.keep(ctx)
	}
	return results, nil
}

func (p *player) mustProxyPID() int {
	pid, _ := p.proxyPID() // zero if it is being restarted: shown, not used
	return pid
}

func (p *player) round(ctx context.Context, n int, name string, stop bool) (Result, error) {
	r := Result{Round: name, Streams: p.Streams}
	p.say("Round %d: %s", n, name)
	id, config, err := p.signIn(ctx)
	if err != nil {
		return r, fmt.Errorf("sign in: %w", err)
	}
	clients, err := open(ctx, p.Streams, p.service, config)
	if err != nil {
		return r, err
	}
	deadline, err := p.deadline(id)
	if err != nil {
		return r, err
	}
	p.say("  alice signed in and opened %d endless streams; session %s ends in %.1f s", p.Streams, id.Short(), left(deadline).Seconds())
	proxy, err := p.proxyPID()
	if err != nil {
		return r, err
	}
	if stop {
		defer func() { _ = syscall.Kill(proxy, syscall.SIGCONT) }() // best effort: it goes on below
	}
	if err := p.countDown(ctx, clients, deadline, proxy, stop); err != nil {
		return r, err
	}
	if err := p.over(ctx, clients); err != nil {
		return r, err
	}
	p.sumUp(&r, clients, deadline)
	if stop {
		p.say("  the proxy process is still stopped; it is woken up now")
		if err := syscall.Kill(proxy, syscall.SIGCONT); err != nil {
			return r, fmt.Errorf("wake the proxy process: %w", err)
		}
	}
	return r, p.after(ctx, &r, config)
}

func left(deadline session.Instant) time.Duration { return deadline.Sub(hostclock.Clock{}.Boot()) }

// countDown shows the time left, and stops the proxy process shortly before the end if that is asked for.
func (p *player) countDown(ctx context.Context, clients *streams, deadline session.Instant, proxy int, stop bool) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	shown := time.Duration(-1)
	for {
		remaining := left(deadline)
		if stop && remaining <= stopBefore {
			if err := syscall.Kill(proxy, syscall.SIGSTOP); err != nil {
				return fmt.Errorf("stop the proxy process: %w", err)
			}
			p.clearLine()
			p.say("  the proxy process %d is stopped: from here on, the kernel and the other process are on their own", proxy)
			stop = false
		}
		if remaining <= 0 {
			p.clearLine()
			return nil
		}
		if p.Terminal {
			fmt.Fprintf(p.Out, "\r  %4.1f s left, %s received ", remaining.Seconds(), size(clients.received()))
		} else if whole := remaining.Round(time.Second); whole != shown {
			p.say("  %.0f s left, %s received", whole.Seconds(), size(clients.received()))
			shown = whole
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func (p *player) clearLine() {
	if p.Terminal {
		fmt.Fprintf(p.Out, "\r%s\r", strings.Repeat(" ", 60))
	}
}

// over waits until every stream has ended at the clients.
func (p *player) over(ctx context.Context, clients *streams) error {
	done := make(chan struct{})
	go func() { clients.live.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(patience):
		return errors.New("streams go on after the deadline: this must not be")
	}
}

func (p *player) sumUp(r *Result, clients *streams, deadline session.Instant) {
	r.Before = clients.received()
	c, u := judge(clients.ends, deadline), judge(p.upstream.take(), deadline)
	r.Destroyed, r.After = u.ended, c.after+u.after
	r.Client, r.Upstream = lateness(c), lateness(u)
	p.say("  deadline. %d of %d connections destroyed, at both ends:", r.Destroyed, r.Streams)
	for _, side := range []struct {
		who string
		v   verdict
	}{{"clients", c}, {"service", u}} {
		p.say("    the %s saw the end %s (p50), %s (p99), %s (last) after it", side.who, short(side.v.p50), short(side.v.p99), short(side.v.max))
	}
	p.say("  %s came before the deadline; bytes sent after it that arrived, either way: %d", size(r.Before), r.After*stampSize)
}

func lateness(v verdict) Lateness {
	return Lateness{P50: v.p50.Seconds(), P99: v.p99.Seconds(), Max: v.max.Seconds()}
}

// after shows that the door is shut, and that it opens for who signs in again.
func (p *player) after(ctx context.Context, r *Result, config *tls.Config) error {
	r.Refused = !p.letIn(ctx, config)
	if !r.Refused || r.After != 0 || r.Destroyed != r.Streams {
		return fmt.Errorf("not as promised: %+v", *r)
	}
	p.say("  a new connection with the same key is refused")
	_, again, err := p.signIn(ctx)
	if err != nil {
		return fmt.Errorf("sign in again: %w", err)
	}
	if r.Again = p.letIn(ctx, again); !r.Again {
		return errors.New("not let in after signing in again")
	}
	p.say("  alice signs in again and is let in\n")
	return p.endAll(ctx)
}

// letIn reports whether a key gets through to the service.
func (p *player) letIn(ctx context.Context, config *tls.Config) bool {
	d := tls.Dialer{Config: config}
	conn, err := d.DialContext(ctx, "tcp", p.service)
	if err != nil {
		return false
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return false
	}
	n, _ := conn.Read(make([]byte, stampSize)) // TLS 1.3: only an answer of the service shows it
	return n > 0
}

func size(bytes uint64) string {
	switch {
	case bytes < 1<<20:
		return fmt.Sprintf("%.1f KiB", float64(bytes)/(1<<10))
	default:
		return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20))
	}
}

func short(d time.Duration) string {
	if d < 10*time.Millisecond {
		return fmt.Sprintf("%.2f ms", d.Seconds()*1000)
	}
	return fmt.Sprintf("%.0f ms", d.Seconds()*1000)
}
