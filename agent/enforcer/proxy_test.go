// SPDX-License-Identifier: Apache-2.0

//go:build linux

package enforcer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/curfew-proxy/curfew/agent/session"
	"github.com/curfew-proxy/curfew/bpf"
)

// The proxy of the tests is a child of the test binary. It echoes what clients send; every
// connection belongs to session 1, and it carries out orders that come in over an inherited file.

const roleVar = "CURFEW_TEST_ROLE"

func TestMain(m *testing.M) {
	run := map[string]func() error{"proxy": testProxyMain, "enforcer": testEnforcerMain}[os.Getenv(roleVar)]
	if run == nil {
		os.Exit(m.Run())
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, os.Getenv(roleVar)+":", err)
		os.Exit(1)
	}
	os.Exit(0)
}

type order struct {
	Do       string // see testProxy.do
	Deadline session.Instant
	Sockets  []session.Socket
}

type answer struct {
	Addr    string
	PID     int
	Caps    string
	Sockets []session.Socket
	Report  Report
	Took    time.Duration // of the kill, as the proxy sees it
	Err     string

	after func() // what is done when the answer is out: it ends the proxy
}

type testProxy struct {
	client   *Client
	tagger   *bpf.Tagger
	listener net.Listener
	hung     atomic.Bool
	deaf     atomic.Bool // ignores Drain
	reloads  atomic.Int64
	exit     chan struct{}

	mu    sync.Mutex
	socks []session.Socket
}

func testProxyMain() error {
	in, err := Inherit()
	if err != nil {
		return err
	}
	p := &testProxy{exit: make(chan struct{})}
	if p.client, err = NewClient(in.Pair); err != nil {
		return err
	}
	if len(in.Maps) > 0 {
		if p.tagger, err = bpf.NewTagger(in.Maps); err != nil {
			return err
		}
		if err := p.tagger.SelfTest(uint64(bpf.Now())); err != nil {
			return err
		}
		if err := p.tagger.Open(1, bpf.Now().Add(time.Hour), bpf.Label{Subject: "alice"}); err != nil {
			return err
		}
	}
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	if p.listener, err = lc.Listen(context.Background(), "tcp4", "127.0.0.1:0"); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.client.Run(ctx, func() bool { return !p.hung.Load() }) })
	go p.accept()
	go p.obey(in.Files[0].File)
	if err := p.client.Ready(); err != nil {
		return err
	}
	for {
		select {
		case <-p.client.Gone():
			return g.Wait()
		case <-p.exit:
			return errors.New("told to exit")
		case <-p.client.Reload():
			p.reloads.Add(1)
		case <-p.client.Drain():
			if p.deaf.Load() {
				select {}
			}
			return p.client.Goodbye()
		}
	}
}

func (p *testProxy) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		s, err := p.tagger.Tag(c.(*net.TCPConn), 1, session.ClientLeg, 0)
		if err != nil {
			fmt.Fprintln(os.Stderr, "tag:", err)
			c.Close()
			continue
		}
		p.mu.Lock()
		p.socks = append(p.socks, s)
		p.mu.Unlock()
		go func() { _, _ = io.Copy(c, c) }() // ends with the connection
	}
}

func (p *testProxy) obey(f *os.File) {
	in, out := json.NewDecoder(f), json.NewEncoder(f)
	for {
		var o order
		if err := in.Decode(&o); err != nil {
			return
		}
		a, err := p.do(o)
		if err != nil {
			a.Err = err.Error()
		}
		if err := out.Encode(a); err != nil {
			return
		}
		if a.after != nil {
			a.after()
			return // the rest is for the next proxy
		}
	}
}

func (p *testProxy) do(o order) (a answer, err error) {
	p.mu.Lock()
	a.Sockets = append(a.Sockets, p.socks...)
	p.mu.Unlock()
	a.Addr, a.PID = p.listener.Addr().String(), os.Getpid()
	switch o.Do {
	case "look":
		status, err := os.ReadFile("/proc/self/status")
		if err != nil {
			return a, err
		}
		a.Caps = string(status)
	case "kill":
		if o.Sockets == nil {
			o.Sockets = a.Sockets
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		start := time.Now()
		a.Report, err = p.client.Kill(ctx, 1, o.Sockets)
		a.Took = time.Since(start)
		a.Sockets = nil
	case "move":
		err = p.tagger.Move(1, o.Deadline)
	case "hang":
		p.hung.Store(true)
	case "unhang":
		p.hung.Store(false)
	case "deaf":
		p.deaf.Store(true)
	case "exit":
		a.after = func() { close(p.exit) }
	case "garble":
		a.after = func() { _, _ = p.client.conn.Write([]byte("garbage")) } // or it is gone already
	case "reloads":
		a.PID = int(p.reloads.Load())
	case "status":
		err = p.client.Status("serving\n1 user")
	default:
		err = fmt.Errorf("unknown order %q", o.Do)
	}
	return a, err
}

// quiet is a logger for tests: what is logged shows only if the test fails.
func quiet(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
}
