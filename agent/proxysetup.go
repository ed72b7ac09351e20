// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/config"
	"github.com/curfew-proxy/curfew/agent/control"
	"github.com/curfew-proxy/curfew/agent/identity"
	"github.com/curfew-proxy/curfew/agent/servercert"
	"github.com/curfew-proxy/curfew/agent/session"
	"github.com/curfew-proxy/curfew/proxy"
)

// Limits of the HTTP servers that talk to strangers.
const (
	apiHeaderTimeout = 10 * time.Second
	apiTimeout       = 60 * time.Second // a provider may take long to exchange a code
	apiIdleTimeout   = 2 * time.Minute
	apiMaxHeader     = 32 << 10
	shutdownTimeout  = 2 * time.Second
)

func (p *proxyProcess) setUpSignIn() error {
	b := p.bundle.Load()
	var err error
	if b.Config.TLS.Certificate == "" {
		p.cert, err = servercert.SelfMade(b.Config.State, b.certificateHosts())
	} else {
		p.cert = &servercert.Source{}
		err = p.cert.Set(b.Files[b.Config.TLS.Certificate], b.Files[b.Config.TLS.Key])
	}
	if err != nil {
		return err
	}
	if p.providers, err = identity.NewProviders(b.providers(b.Config.URL), p.log); err != nil {
		return err
	}
	machines, err := b.machines()
	if err != nil {
		return err
	}
	p.vault = identity.NewVault(p.log, p.metrics.Login)
	p.vault.OnWipe = p.scrub.soon
	live := func(id session.ID) bool { _, err := p.table.ByID(id); return err == nil }
	if p.forsaken, err = p.vault.Keep(b.VaultKey, p.store, p.providers, live); err != nil {
		return err
	}
	p.revalidator = &identity.Revalidator{Providers: p.providers, Vault: p.vault, Sessions: p.signIns(), Validator: p.signIns(), Log: p.log, Count: p.metrics.Login}
	p.logins = identity.NewLogins(identity.LoginsConfig{
		Providers: p.providers, Vault: p.vault, Log: p.log, Count: p.metrics.Login, Sessions: p.signIns(), Mark: p.cluster.mark(),
		FreshSince: p.table.FreshSince,
	})
	p.machines, err = identity.NewMachines(identity.MachinesConfig{Machines: machines, Log: p.log, Count: p.metrics.Login, Sessions: p.signIns()})
	return err
}

func (p *proxyProcess) signIns() *signIns {
	return &signIns{
		table: p.table, clock: p.clock, observe: p.observe, cluster: p.cluster,
		config: func() *bundle { return p.bundle.Load() },
		authorise: func(s session.Session, service string, source netip.AddrPort) error {
			return p.policy.Load().Authorize(s, service, source)
		},
		heed: p.heedLocalKills,
	}
}

// closeIdle closes connections to providers and policy engines that are not in use.
func (p *proxyProcess) closeIdle() {
	p.engines.Load().CloseIdle()
	for _, provider := range p.providers.All() {
		provider.CloseIdle()
	}
}

func (p *proxyProcess) endings() *endings {
	return &endings{table: p.table, clock: p.clock, cluster: p.cluster,
		keep: func() time.Duration { // a reload may have shortened or lengthened it
			return 2 * max(p.begun.Config.Sessions.AbsoluteTimeout, p.bundle.Load().Config.Sessions.AbsoluteTimeout)
		},
		ask: p.revalidator.Ask, held: p.vault.Holds, reauthorise: p.reauthoriseSessions}
}

func (p *proxyProcess) setUpControl() error {
	p.view = &view{table: p.table, clock: p.clock, services: func() []api.ServiceInfo { return p.bundle.Load().serviceInfos() }, status: p.status}
	p.act = &actor{cluster: p.cluster, view: p.view, table: p.table, terminator: p.terminator, clock: p.clock, observe: p.observe, heed: p.heedLocalKills,
		bind:    func() config.BindAddress { return p.bundle.Load().Config.BindAddress },
		gateway: func() string { return p.bundle.Load().gateway() }, ca: p.cert.PEM}
	var err error
	p.control, err = control.New(control.Config{
		View: p.view, Actor: p.act, Cluster: p.cluster.control(), Streams: &streams{signals: p.signals, url: func() string { return p.bundle.Load().Config.URL }}, Health: p.view, Events: p.observe.events, Metrics: p.metrics.Handler(), Log: p.log,
	})
	return err
}

// status is what the session table does not know.
func (p *proxyProcess) status() api.Status {
	c := p.bundle.Load().Config
	s := api.Status{Node: c.Name, Version: p.version, Started: p.started, Enforcement: c.Enforcement, Ready: true}
	if p.kernel != nil {
		s.Layers = []string{"destroy", "sweep", "gate", "stack"}
	} else {
		s.Layers = []string{"userspace"}
		s.Problems = append(s.Problems, "enforcement is in user space: a hung proxy enforces nothing")
	}
	if err := p.proxy.Health(); err != nil {
		s.Ready = false
		s.Problems = append(s.Problems, err.Error())
	}
	if p.cluster != nil && !p.cluster.trust.Member() {
		s.Problems = append(s.Problems, "this node was removed from its cluster: it enforces what it knows and learns nothing; see docs/cluster.md to join again")
	}
	if err := p.cluster.ready(); err != nil {
		s.Ready = false
		s.Problems = append(s.Problems, err.Error())
	}
	for _, provider := range p.providers.All() {
		if !provider.Ready() {
			s.Problems = append(s.Problems, fmt.Sprintf("provider %s has not been reached: nobody can sign in there", provider.Name()))
		}
	}
	return s
}

func (p *proxyProcess) setUpProxy() error {
	b := p.bundle.Load()
	services, err := b.proxyServices()
	if err != nil {
		return err
	}
	p.api = newAPIListener(net.TCPAddrFromAddrPort(b.Config.Listen[0]))
	l := b.Config.Limits
	p.proxy, err = proxy.New(proxy.Config{
		Services: services, Gateway: addresses(b.Config.Listen), API: p.api.take,
		Sessions: lookup{p.table, p.cluster}, Policy: p, Gate: p.gate, Observer: p.observe, Certificate: p.cert.Get, Clock: p.clock, Logger: p.log,
		Limits: proxy.Limits{Handshake: l.HandshakeTimeout, Unauthenticated: l.Unauthenticated, UnauthenticatedPerSource: l.UnauthenticatedPerSource},
	})
	return err
}

func (p *proxyProcess) serveAPI(ctx context.Context) error {
	handler := identity.NewHandler(identity.HandlerConfig{
		Name: p.bundle.Load().Config.Name, Version: p.version, Logins: p.logins, Machines: p.machines, Services: p.signIns(), Ends: p.endings(), Clock: p.clock,
	})
	if p.cluster != nil {
		here := http.Handler(handler)
		p.cluster.signIn.Store(&here)
	}
	return p.serveHTTP(ctx, p.api, &http.Server{Handler: p.outsiders(p.cluster.forward(handler)), ConnState: p.api.connState})
}

func (p *proxyProcess) serveControl(ctx context.Context) error {
	l, err := net.FileListener(p.files[fileControl])
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	return p.control.Serve(ctx, l)
}

// serveMetrics serves Prometheus metrics on a TCP listener, if one is configured.
func (p *proxyProcess) serveMetrics(ctx context.Context) error {
	addr := p.bundle.Load().Config.Metrics
	if !addr.IsValid() {
		return nil
	}
	l, err := net.Listen("tcp", addr.String())
	if err != nil {
		return fmt.Errorf("metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", p.metrics.Handler())
	return p.serveHTTP(ctx, l, &http.Server{Handler: mux})
}

func (p *proxyProcess) serveHTTP(ctx context.Context, l net.Listener, server *http.Server) error {
	server.ReadHeaderTimeout, server.ReadTimeout, server.WriteTimeout = apiHeaderTimeout, apiTimeout, apiTimeout
	server.IdleTimeout, server.MaxHeaderBytes = apiIdleTimeout, apiMaxHeader
	server.ErrorLog = slog.NewLogLogger(p.log.Handler(), slog.LevelDebug)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		if server.Shutdown(grace) != nil {
			_ = server.Close() // whoever is left had their time
		}
	}()
	err := server.Serve(l)
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	}
	<-stopped
	return nil
}

// gateCounters reads what the gate has counted; nil where there is none.
func (p *proxyProcess) gateCounters() func() (map[string]uint64, error) {
	if p.kernel == nil {
		return nil
	}
	return func() (map[string]uint64, error) {
		s, err := p.kernel.GateStats()
		return map[string]uint64{
			"no_socket": s.NoSocket, "untagged": s.Untagged, "reset": s.Resets, "no_session": s.NoSession,
			"session_over": s.SessionOver, "connection_over": s.ConnectionOver, "unparsed": s.Unparsed,
		}, err
	}
}

// enforcerCounters are what the privileged process has told of itself.
func (p *proxyProcess) enforcerCounters() (sweeps, swept, missed uint64) {
	s := p.link.Stats()
	return s.Sweeps, s.Swept, s.Missed
}
