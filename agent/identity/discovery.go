// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"fmt"
	"slices"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/curfew-proxy/curfew/agent/jose"
)

// discovery is what is read of the discovery document: OpenID Connect Discovery 1.0, section 3, and what extends it.
type discovery struct {
	Authorization string   `json:"authorization_endpoint"`
	Token         string   `json:"token_endpoint"`
	Keys          string   `json:"jwks_uri"`
	Revocation    string   `json:"revocation_endpoint"`
	UserInfo      string   `json:"userinfo_endpoint"`
	EndSession    string   `json:"end_session_endpoint"`
	Device        string   `json:"device_authorization_endpoint"`
	AuthMethods   []string `json:"token_endpoint_auth_methods_supported"`
	SendsIss      bool     `json:"authorization_response_iss_parameter_supported"`
}

func (d *discovery) check() error {
	for name, endpoint := range map[string]string{
		"authorization_endpoint": d.Authorization, "token_endpoint": d.Token, "jwks_uri": d.Keys,
	} {
		if err := jose.CheckEndpoint(endpoint); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	for name, endpoint := range map[string]string{
		"revocation_endpoint": d.Revocation, "userinfo_endpoint": d.UserInfo, "device_authorization_endpoint": d.Device,
		"end_session_endpoint": d.EndSession,
	} {
		if endpoint == "" {
			continue
		}
		if err := jose.CheckEndpoint(endpoint); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// metadata is what a document says, for use with settings. Keys stay, with their limiter, where they come from the same place.
func (p *Provider) metadata(s *settings, doc discovery) *metadata {
	keys := jose.NewKeySet(doc.Keys, s.client, p.now)
	if old := p.meta.Load(); old != nil && old.keys.URL() == doc.Keys {
		keys = old.keys
	}
	return &metadata{
		settings:   s,
		doc:        doc,
		keys:       keys,
		revocation: doc.Revocation,
		userinfo:   doc.UserInfo,
		endSession: doc.EndSession,
		device:     doc.Device,
		sendsIss:   doc.SendsIss,
		verifier: oidc.NewVerifier(s.cfg.Issuer, keys, &oidc.Config{
			ClientID: s.cfg.ClientID, SupportedSigningAlgs: s.cfg.Algorithms, Now: p.now,
		}),
		oauth: oauth2.Config{
			ClientID:     s.cfg.ClientID,
			ClientSecret: s.cfg.ClientSecret,
			Endpoint:     oauth2.Endpoint{AuthURL: doc.Authorization, TokenURL: doc.Token, AuthStyle: s.authStyle(doc.AuthMethods)},
			RedirectURL:  s.cfg.RedirectURL,
			Scopes:       s.cfg.Scopes,
		},
	}
}

// authStyle picks how to authenticate at the token endpoint. It must be set: x/oauth2 would
// find out by trying, and a first try may use up the code.
func (s *settings) authStyle(supported []string) oauth2.AuthStyle {
	basic := len(supported) == 0 || slices.Contains(supported, "client_secret_basic")
	if s.cfg.ClientSecret == "" || !basic {
		return oauth2.AuthStyleInParams
	}
	return oauth2.AuthStyleInHeader
}

// discover reads the document anew. After an error all stays as it was, and so it does where the certificates to believe were
// replaced meanwhile: whoever did that has asked for another try.
func (p *Provider) discover(ctx context.Context) error {
	s := p.settings.Load()
	var doc discovery
	if err := jose.Discover(ctx, s.client, s.cfg.Issuer, &doc); err != nil {
		return err
	}
	if err := doc.check(); err != nil {
		return fmt.Errorf("discover: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.settings.Load()
	if now.client != s.client {
		return nil
	}
	if p.meta.Swap(p.metadata(now, doc)) == nil {
		close(p.found)
	}
	return nil
}

// take replaces the settings. What was found out stays, unless it was found out from somebody with a certificate that is
// not to be believed any more.
func (p *Provider) take(next *settings) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old, known := p.settings.Swap(next), p.meta.Load()
	defer close(old.replaced)
	switch {
	case old.client == next.client && known != nil:
		p.meta.Store(p.metadata(next, known.doc))
	case old.client != next.client && known != nil:
		p.meta.Store(nil)
		p.found = make(chan struct{})
	}
	if old.client != next.client {
		old.client.CloseIdleConnections()
		select {
		case p.kick <- struct{}{}:
		default: // it is to be tried already
		}
	}
}
