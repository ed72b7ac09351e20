// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"fmt"
	"regexp"
	"time"
)

// Signal is a transmitter of security events: OpenID Shared Signals.
type Signal struct {
	Name     string `yaml:"name" required:"true"`
	Issuer   string `yaml:"issuer" required:"true"`   // the claim iss of events, exactly
	Audience string `yaml:"audience" required:"true"` // the claim aud, exactly
	// Issuers are those whose users it may speak of; default: its own.
	Issuers    []string      `yaml:"issuers"`
	MaxAge     time.Duration `yaml:"max_age" min:"1m"` // since the claim iat
	JWKSURI    string        `yaml:"jwks_uri"`         // where its keys are; default: its SSF configuration says
	CAFile     string        `yaml:"ca_file"`          // PEM; none: the system's
	Algorithms []string      `yaml:"algorithms"`       // none: all asymmetric ones

	CredentialChange string `yaml:"credential_change" oneof:"end|reconsider|fresh"`
	DeviceCompliance string `yaml:"device_compliance" oneof:"end|ignore"`
	Opaque           string `yaml:"opaque" oneof:"session|user"`
	SessionIDs       string `yaml:"session_ids" oneof:"sid|unknown"`

	TokenFile string `yaml:"token_file"` // bearer tokens that it pushes events with; none: it cannot
	Poll      string `yaml:"poll"`       // where its events are fetched; none: they are not
	// AccessTokenFile or Client is how we prove who we are, to fetch events and to manage streams.
	AccessTokenFile string        `yaml:"access_token_file"`
	Client          *SignalClient `yaml:"client"`
}

// SignalClient are credentials that an authorization server gives access tokens for.
type SignalClient struct {
	TokenEndpoint string `yaml:"token_endpoint" required:"true"`
	ID            string `yaml:"id" required:"true"`
	SecretFile    string `yaml:"secret_file" required:"true"`
	Scope         string `yaml:"scope"`
}

// SCIM is a client that tells which users are deactivated.
type SCIM struct {
	Name      string `yaml:"name" required:"true"`
	Issuer    string `yaml:"issuer" required:"true"` // whose users they are: the claim iss of their ID tokens
	TokenFile string `yaml:"token_file" required:"true"`
	// UserName and ExternalID say what these attributes are in ID tokens.
	UserName   string `yaml:"user_name" oneof:"email|subject|ignore"`
	ExternalID string `yaml:"external_id" oneof:"email|subject|ignore"`
}

// Webhook is somebody who may end sessions with a plain request.
type Webhook struct {
	Name      string `yaml:"name" required:"true"`
	TokenFile string `yaml:"token_file" required:"true"`
	Issuer    string `yaml:"issuer"` // the only one whose users' sessions it may end; none: all
}

// Limits on signals.
const (
	maxEventAge    = 7 * 24 * time.Hour
	minBearerToken = 32 // characters
)

// bearerToken is the grammar of RFC 6750, section 2.1.
var bearerToken = regexp.MustCompile(`^[A-Za-z0-9._~+/-]+=*$`)

func (d *document) checkSignals(c *Config) {
	for i := range c.Signals {
		key, s := fmt.Sprintf("signals[%d]", i), &c.Signals[i]
		d.checkSignal(key, s)
		d.checkSpokenOf(key, s, c)
	}
	for i := range c.SCIM {
		key, s := fmt.Sprintf("scim[%d]", i), &c.SCIM[i]
		d.checkProviderName(key+".name", s.Name)
		d.checkKnownIssuer(key+".issuer", s.Issuer, c)
		if s.UserName == "ignore" && s.ExternalID == "ignore" {
			d.wrongKey(key, "with both user_name and external_id ignored nobody can be meant", "say what one of them is")
		}
	}
	for i := range c.Webhooks {
		key := fmt.Sprintf("webhooks[%d]", i)
		d.checkProviderName(key+".name", c.Webhooks[i].Name)
		d.checkKnownIssuer(key+".issuer", c.Webhooks[i].Issuer, c)
	}
	d.checkUnique("signals", "transmitter", len(c.Signals), func(i int) string { return c.Signals[i].Name })
	d.checkUnique("scim", "client", len(c.SCIM), func(i int) string { return c.SCIM[i].Name })
	d.checkUnique("webhooks", "webhook", len(c.Webhooks), func(i int) string { return c.Webhooks[i].Name })
}

// checkSpokenOf checks whose users a transmitter may speak of.
func (d *document) checkSpokenOf(key string, s *Signal, c *Config) {
	if len(s.Issuers) == 0 {
		d.checkKnownIssuer(key+".issuer", s.Issuer, c)
	}
	for i, iss := range s.Issuers {
		d.checkKnownIssuer(fmt.Sprintf("%s.issuers[%d]", key, i), iss, c)
	}
}

// checkKnownIssuer notes an issuer that nobody signs in with: what is said of its users would have no effect, unnoticed.
func (d *document) checkKnownIssuer(key, issuer string, c *Config) {
	known := issuer == ""
	for _, p := range c.Providers {
		known = known || p.Issuer == issuer
	}
	for _, m := range c.Machines {
		known = known || m.Issuer == issuer
	}
	if !known {
		d.wrong(key, fmt.Sprintf("nobody signs in with %q", issuer), "want the issuer of a provider or machine")
	}
}

func (d *document) checkSignal(key string, s *Signal) {
	d.checkProviderName(key+".name", s.Name)
	d.checkIssuer(key+".issuer", s.Issuer)
	d.checkSource(key+".jwks_uri", s.JWKSURI, "the address of keys", "for example https://idp.example.com/keys")
	d.checkSource(key+".poll", s.Poll, "the address of events", "it is endpoint_url in the stream's configuration")
	for i, iss := range s.Issuers {
		if iss == "" {
			d.wrong(fmt.Sprintf("%s.issuers[%d]", key, i), "no issuer has an empty name", "delete it")
		}
	}
	if s.MaxAge > maxEventAge {
		d.wrong(key+".max_age", fmt.Sprintf("%s is too long", s.MaxAge), fmt.Sprintf("at most %s", maxEventAge))
	}
	d.checkAlgorithms(key, s.Algorithms)
	if s.TokenFile == "" && s.Poll == "" {
		d.wrongKey(key, "its events can neither be pushed nor fetched", "add token_file, or poll")
	}
	if s.AccessTokenFile != "" && s.Client != nil {
		d.wrongKey(key+".access_token_file", "access tokens come from client already", "give one of both")
	}
	if s.Poll != "" && s.AccessTokenFile == "" && s.Client == nil {
		d.wrongKey(key+".poll", "nothing says who we are there", "add access_token_file, or client")
	}
	if s.Client != nil {
		d.checkSource(key+".client.token_endpoint", s.Client.TokenEndpoint, "the address of an authorization server", "for example https://idp.example.com/token")
	}
}

// checkSignalFiles checks the files with what proves who somebody is.
func (d *document) checkSignalFiles(c *Config) {
	for i, s := range c.Signals {
		key := fmt.Sprintf("signals[%d].", i)
		d.checkTokenFile(key+"token_file", s.TokenFile, minBearerToken)
		d.checkTokenFile(key+"access_token_file", s.AccessTokenFile, 1)
		d.checkCA(key+"ca_file", s.CAFile)
		if s.Client != nil {
			d.checkSecret(key+"client.secret_file", s.Client.SecretFile)
		}
	}
	for i, s := range c.SCIM {
		d.checkTokenFile(fmt.Sprintf("scim[%d].token_file", i), s.TokenFile, minBearerToken)
	}
	for i, w := range c.Webhooks {
		d.checkTokenFile(fmt.Sprintf("webhooks[%d].token_file", i), w.TokenFile, minBearerToken)
	}
}

// checkTokenFile checks a file of bearer tokens, one a line, of at least least characters. What is wrong with one is said
// without it.
func (d *document) checkTokenFile(key, path string, least int) {
	b := d.readFile(key, path, true)
	if b == nil {
		return
	}
	tokens := bytes.Fields(b)
	if len(tokens) == 0 {
		d.wrong(key, path+" is empty", "openssl rand -hex 32 makes a token")
	}
	for _, t := range tokens {
		if len(t) < least {
			d.wrong(key, fmt.Sprintf("a token in %s has %d characters", path, len(t)), fmt.Sprintf("at least %d, at random: openssl rand -hex 32", least))
		} else if !bearerToken.Match(t) {
			d.wrong(key, fmt.Sprintf("%s has something that is no bearer token", path), "one a line, of letters, digits and . _ ~ + / - =")
		}
	}
}
