// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/curfew-proxy/curfew/agent/api"
)

// ALPN is the protocol that a tunnel asks the agent's shared port for.
const ALPN = "curfew"

// Tunnel carries connections to one service. It is safe for concurrent use.
type Tunnel struct {
	agent   *Agent // with the client key
	service string
	address string
	log     io.Writer
	logMu   sync.Mutex // guards log
}

// OpenTunnel finds a service at the agent. log is told, for the user to read, what goes wrong
// with single connections. It returns an *EndedError if the session is over.
func OpenTunnel(ctx context.Context, agent *Agent, service string, log io.Writer) (*Tunnel, error) {
	signedIn, err := agent.SignedIn()
	if err != nil {
		return nil, err
	}
	svc, err := signedIn.service(ctx, service)
	if err != nil {
		return nil, signedIn.explain(ctx, err)
	}
	if err := stepUp(svc); err != nil {
		return nil, err
	}
	address, err := signedIn.resolve(svc.Address)
	if err != nil {
		return nil, err
	}
	return &Tunnel{agent: signedIn, service: service, address: address, log: log}, nil
}

func unknownService(service string, services []api.Service) error {
	names := make([]string, len(services))
	for i, s := range services {
		names[i] = s.Name
	}
	hint := "you may use: " + strings.Join(names, ", ")
	if len(names) == 0 {
		hint = "you may use none at the moment; ask the operator"
	}
	return &api.Error{Code: api.CodeNotFound, Hint: hint,
		Message: fmt.Sprintf("there is no service %q, or you may not use it", service)}
}

// resolve completes the address of a service: what it leaves out is the agent's.
func (a *Agent) resolve(address string) (string, error) {
	if address == "" {
		return a.Address.String(), nil
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", fmt.Errorf("address of the service: %w", err)
	}
	if host == "" {
		host = a.Address.Host()
	}
	return net.JoinHostPort(host, port), nil
}

// Dial opens a connection to the service. The agent may refuse the client key later: with TLS
// 1.3 a client learns of that only when it first reads.
func (t *Tunnel) Dial(ctx context.Context) (*tls.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", t.address)
	if err != nil {
		return nil, unreachable(t.agent.Address, err)
	}
	cfg := t.agent.Trust.tlsConfig(t.agent.Address, t.agent.roots, t.agent.cert)
	cfg.ServerName = t.service
	cfg.NextProtos = []string{ALPN}
	conn := tls.Client(saysGoodbye{raw}, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close() // the handshake's error is the one to tell
		return nil, unreachable(t.agent.Address, err)
	}
	return conn, nil
}

// Stdio carries one connection over in and out, as ssh's ProxyCommand wants it. It returns nil
// when the service has closed it, and an *EndedError if the session ended first.
func (t *Tunnel) Stdio(ctx context.Context, in io.Reader, out io.Writer) error {
	conn, err := t.Dial(ctx)
	if err != nil {
		return err
	}
	return t.carry(ctx, conn, stdio{in, out})
}

type stdio struct {
	io.Reader
	io.Writer
}

// CloseWrite tells the reader of out that no more comes.
func (s stdio) CloseWrite() error {
	if c, ok := s.Writer.(io.Closer); ok {
		return c.Close()
	}
	return nil
}

// Serve carries each connection that l accepts, until ctx is done (nil) or the session has ended
// (an *EndedError). It closes l and waits for the connections.
func (t *Tunnel) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	var open sync.WaitGroup
	var over atomic.Pointer[EndedError]
	for {
		local, err := l.Accept()
		if err != nil {
			stopped := ctx.Err() != nil
			cancel(err)
			open.Wait() // one of them may know that the session has ended
			switch ended := over.Load(); {
			case ended != nil:
				return ended
			case stopped:
				return nil
			}
			return fmt.Errorf("accept: %w", err)
		}
		open.Go(func() {
			err := t.serveOne(ctx, local)
			ended := new(EndedError)
			switch {
			case errors.As(err, &ended):
				over.CompareAndSwap(nil, ended)
				cancel(ended)
			case err != nil && ctx.Err() == nil:
				t.say(err)
			}
		})
	}
}

func (t *Tunnel) serveOne(ctx context.Context, local net.Conn) error {
	defer local.Close()
	conn, err := t.Dial(ctx)
	if err != nil {
		return t.explain(ctx, err)
	}
	return t.carry(ctx, conn, local.(closeWriter))
}

// explain finds out why a connection broke, or was refused: the session may be over, or the service ask for another sign-in.
func (t *Tunnel) explain(ctx context.Context, cause error) error {
	err := t.agent.explain(ctx, cause)
	if err != cause {
		return err
	}
	if svc, lookup := t.agent.service(ctx, t.service); lookup == nil {
		if asks := stepUp(svc); asks != nil {
			return errors.Join(cause, asks)
		}
	}
	return cause
}

func (t *Tunnel) say(err error) {
	t.logMu.Lock()
	defer t.logMu.Unlock()
	fmt.Fprintf(t.log, "curfew: connection to %s: %v\n", t.service, err)
}
