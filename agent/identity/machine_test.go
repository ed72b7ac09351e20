// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/session"
	"github.com/curfew-proxy/curfew/test/jwt"
)

// cluster issues tokens as Kubernetes does: its keys are at an address of their own, behind a private authority.
type cluster struct {
	*httptest.Server
	key     *jwt.Key
	refused atomic.Bool // the keys cannot be had
}

const clusterIssuer = "https://kubernetes.default.svc.cluster.local"

func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{key: jwt.NewKey(t, "k")}
	c.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c.refused.Load() || r.URL.Path != "/openid/v1/jwks" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		jwt.Serve(c.key)(w, r)
	}))
	c.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	t.Cleanup(c.Close)
	return c
}

func (c *cluster) config() MachineConfig {
	return MachineConfig{Name: "prod", Issuer: clusterIssuer, Audience: "curfew", MaxAge: time.Hour, GroupsClaim: "groups",
		Subjects: []string{"system:serviceaccount:prod:*"}, JWKSURI: c.URL + "/openid/v1/jwks",
		CA: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate().Raw})}
}

// token is a good one, but for what change does to it.
func (c *cluster) token(t *testing.T, change func(claims, header map[string]any)) string {
	t.Helper()
	now := time.Now().Unix()
	claims := map[string]any{"iss": clusterIssuer, "sub": "system:serviceaccount:prod:backup", "aud": []string{"curfew"}, "iat": now, "nbf": now, "exp": now + 600,
		"kubernetes.io": map[string]any{"namespace": "prod"}}
	header := map[string]any{"alg": "RS256", "kid": "k"}
	if change != nil {
		change(claims, header)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	return c.key.Sign(t, header, string(payload))
}

// sessionsOfKeys does what Machines may expect of a session table.
type sessionsOfKeys struct {
	mu          sync.Mutex // guards the fields below
	byKey       map[session.Key]session.Session
	credentials map[session.Credential]session.Key
	last        NewSession
	fail        error
}

func (s *sessionsOfKeys) Create(_ context.Context, n NewSession) (session.Session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = n
	if s.fail != nil {
		return session.Session{}, s.fail
	}
	if owner, used := s.credentials[n.Credential]; used && owner != n.Key {
		return session.Session{}, session.ErrCredentialUsed
	}
	s.credentials[n.Credential] = n.Key
	made := session.Session{ID: session.NewID(), Key: n.Key, Identity: n.Identity, Method: n.Method, Credential: n.Credential}
	s.byKey[n.Key] = made
	return made, nil
}

func (s *sessionsOfKeys) ByKey(k session.Key) (session.Session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.byKey[k]
	if !ok {
		return v, session.ErrUnknownKey
	}
	if v.Ended != nil {
		return v, &session.EndedError{ID: v.ID, End: *v.Ended}
	}
	return v, nil
}

func (s *sessionsOfKeys) End(context.Context, session.ID, session.End) error { return nil }

func (s *sessionsOfKeys) end(k session.Key, end session.End) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.byKey[k]
	v.Ended = &end
	s.byKey[k] = v
}

// desk is Machines with all that is around it.
type desk struct {
	*Machines
	table  *sessionsOfKeys
	counts map[string]int
	log    bytes.Buffer
}

func newDesk(t *testing.T, configs ...MachineConfig) *desk {
	t.Helper()
	d := &desk{counts: map[string]int{}, table: &sessionsOfKeys{byKey: map[session.Key]session.Session{}, credentials: map[session.Credential]session.Key{}}}
	var err error
	d.Machines, err = NewMachines(MachinesConfig{Machines: configs, Sessions: d.table, Log: slog.New(slog.NewTextHandler(&d.log, nil)), Count: func(e string) { d.counts[e]++ }})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

var pod = netip.MustParseAddr("10.1.2.3")

// present signs in with a token, and checks that whatever comes of it is counted and logged once, without the token.
func (d *desk) present(t *testing.T, key byte, token string) (session.Session, error) {
	t.Helper()
	before := d.total()
	d.log.Reset()
	s, err := d.SignIn(t.Context(), session.Key{key}, pod, api.LoginToken{Token: token})
	if d.total() != before+1 || strings.Count(d.log.String(), "\n") != 1 {
		t.Errorf("counted %v, logged %q", d.counts, &d.log)
	}
	if len(token) > 8 && strings.Contains(d.log.String(), token[len(token)-8:]) {
		t.Errorf("the token is in the log: %s", &d.log)
	}
	return s, err
}

func (d *desk) total() (n int) {
	for _, c := range d.counts {
		n += c
	}
	return n
}

func wantCode(t *testing.T, what string, err error, code, text string) {
	t.Helper()
	var e *api.Error
	if !errors.As(err, &e) || e.Code != code || !strings.Contains(e.Message, text) || e.Hint == "" {
		t.Errorf("%s: %#v; want %s, %q and a hint", what, err, code, text)
	}
}
