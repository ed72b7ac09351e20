// SPDX-License-Identifier: Apache-2.0

package identity_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/identity"
	"github.com/curfew-proxy/curfew/agent/session"
	"github.com/curfew-proxy/curfew/client"
	"github.com/curfew-proxy/curfew/test/oidc"
	"github.com/curfew-proxy/curfew/test/selfsigned"
)

const (
	clientID     = "curfew"
	clientSecret = "a secret with spaces, &, %, + and :"
)

// table is a session table that does what this package may expect of one.
type table struct {
	mu    sync.Mutex // guards byKey
	byKey map[session.Key]session.Session
	ended func(session.ID) // as the agent does it: told of each end
}

func (t *table) Create(_ context.Context, n identity.NewSession) (session.Session, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	s := session.Session{ID: session.NewID(), Identity: n.Identity, Key: n.Key, Method: n.Method,
		Created: now, Deadline: now.Add(time.Hour), Until: clock{}.Boot().Add(time.Hour)}
	t.byKey[n.Key] = s
	return s, nil
}

func (t *table) ByKey(k session.Key) (session.Session, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, ok := t.byKey[k]
	if !ok {
		return s, session.ErrUnknownKey
	}
	return s, nil
}

func (t *table) End(_ context.Context, id session.ID, end session.End) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, s := range t.byKey {
		if s.ID == id && s.Ended == nil {
			s.Ended = &end
			t.byKey[k] = s
			t.ended(id)
		}
	}
	return nil
}

func (t *table) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.byKey)
}

// clock is CLOCK_BOOTTIME as far as a test can tell.
type clock struct{}

var started = time.Now()

func (clock) Boot() session.Instant     { return session.Instant(time.Since(started)) + 1 }
func (c clock) Coarse() session.Instant { return c.Boot() }
func (clock) Wall() time.Time           { return time.Now() }

// services are db, for its administrators, and for them too what a test adds.
type services struct{ more *[]api.Service }

func (v services) ServicesFor(s session.Session, _ netip.AddrPort) []api.Service {
	if !s.Identity.HasGroup("dba") {
		return nil
	}
	list := []api.Service{{Name: "db", Protocol: "postgres"}}
	for _, svc := range *v.more {
		svc.Missing = svc.Require.Requirement().Missing(s.Identity, time.Now().Add(session.AuthLeeway)) // tests do not wait so long
		list = append(list, svc)
	}
	return list
}

// agent is the sign-in API over real TLS.
type agent struct {
	addr   client.Address
	roots  *x509.CertPool
	finger client.Fingerprint
	logins *identity.Logins
	vault  *identity.Vault
	table  *table
	home   string

	machines []identity.MachineConfig // set before serve
	services []api.Service            // beside db; set before requests
	listener net.Listener
	cert     tls.Certificate

	mu     sync.Mutex // guards counts
	counts map[string]int
}

// listen opens the agent's port: providers must know its callback before they start.
func listen(t *testing.T) *agent {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	addr, err := client.ParseAddress(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	a := &agent{addr: addr, listener: l, home: t.TempDir(), counts: map[string]int{},
		table: &table{byKey: map[session.Key]session.Session{}}, roots: x509.NewCertPool()}
	a.cert = selfsigned.Certificate(t, "127.0.0.1")
	a.finger = client.FingerprintOf(a.cert.Leaf)
	a.roots.AddCert(a.cert.Leaf)
	return a
}

func (a *agent) callbackURL(provider string) string {
	return "https://" + a.addr.String() + "/callback/" + provider
}

// serve runs the agent until the test ends.
func (a *agent) serve(t *testing.T, configs ...identity.Config) {
	t.Helper()
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	ctx, cancel := context.WithCancel(context.Background())
	group, ctx := errgroup.WithContext(ctx)
	a.vault = identity.NewVault(log, a.count)
	a.table.ended = a.vault.EndLater
	providers, err := identity.NewProviders(configs, log)
	if err != nil {
		t.Fatal(err)
	}
	group.Go(func() error { return providers.Run(ctx) })
	a.logins = identity.NewLogins(identity.LoginsConfig{Providers: providers, Sessions: a.table, Vault: a.vault, Log: log, Count: a.count})
	machines, err := identity.NewMachines(identity.MachinesConfig{Machines: a.machines, Sessions: a.table, Log: log, Count: a.count})
	if err != nil {
		t.Fatal(err)
	}
	h := identity.NewHandler(identity.HandlerConfig{Name: "test", Version: "0", Logins: a.logins, Machines: machines, Services: services{&a.services}, Clock: clock{}})
	server := &http.Server{Handler: h, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug), TLSConfig: &tls.Config{
		Certificates: []tls.Certificate{a.cert}, ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS13,
	}}
	group.Go(func() error { return a.vault.Run(ctx) })
	group.Go(func() error { return a.logins.Run(ctx) })
	group.Go(func() error { _ = server.ServeTLS(a.listener, "", ""); return nil })
	t.Cleanup(func() {
		cancel()
		_ = server.Close()
		if err := group.Wait(); err != nil {
			t.Errorf("agent: %v", err)
		}
	})
}

func (a *agent) count(event string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.counts[event]++
}

func (a *agent) counted(event string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.counts[event]
}

// connect gets to know the agent as `curfew login --fingerprint` does.
func (a *agent) connect(t *testing.T) *client.Agent {
	t.Helper()
	c, err := client.Connect(t.Context(), client.Config{Home: a.home, Agent: a.addr, Fingerprint: &a.finger})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// withProvider starts a real provider that knows alice and mallory, and an agent that uses it.
func withProvider(t *testing.T) (*agent, *oidc.Provider) {
	t.Helper()
	a := listen(t)
	p := oidc.Start(t, oidc.Options{
		Clients: []oidc.Client{oidc.WebClient(clientID, clientSecret, a.callbackURL("corp")).WithDevice()},
		Users:   map[string]oidc.Claims{"alice": {"name": "Alice A.", "email": "alice@example.com", "groups": []string{"dba", "staff"}}, "mallory": {}},
	})
	a.serve(t, a.config("corp", p.Issuer))
	a.waitReady(t, "corp")
	return a, p
}

func (a *agent) config(name, issuer string) identity.Config {
	return identity.Config{Name: name, Issuer: issuer, ClientID: clientID, ClientSecret: clientSecret, RedirectURL: a.callbackURL(name), Device: true}
}

func (a *agent) waitReady(t *testing.T, name string) {
	t.Helper()
	c := a.connect(t)
	eventually(t, "provider "+name+" is ready", func() bool {
		info, err := c.Info(t.Context())
		for _, p := range info.Providers {
			if p.Name == name && p.Ready {
				return err == nil
			}
		}
		return false
	})
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !cond(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}
