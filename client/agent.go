// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
)

// Limits on answers of the agent.
const (
	answerTimeout = 30 * time.Second
	maxAnswer     = 4 << 20
)

// Config says which agent is meant and how to get to know it.
type Config struct {
	Home  string // see Home
	Agent Address
	// Fingerprint, if not nil, is what the agent's must be.
	Fingerprint *Fingerprint
	// Forget drops what was known of the agent's key.
	Forget bool
	// Confirm is asked about the fingerprint of an agent that nobody vouches for, when it is seen
	// for the first time. Nil means no.
	Confirm func(Fingerprint) (bool, error)
	// Roots are the authorities to trust; nil means the system's.
	Roots *x509.CertPool
}

// Agent is an agent as one of its users sees it. It is safe for concurrent use.
type Agent struct {
	Address Address
	Trust   Trust
	Store   *Store

	roots *x509.CertPool
	cert  *tls.Certificate // nil if requests carry no client key
	http  *http.Client
}

// Connect returns the agent that cfg means. The first time, it looks at the agent's certificate:
// one that the system's roots vouch for is trusted by its name from then on, any other is pinned
// by its fingerprint, if that is given or confirmed. A changed fingerprint is refused.
func Connect(ctx context.Context, cfg Config) (*Agent, error) {
	store := OpenStore(cfg.Home, cfg.Agent)
	k, err := store.loadAgent()
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, err
	case err != nil || cfg.Forget:
		if k, err = cfg.meet(ctx, store); err != nil {
			return nil, err
		}
	case cfg.Fingerprint != nil && (k.Trust.Pin == nil || *k.Trust.Pin != *cfg.Fingerprint):
		return nil, otherFingerprint(cfg.Agent, k.Trust)
	}
	return newAgent(cfg.Agent, k.Trust, store, cfg.Roots, nil), nil
}

// meet looks at an agent for the first time and keeps by what it is known from then on.
func (cfg *Config) meet(ctx context.Context, store *Store) (known, error) {
	chain, err := probe(ctx, cfg.Agent)
	if err != nil {
		return known{}, err
	}
	k := known{Address: cfg.Agent}
	if k.Trust, err = cfg.decide(chain); err != nil {
		return known{}, err
	}
	return k, store.saveAgent(k, chain)
}

func (cfg *Config) decide(chain []*x509.Certificate) (Trust, error) {
	have := FingerprintOf(chain[0])
	pinned := Trust{Pin: &have}
	if want := cfg.Fingerprint; want != nil {
		if *want != have {
			return Trust{}, &api.Error{Code: api.CodeForbidden,
				Message: fmt.Sprintf("the fingerprint of %s is %s, not the one given", cfg.Agent, have),
				Hint:    "ask the operator for the right one; nothing was sent"}
		}
		return pinned, nil
	}
	if (Trust{}).verify(cfg.Agent, cfg.Roots, chain) == nil {
		return Trust{}, nil
	}
	if cfg.Confirm != nil {
		if ok, err := cfg.Confirm(have); err != nil {
			return Trust{}, err
		} else if ok {
			return pinned, nil
		}
	}
	return Trust{}, &api.Error{Code: api.CodeForbidden,
		Message: fmt.Sprintf("%s is not known yet; its fingerprint is %s", cfg.Agent, have),
		Hint:    "compare it with what the operator told you, then add --fingerprint " + have.String()}
}

func otherFingerprint(addr Address, t Trust) error {
	msg := fmt.Sprintf("%s is known by the system's certificate authorities, not by fingerprint", addr)
	if t.Pin != nil {
		msg = fmt.Sprintf("%s is known by another fingerprint, %s", addr, t.Pin)
	}
	return &api.Error{Code: api.CodeForbidden, Message: msg,
		Hint: "if the operator confirms the new one, add --forget"}
}

func newAgent(addr Address, trust Trust, store *Store, roots *x509.CertPool, cert *tls.Certificate) *Agent {
	a := &Agent{Address: addr, Trust: trust, Store: store, roots: roots, cert: cert}
	a.http = &http.Client{
		Timeout: answerTimeout,
		Transport: &http.Transport{
			DialContext:         (&net.Dialer{Timeout: dialTimeout}).DialContext,
			TLSClientConfig:     trust.tlsConfig(addr, roots, cert),
			TLSHandshakeTimeout: dialTimeout,
			MaxIdleConns:        1, // requests are few
			IdleConnTimeout:     10 * time.Second,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return a
}

// withCert returns the same agent, for requests that carry a client key.
func (a *Agent) withCert(cert tls.Certificate) *Agent {
	return newAgent(a.Address, a.Trust, a.Store, a.roots, &cert)
}

// SignedIn returns the same agent, for requests that carry the key in the store. It returns an
// *api.Error with a hint if there is none.
func (a *Agent) SignedIn() (*Agent, error) {
	cert, err := a.Store.LoadKey()
	if err != nil {
		return nil, err
	}
	return a.withCert(cert), nil
}

// Info asks the agent who it is.
func (a *Agent) Info(ctx context.Context) (info api.AgentInfo, err error) {
	err = a.do(ctx, http.MethodGet, api.PathInfo, nil, &info)
	return info, err
}

// Services asks which services the session may use.
func (a *Agent) Services(ctx context.Context) (services []api.Service, err error) {
	err = a.do(ctx, http.MethodGet, api.PathServices, nil, &services)
	return services, err
}

// do sends one request. It returns what the agent answered as an *api.Error if that is no
// success, and CodeUnreachable if there was no answer.
func (a *Agent) do(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encode request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	path, query, _ := strings.Cut(path, "?")
	u := url.URL{Scheme: "https", Host: a.Address.String(), Path: path, RawQuery: query}
	req, err := http.NewRequestWithContext(ctx, method, u.String(), body)
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := a.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return unreachable(a.Address, err)
	}
	defer resp.Body.Close()
	return readAnswer(a.Address, resp, out)
}

func readAnswer(addr Address, resp *http.Response, out any) error {
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return unreachable(addr, err)
	}
	if resp.StatusCode >= 200 && resp.StatusCode <= 299 {
		if err := json.Unmarshal(b, out); err != nil {
			return &api.Error{Code: api.CodeInternal, Cause: err,
				Message: fmt.Sprintf("the answer of %s is not understood: %v", addr, err),
				Hint:    "is this a curfew agent, and of this version?"}
		}
		return nil
	}
	e := new(api.Error)
	if json.Unmarshal(b, e) != nil || e.Code == "" {
		e = &api.Error{Code: api.CodeInternal, Message: fmt.Sprintf("%s answered %s", addr, resp.Status),
			Hint: "is this a curfew agent?"}
	}
	return e
}
