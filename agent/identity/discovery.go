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

func (p *Provider) metadata(doc discovery) *metadata {
	keys := jose.NewKeySet(doc.Keys, p.client, p.now)
	if old := p.meta.Load(); old != nil && old.keys.URL() == doc.Keys {
		keys = old.keys // with its limiter
	}
	return &metadata{
		keys:       keys,
		revocation: doc.Revocation,
		userinfo:   doc.UserInfo,
		endSession: doc.EndSession,
		device:     doc.Device,
		sendsIss:   doc.SendsIss,
		verifier: oidc.NewVerifier(p.cfg.Issuer, keys, &oidc.Config{
			ClientID: p.cfg.ClientID, SupportedSigningAlgs: p.cfg.Algorithms, Now: p.now,
		}),
		oauth: oauth2.Config{
			ClientID:     p.cfg.ClientID,
			ClientSecret: p.cfg.ClientSecret,
			Endpoint:     oauth2.Endpoint{AuthURL: doc.Authorization, TokenURL: doc.Token, AuthStyle: p.authStyle(doc.AuthMethods)},
			RedirectURL:  p.cfg.RedirectURL,
			Scopes:       p.cfg.Scopes,
		},
	}
}

// authStyle picks how to authenticate at the token endpoint. It must be set: x/oauth2 would
// find out by trying, and a first try may use up the code.
func (p *Provider) authStyle(supported []string) oauth2.AuthStyle {
	basic := len(supported) == 0 || slices.Contains(supported, "client_secret_basic")
	if p.cfg.ClientSecret == "" || !basic {
		return oauth2.AuthStyleInParams
	}
	return oauth2.AuthStyleInHeader
}

// discover reads the document anew. After an error all stays as it was.
func (p *Provider) discover(ctx context.Context) error {
	var doc discovery
	if err := jose.Discover(ctx, p.client, p.cfg.Issuer, &doc); err != nil {
		return err
	}
	if err := doc.check(); err != nil {
		return fmt.Errorf("discover: %w", err)
	}
	p.meta.Store(p.metadata(doc))
	p.once.Do(func() { close(p.found) })
	return nil
}
