// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"syscall"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
	"github.com/curfew-proxy/curfew/proxy"
	"golang.org/x/sys/unix"
)

// What the child process that is the proxy reads from its environment.
const (
	serveEnv    = "CURFEW_BENCH_SERVE" // the address to listen on
	upstreamEnv = "CURFEW_BENCH_UPSTREAM"
	certEnv     = "CURFEW_BENCH_CERT"
	keyEnv      = "CURFEW_BENCH_KEY"
	profileEnv  = "CURFEW_BENCH_PROFILE" // set by whoever wants a CPU profile of the last round
)

// startCurfew runs package proxy alone, in a process of its own, with a gate that does nothing.
func startCurfew(ctx context.Context, s setup) (*target, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Env = append(os.Environ(), serveEnv+"="+addr, upstreamEnv+"="+s.upstream,
		certEnv+"="+s.pki.serverCert, keyEnv+"="+s.pki.serverKey)
	return launch(addr, cmd)
}

// serveCurfew is that process.
func serveCurfew(addr string) error {
	if os.Getenv("GOGC") == "" {
		// Garbage up to half of what lives, but no collection for less than 16 MiB of it: a
		// handshake leaves 60 KiB. The ballast is never touched, so it takes no memory.
		debug.SetGCPercent(50)
		ballast := make([]byte, 32<<20)
		defer runtime.KeepAlive(ballast)
	}
	cert, err := tls.LoadX509KeyPair(os.Getenv(certEnv), os.Getenv(keyEnv))
	if err != nil {
		return err
	}
	p, err := proxy.New(proxy.Config{
		Services: []proxy.Service{{
			Name: "bench", Listen: []string{addr},
			Upstream: proxy.Upstream{Address: os.Getenv(upstreamEnv)},
		}},
		Sessions: open{}, Policy: open{}, Gate: open{}, Observer: open{}, Clock: open{},
		Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &cert, nil },
		Limits:      proxy.Limits{UnauthenticatedPerSource: 1024},
	})
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if file := os.Getenv(profileEnv); file != "" {
		f, err := os.Create(file)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	return p.Run(ctx)
}

// open stands in for the agent and lets everybody in.
type open struct{}

func (open) ByKey(k session.Key) (session.Session, error)            { return session.Session{Key: k}, nil }
func (open) ByAddr(netip.Addr) (session.Session, error)              { return session.Session{}, nil }
func (open) Authorize(session.Session, string, netip.AddrPort) error { return nil }
func (open) Relayed(proxy.Relayed)                                   {}
func (open) Wall() time.Time                                         { return time.Now() }
func (open) Refused(r proxy.Refused)                                 { fmt.Fprintln(os.Stderr, "refused:", r.Reason, r.Err) }
func (open) Register(*session.Connection, *net.TCPConn, *net.TCPConn) (func(session.Reason, error), error) {
	return func(session.Reason, error) {}, nil
}

func (open) Boot() session.Instant {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // cannot fail since Linux 2.6.39
	return session.Instant(ts.Nano())
}
