// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/curfew-proxy/curfew/agent/jose"
)

// Config describes one OpenID provider and the agent's registration there.
type Config struct {
	Name         string // names the provider in URLs and on the command line: [a-z0-9-], up to 32
	Issuer       string // exactly as in the provider's discovery document
	ClientID     string
	ClientSecret string // empty for a public client, which is protected by PKCE alone
	// RedirectURL is the agent's callback as registered at the provider:
	// https://AGENT/callback/NAME. Sign-in pages are served at the same host.
	RedirectURL string

	Scopes []string // beside "openid"; default: profile, email
	// GroupsClaim is the claim that holds the user's groups, by its exact name, or as a JSON
	// pointer (RFC 6901) if it starts with a slash: "/realm_access/roles". Default: groups.
	GroupsClaim string
	// TrustedAudiences may stand beside ClientID in an ID token's audience. Any other is refused
	// (OpenID Connect Core 1.0, section 3.1.3.7, rule 3).
	TrustedAudiences []string
	// Algorithms that may sign ID tokens; default: all asymmetric ones.
	Algorithms   []string
	Revalidation Revalidation
	// PostLogoutRedirect asks the provider to send browsers back to https://AGENT/signed-out/NAME, which must be registered
	// there, when they have signed out.
	PostLogoutRedirect bool
	// FrontChannelLogout takes the word of whoever knows a session's sid that it is over: for providers that tell nobody
	// but the browser.
	FrontChannelLogout bool
	// Device admits sign-ins by a code that is entered elsewhere (RFC 8628). Whoever talks somebody into entering a code has
	// their session.
	Device bool
	// CA has, in PEM, the certificates that the provider's own is checked against; default: the
	// system's.
	CA []byte
}

var providerName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

// Validate says what is wrong with c, naming the field, or returns nil.
func (c *Config) Validate() error {
	switch {
	case !providerName.MatchString(c.Name):
		return fmt.Errorf("name %q: want a-z, 0-9 and -, at most 32 characters", c.Name)
	case c.ClientID == "":
		return errors.New("client_id: missing")
	}
	if err := jose.CheckEndpoint(c.Issuer); err != nil {
		return fmt.Errorf("issuer: %w", err)
	}
	if u, err := url.Parse(c.RedirectURL); err != nil || u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("redirect_url %q: want https://HOST/callback/%s", c.RedirectURL, c.Name)
	}
	_, err := jose.Algorithms(c.Algorithms)
	return err
}

func (c Config) withDefaults() Config {
	if c.GroupsClaim == "" {
		c.GroupsClaim = "groups"
	}
	if len(c.Scopes) == 0 {
		c.Scopes = []string{oidc.ScopeProfile, oidc.ScopeEmail}
	}
	if !slices.Contains(c.Scopes, oidc.ScopeOpenID) {
		c.Scopes = append([]string{oidc.ScopeOpenID}, c.Scopes...)
	}
	c.Algorithms, _ = jose.Algorithms(c.Algorithms) // has been validated
	return c
}
