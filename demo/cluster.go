// SPDX-License-Identifier: Apache-2.0

//go:build linux

package demo

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/hostclock"
	"github.com/curfew-proxy/curfew/agent/session"
	"github.com/curfew-proxy/curfew/client"
	"github.com/curfew-proxy/curfew/lab"
)

// clusterSize is how many agents the cluster has.
const clusterSize = 3

// squad is a cluster of agents, each on a host of its own where that can be had, and all on this one
// otherwise.
type squad struct {
	network  *lab.Network // nil: all on this host
	upstream *upstream
	members  []*member
	cancel   context.CancelFunc
}

// member is one agent of a squad.
type member struct {
	*agent
	name    string
	host    *lab.Host // nil: this one
	service string    // host:port
}

// gather starts a cluster, one agent after the other; each joins with a token of the first.
func gather(ctx context.Context) (_ *squad, err error) {
	s := &squad{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.dismiss())
		}
	}()
	var hub *lab.Host
	address := "127.0.0.1"
	if s.network, err = lab.NewNetwork(clusterSize); err == nil {
		hub, address = s.network.Switch, s.network.SwitchAddr()
	}
	if s.upstream, err = newUpstream(hub, address); err != nil {
		return s, err
	}
	ctx, s.cancel = context.WithCancel(ctx)
	go func() { _ = s.upstream.run(ctx) }() // ends with the listener; dismiss waits for its streams
	for i := range clusterSize {
		m, err := s.enlist(i)
		if err != nil {
			return s, err
		}
		s.members = append(s.members, m)
		var join []string
		if i > 0 {
			token, err := s.members[0].control.ClusterToken(ctx, api.TokenRequest{})
			if err != nil {
				return s, err
			}
			if err := os.WriteFile(m.path("token"), []byte(token.Token), 0o600); err != nil {
				return s, err
			}
			join = []string{"--join-file", m.path("token")}
		}
		if err := m.start(ctx, m.host, join...); err != nil {
			return s, err
		}
	}
	return s, nil
}

// enlist configures member i.
func (s *squad) enlist(i int) (*member, error) {
	dir, err := newDir()
	if err != nil {
		return nil, err
	}
	m := &member{agent: newAgent(dir), name: fmt.Sprintf("%s-%d", instance, i+1)}
	addrs := []string{"", "", ""} // gateway, service, cluster
	if s.network != nil {
		m.host = s.network.Hosts[i]
		for j, port := range []string{"8443", "9000", "7946"} {
			addrs[j] = net.JoinHostPort(s.network.Addr(i), port)
		}
	} else if addrs, err = freePorts(3); err != nil {
		return nil, err
	}
	m.service = addrs[1]
	return m, m.configure(fmt.Sprintf(`name: %s
listen: [%q]
url: https://%s
state: %s
run: %s
user: nobody
cluster: {listen: %q}
services:
  - {name: %s, listen: [%q], upstream: %q, allow: 'true'}
`, m.name, addrs[0], addrs[0], m.path("state"), m.path("run"), addrs[2], service, addrs[1], s.upstream.addr()))
}

// dismiss ends the agents and removes everything.
func (s *squad) dismiss() error {
	var errs []error
	for _, m := range s.members {
		errs = append(errs, m.stop(), os.RemoveAll(m.dir))
	}
	if s.cancel != nil {
		s.cancel()
		s.upstream.live.Wait()
	}
	if s.network != nil {
		s.network.Close()
	}
	return errors.Join(errs...)
}

// clusterRound shows a kill that reaches every node of a cluster.
func (p *player) clusterRound(ctx context.Context, n int) (r Result, err error) {
	r = Result{Round: "a kill in a cluster of three", Streams: clusterSize}
	p.say("Round %d: %s", n, r.Round)
	s, err := gather(ctx)
	if err != nil {
		return r, fmt.Errorf("start a cluster: %w", err)
	}
	defer func() { err = errors.Join(err, s.dismiss()) }()
	where := "each in a network namespace of its own"
	if s.network == nil {
		where = "all on this host, which lets no network namespace be made"
	}
	p.say("  three agents are a cluster, %s", where)
	config, err := s.admit(ctx)
	if err != nil {
		return r, err
	}
	clients := &streams{}
	for _, m := range s.members {
		if err := clients.add(m, config); err != nil {
			return r, fmt.Errorf("open a stream through %s: %w", m.name, err)
		}
	}
	p.say("  a session was made at %s; it streams through each node", s.members[0].name)
	time.Sleep(time.Second) // something to see
	return r, p.killAcross(ctx, &r, s, clients, config)
}

// admit makes a session at the first member.
func (s *squad) admit(ctx context.Context) (*tls.Config, error) {
	key, err := client.NewKey()
	if err != nil {
		return nil, err
	}
	cert := key.Certificate()
	made, err := s.members[0].control.CreateSession(ctx, api.CreateSessionRequest{Subject: user, TTL: api.Seconds(time.Hour), Key: session.KeyOf(cert.Leaf)})
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(made.CA)) {
		return nil, errors.New("the cluster's certificate cannot be read")
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: roots, MinVersion: tls.VersionTLS13}, nil
}

// add opens a stream through a member.
func (s *streams) add(m *member, config *tls.Config) error {
	conn, err := m.dial(config)
	if err != nil {
		return err
	}
	e := &end{}
	s.ends = append(s.ends, e)
	s.live.Go(func() { e.pump(conn) })
	return nil
}

// dial connects to the service from the member's own host.
func (m *member) dial(config *tls.Config) (*tls.Conn, error) {
	var tcp net.Conn
	var err error
	if m.host != nil {
		tcp, err = m.host.Dial("", m.service, patience)
	} else {
		tcp, err = net.DialTimeout("tcp", m.service, patience)
	}
	if err != nil {
		return nil, err
	}
	c := config.Clone()
	c.ServerName, _, _ = net.SplitHostPort(m.service) // it was dialled: it has a port
	return tls.Client(tcp, c), nil
}

func (p *player) killAcross(ctx context.Context, r *Result, s *squad, clients *streams, config *tls.Config) error {
	killer := s.members[1]
	began := hostclock.Clock{}.Boot()
	res, err := killer.control.Kill(ctx, api.KillRequest{Subject: user, Reason: "the demo says so"})
	if err != nil {
		return fmt.Errorf("kill at %s: %w", killer.name, err)
	}
	done := hostclock.Clock{}.Boot()
	if err := p.over(ctx, clients); err != nil {
		return err
	}
	r.Before = clients.received()
	c, u := judge(clients.ends, done), judge(s.upstream.take(), done)
	r.After = c.after + u.after
	r.Client, r.Upstream = since(began, done, c), since(began, done, u)
	p.say("  killed at %s:", killer.name)
	for _, n := range res.Nodes {
		destroyed := n.Destroyed + n.Gone // the sweep may be quicker
		r.Destroyed += destroyed
		p.say("    %-14s %s after %s, %d connection destroyed, none left: %v", n.Name, n.State, short(n.Acknowledged.Duration()), destroyed, n.Verified)
		if n.State != api.KillAcknowledged || !n.Verified {
			return fmt.Errorf("not as promised: %+v", n)
		}
	}
	p.say("  the last stream ended %s after the command; bytes sent after the kill's answer that arrived: %d", short(time.Duration(r.Client.Max*float64(time.Second))), r.After*stampSize)
	var open []string
	for _, m := range s.members {
		if p.through(m, config) {
			open = append(open, m.name)
		}
	}
	if r.Refused = len(open) == 0; !r.Refused || r.After != 0 || r.Destroyed != r.Streams {
		return fmt.Errorf("not as promised: %+v, let in by %s", *r, strings.Join(open, ", "))
	}
	p.say("  no node lets it in any more\n")
	return nil
}

// since counts a verdict's times from when the kill was asked for, instead of from its answer.
func since(began, done session.Instant, v verdict) Lateness {
	by := done.Sub(began)
	v.p50, v.p99, v.max = v.p50+by, v.p99+by, v.max+by
	return lateness(v)
}

// through reports whether a member lets the key in.
func (p *player) through(m *member, config *tls.Config) bool {
	conn, err := m.dial(config)
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
