// SPDX-License-Identifier: Apache-2.0

package client

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/session"
	"github.com/curfew-proxy/curfew/test/selfsigned"
)

// fakeAgent is an agent with one port: the sign-in API, and one service behind ALPN.
type fakeAgent struct {
	addr  Address
	cert  tls.Certificate
	roots *x509.CertPool

	mu      sync.Mutex // guards the fields below
	session api.Session
	unknown bool          // no session is known
	missing string        // for the service db
	token   string        // that is taken
	keys    []session.Key // that tokens came with
	serve   func(*tls.Conn)
	sni     []string
	open    []*tls.Conn
}

// newFakeAgent serves on addr ("127.0.0.1:0" for any) until the test ends or stop is called.
func newFakeAgent(t *testing.T, addr string) (a *fakeAgent, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	a = &fakeAgent{cert: selfsigned.Certificate(t, "127.0.0.1"), roots: x509.NewCertPool(), serve: echo,
		session: api.Session{ID: session.NewID(), State: api.StateLive, Left: api.Seconds(time.Hour)}}
	a.roots.AddCert(a.cert.Leaf)
	if a.addr, err = ParseAddress(l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	web := &webListener{conns: make(chan net.Conn), closed: make(chan struct{}), addr: l.Addr()}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+api.PathSession, a.getSession)
	mux.HandleFunc("DELETE "+api.PathSession, a.deleteSession)
	mux.HandleFunc("GET "+api.PathServices, a.getServices)
	mux.HandleFunc("POST "+api.PathLoginToken, a.postToken)
	server := &http.Server{Handler: mux}
	var running sync.WaitGroup
	running.Go(func() { _ = server.Serve(web) })
	running.Go(func() { a.accept(l, web, &running) })
	stop = sync.OnceFunc(func() {
		_ = l.Close()
		_ = server.Close()
		a.reset()
		running.Wait()
	})
	t.Cleanup(stop)
	return a, stop
}

func (a *fakeAgent) accept(l net.Listener, web *webListener, running *sync.WaitGroup) {
	cfg := &tls.Config{Certificates: []tls.Certificate{a.cert}, ClientAuth: tls.RequestClientCert,
		MinVersion: tls.VersionTLS13, NextProtos: []string{ALPN, "http/1.1"}}
	for {
		raw, err := l.Accept()
		if err != nil {
			return
		}
		running.Go(func() {
			conn := tls.Server(raw, cfg)
			if conn.Handshake() != nil {
				_ = raw.Close()
				return
			}
			if conn.ConnectionState().NegotiatedProtocol != ALPN {
				web.hand(conn)
				return
			}
			a.mu.Lock()
			serve := a.serve
			a.sni = append(a.sni, conn.ConnectionState().ServerName)
			a.open = append(a.open, conn)
			a.mu.Unlock()
			serve(conn)
			_ = conn.Close()
		})
	}
}

// reset ends all tunnels as the kernel does when a session is killed.
func (a *fakeAgent) reset() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.open {
		_ = c.NetConn().(*net.TCPConn).SetLinger(0)
		_ = c.NetConn().Close()
	}
	a.open = nil
}

// kill ends the session, and then its connections.
func (a *fakeAgent) kill(message string) {
	a.mu.Lock()
	a.session.State, a.session.Left = api.StateEnded, 0
	a.session.Ended = &session.End{Reason: session.ReasonKilled, Message: message, At: time.Now()}
	a.mu.Unlock()
	a.reset()
}

func (a *fakeAgent) getSession(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.unknown || len(r.TLS.PeerCertificates) == 0 {
		answer(w, http.StatusNotFound, api.Error{Code: api.CodeUnknownKey, Message: "unknown"})
		return
	}
	answer(w, http.StatusOK, a.session)
}

// postToken takes one token, with any key.
func (a *fakeAgent) postToken(w http.ResponseWriter, r *http.Request) {
	var req api.LoginToken
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
		answer(w, http.StatusBadRequest, api.Error{Code: api.CodeBadRequest, Message: err.Error()})
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.keys = append(a.keys, session.KeyOf(r.TLS.PeerCertificates[0]))
	if req.Token != a.token || req.Machine != "ci" {
		answer(w, http.StatusForbidden, api.Error{Code: api.CodeTokenRefused, Message: "refused", Hint: "hint"})
		return
	}
	a.session.ID, a.session.Method = session.NewID(), "token"
	answer(w, http.StatusCreated, a.session)
}

func (a *fakeAgent) deleteSession(w http.ResponseWriter, _ *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.session.State, a.session.Ended = api.StateEnded, &session.End{Reason: session.ReasonLogout}
	answer(w, http.StatusOK, api.LoggedOut{Session: a.session, Revoked: true})
}

func (a *fakeAgent) getServices(w http.ResponseWriter, _ *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.session.Ended != nil {
		answer(w, http.StatusForbidden, api.Error{Code: api.CodeSessionEnded, Message: "ended"})
		return
	}
	answer(w, http.StatusOK, []api.Service{{Name: "db", Missing: a.missing}, {Name: "cache"}})
}

func answer(w http.ResponseWriter, status int, v any) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// echo sends back what it gets, and the end of it.
func echo(c *tls.Conn) {
	_, _ = io.Copy(c, c)
	_ = c.CloseWrite()
}

// webListener hands connections whose handshake is over to an http.Server.
type webListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
	addr   net.Addr
}

func (l *webListener) hand(c net.Conn) {
	select {
	case l.conns <- c:
	case <-l.closed:
		_ = c.Close()
	}
}

func (l *webListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, errors.New("closed")
	}
}

func (l *webListener) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *webListener) Addr() net.Addr { return l.addr }

// signedIn connects to a with a key in the store, as after a sign-in.
func signedIn(t *testing.T, a *fakeAgent) *Agent {
	t.Helper()
	fp := FingerprintOf(a.cert.Leaf)
	agent, err := Connect(t.Context(), Config{Home: t.TempDir(), Agent: a.addr, Fingerprint: &fp})
	if err != nil {
		t.Fatal(err)
	}
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := agent.Store.SaveLogin(key, a.session); err != nil {
		t.Fatal(err)
	}
	return agent
}
