// SPDX-License-Identifier: Apache-2.0

//go:build linux

package zero

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/session"
	"github.com/curfew-proxy/curfew/bpf"
	"github.com/curfew-proxy/curfew/lab"
	"github.com/curfew-proxy/curfew/test/harness"
)

// fixture is the agent between its two neighbours, and those who watch it.
type fixture struct {
	t        *testing.T
	client   *lab.Host
	host     *lab.Host // the agent's
	upstream *server
	agent    *harness.Agent
	capture  *capture
	watch    *watch
	rounds   uint64 // so far
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{t: t, upstream: &server{waiting: map[uint64]chan *net.TCPConn{}}}
	var far *lab.Host
	f.client, f.host, far = network(t)
	var services strings.Builder
	for _, family := range families {
		to := net.JoinHostPort(upstreamAddr[family], "9000")
		go f.upstream.serve(listen(t, far, to))
		fmt.Fprintf(&services, "  - {name: v%d, upstream: %q, allow: 'true', listen: [%q], plain_listen: [%q]}\n", family, to,
			class{transport: overTLS, family: family}.address(), class{transport: spliced, family: family}.address())
	}
	f.agent = harness.Start(t, harness.Config{Services: services.String(), Extra: "bind_address: {enabled: true}", Netns: f.host.File})
	f.capture = startCapture(t, f.host)
	f.watch = startWatch(t, f.agent.Name)
	return f
}

// batch is a round of some endings over every transport and family, in one state of the agent.
type batch struct {
	*fixture
	state   state
	endings []ending
	rand    *rand.Rand
	rounds  []*round
	at      session.Instant // when the agent gets into the state
	proxy   int             // its process
	early   bool            // it wakes up while what has ended is being cleared away
	probes  sync.WaitGroup
	gate    bpf.GateStats // before
}

// setUp is how long the making of a batch's sessions and connections may take, and arming how long the sweep
// needs to arm their sockets.
const (
	setUp  = 700 * time.Millisecond
	arming = 1300 * time.Millisecond
)

// run returns what the rounds showed, and how many packets the gate dropped meanwhile.
func (f *fixture) run(s state, seed uint64, with ...ending) ([]result, uint64) {
	f.t.Helper()
	b := &batch{fixture: f, state: s, endings: with, rand: rand.New(rand.NewPCG(seed, 0)), gate: f.gateStats()}
	b.early = s == stopped && b.rand.IntN(3) == 0
	b.at = now().Add(setUp)
	if s != running {
		b.at = b.at.Add(arming)
	}
	b.begin()
	b.enter()
	b.kills()
	b.wait()
	b.leave()
	results := b.check()
	return results, dropsOf(f.gateStats()) - dropsOf(b.gate)
}

func dropsOf(s bpf.GateStats) uint64 {
	return s.NoSession + s.SessionOver + s.ConnectionOver + s.Unparsed
}

func (b *batch) begin() {
	b.t.Helper()
	for _, e := range b.endings {
		for _, tr := range transports {
			for _, family := range families {
				n := b.fixture.rounds
				b.fixture.rounds++
				b.rounds = append(b.rounds, &round{class: class{b.state, e, tr, family}, number: n, from: clientAddr(family, int(n))})
			}
		}
	}
	b.rand.Shuffle(len(b.rounds), func(i, j int) { b.rounds[i], b.rounds[j] = b.rounds[j], b.rounds[i] })
	for _, r := range b.rounds {
		if err := r.create(b.fixture, b.rand, b.at); err != nil {
			b.t.Fatalf("round %d (%v): %v", r.number, r.class, err)
		}
	}
	b.proxy = b.agent.ProxyPID(b.t)
}

// enter brings the agent into the batch's state.
func (b *batch) enter() {
	b.t.Helper()
	time.Sleep(b.at.Sub(now()))
	switch b.state {
	case stopped:
		stop(b.t, b.proxy)
	case frozen:
		b.waitArmed()
		for _, pid := range b.shuffled(b.proxy, b.agent.EnforcerPID()) {
			stop(b.t, pid)
		}
	case killed:
		harness.Signal(b.t, b.proxy, syscall.SIGKILL)
	}
	b.at = now()
}

func (b *batch) shuffled(pids ...int) []int {
	b.rand.Shuffle(len(pids), func(i, j int) { pids[i], pids[j] = pids[j], pids[i] })
	return pids
}

// waitArmed waits for the sweep to see the sockets that the stack itself will have to end.
func (b *batch) waitArmed() {
	b.t.Helper()
	eventually(b.t, "the sockets to be armed", func() error {
		numbers := map[uint64]bool{}
		for _, r := range b.rounds {
			if s := b.watch.of(r.id); r.ending != explicit && s.Deadline > now().Add(50*time.Millisecond) {
				numbers[s.Number] = true
			}
		}
		return armed(b.host, b.agent.Name, numbers)
	})
}

// stop stops a process, and returns when all its threads have.
func stop(t *testing.T, pid int) {
	t.Helper()
	harness.Signal(t, pid, syscall.SIGSTOP)
	eventually(t, "the process to stop", func() error {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		for _, task := range tasks {
			stat, readErr := os.ReadFile(task)
			if readErr != nil {
				continue // the thread has ended
			}
			_, after, _ := strings.Cut(string(stat), ") ")
			if !strings.HasPrefix(after, "T") {
				return fmt.Errorf("%s: %.1s", task, after)
			}
		}
		return err
	})
}

// kills ends the sessions that somebody ends, each at its planned time.
func (b *batch) kills() {
	b.t.Helper()
	var todo []*round
	for _, r := range b.rounds {
		if r.ending == explicit {
			todo = append(todo, r)
		}
	}
	slices.SortFunc(todo, func(x, y *round) int { return int(x.due - y.due) })
	for _, r := range todo {
		time.Sleep(r.due.Sub(now()))
		b.kill(r)
	}
}

func (b *batch) kill(r *round) {
	b.t.Helper()
	local := b.state == stopped || b.state == frozen || b.state == killed && b.rand.IntN(2) == 0
	var k api.KillResult
	if !local {
		if b.state == killed {
			b.agent.WaitReady(b.t)
		}
		r.since = now()
		var err error
		if k, err = b.agent.Control.Kill(b.t.Context(), api.KillRequest{Session: r.id.String()}); err != nil {
			b.t.Fatalf("kill round %d (%v): %v", r.number, r.class, err)
		}
	} else {
		r.since = now()
		var res harness.Result
		k, res = b.agent.KillJSON(b.t, "--local", "--run", filepath.Join(b.agent.Dir, "run"), r.id.String())
		if res.Code != 0 && b.state != killed { // a dead proxy's sessions have left the kernel
			b.t.Fatalf("kill round %d (%v): %+v", r.number, r.class, res)
		}
	}
	if r.deadline = now(); len(k.Sessions) > 0 && k.Shut != 0 {
		r.deadline = k.Shut
	}
}

// How long until both ends have seen the end: what is promised (for a running agent it is measured, not
// asserted), and what a shared machine may add.
const slack = 3 * time.Second

var (
	promised = map[state]time.Duration{stopped: 2500 * time.Millisecond, frozen: 5 * time.Second}
	bounds   = map[state]time.Duration{running: slack, killed: slack, stopped: promised[stopped] + slack, frozen: promised[frozen] + slack}
)

// wait waits until every session has ended and every end has seen it, or should have.
func (b *batch) wait() {
	b.t.Helper()
	time.Sleep(b.last().Sub(now())) // a lease may move meanwhile
	for b.state != frozen && b.last() > now() {
		time.Sleep(b.last().Sub(now()))
	}
	last := b.last()
	if b.early {
		time.Sleep(time.Duration(b.rand.Int64N(int64(300 * time.Millisecond))))
		return
	}
	for now() < last.Add(bounds[b.state]) {
		lenient := now() > last.Add(promised[b.state])
		if !slices.ContainsFunc(b.rounds, func(r *round) bool { return !r.over(lenient) }) {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// last is the latest deadline.
func (b *batch) last() (last session.Instant) {
	for _, r := range b.rounds {
		if r.ending != explicit {
			last = max(last, b.watch.of(r.id).Deadline)
		}
	}
	return last
}

// leave brings the agent back. Some of the attempts to connect anew begin before that.
func (b *batch) leave() {
	b.t.Helper()
	for _, r := range b.rounds {
		if (b.state == stopped || b.state == frozen) && b.rand.IntN(2) == 0 {
			b.probe(r)
		} else {
			defer b.probe(r)
		}
	}
	switch b.state {
	case stopped:
		harness.Signal(b.t, b.proxy, syscall.SIGCONT)
	case frozen:
		harness.Signal(b.t, b.proxy, syscall.SIGCONT)
		harness.Signal(b.t, b.agent.EnforcerPID(), syscall.SIGCONT)
	}
	b.agent.WaitReady(b.t)
}

func (b *batch) probe(r *round) {
	b.probes.Go(func() {
		if err := r.refused(b.fixture); err != nil {
			b.t.Errorf("round %d (%v): a connection with the ended session: %v", r.number, r.class, err)
		}
	})
}

func (f *fixture) gateStats() bpf.GateStats {
	f.t.Helper()
	p, err := bpf.OpenPinned(f.agent.Name)
	if err != nil {
		f.t.Fatal(err)
	}
	defer p.Close()
	s, err := p.GateStats()
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}
