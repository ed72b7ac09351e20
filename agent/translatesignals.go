// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"bytes"
	"net/http"
	"strings"

	"github.com/curfew-proxy/curfew/agent/config"
	"github.com/curfew-proxy/curfew/agent/signals"
)

// signals translates who tells the agent about sessions for package signals.
func (b *bundle) signals() (c signals.Config) {
	for _, s := range b.Config.Signals {
		c.Transmitters = append(c.Transmitters, b.transmitter(s))
	}
	for _, s := range b.Config.SCIM {
		c.Provisioners = append(c.Provisioners, signals.Provisioner{Name: s.Name, Tokens: b.tokens(s.TokenFile), Issuer: s.Issuer,
			UserName: s.UserName, ExternalID: s.ExternalID})
	}
	for _, w := range b.Config.Webhooks {
		c.Webhooks = append(c.Webhooks, signals.Webhook{Name: w.Name, Tokens: b.tokens(w.TokenFile), Issuer: w.Issuer})
	}
	return c
}

func (b *bundle) transmitter(s config.Signal) signals.Transmitter {
	t := signals.Transmitter{Name: s.Name, Issuer: s.Issuer, Audience: s.Audience, Issuers: s.Issuers, MaxAge: s.MaxAge, JWKSURI: s.JWKSURI,
		Algorithms: s.Algorithms, CA: b.Files[s.CAFile], CredentialChange: s.CredentialChange, DeviceCompliance: s.DeviceCompliance,
		Opaque: s.Opaque, SessionIDs: s.SessionIDs, Tokens: b.tokens(s.TokenFile), PollURL: s.Poll}
	if list := b.tokens(s.AccessTokenFile); len(list) > 0 {
		t.Access.Token = list[0]
	}
	if c := s.Client; c != nil {
		t.Access = signals.Access{TokenEndpoint: c.TokenEndpoint, ClientID: c.ID, Scope: c.Scope,
			ClientSecret: string(bytes.TrimSpace(b.Files[c.SecretFile]))}
	}
	return t
}

// tokens are those in a file, one a line.
func (b *bundle) tokens(path string) []string { return strings.Fields(string(b.Files[path])) }

// setUpSignals prepares what takes in what others tell the agent about sessions.
func (p *proxyProcess) setUpSignals() error {
	p.signals = &listening{fresh: make(chan struct{}, 1)}
	return p.takeNow(p.prepareSignals)
}

// outsiders serves what is not for users with a key, and all else by handler.
func (p *proxyProcess) outsiders(handler http.Handler) http.Handler {
	mux := http.NewServeMux()
	for _, path := range signals.Paths() {
		mux.Handle(path, p.signals)
	}
	mux.Handle("/", handler)
	return mux
}
