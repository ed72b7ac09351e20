// SPDX-License-Identifier: Apache-2.0

package config

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"
)

// Machine is an issuer of tokens that machines sign in with, and which of them may.
type Machine struct {
	Name     string `yaml:"name" required:"true"`
	Issuer   string `yaml:"issuer" required:"true"`   // the claim iss, exactly; an https URL unless the keys are given
	Audience string `yaml:"audience" required:"true"` // must be in the claim aud, exactly
	// TrustedAudiences may stand in aud beside Audience; a token for anybody else too is refused.
	TrustedAudiences []string `yaml:"trusted_audiences"`
	// Subjects are patterns of the claim sub, where * stands for characters without ":" and "/". Allow is a CEL
	// expression over claims. At least one of both is needed; if both are there, both must admit the token.
	Subjects []string      `yaml:"subjects"`
	Allow    string        `yaml:"allow"`
	MaxAge   time.Duration `yaml:"max_age" min:"1s"` // since the claim iat
	// JWKSURI or JWKSFile is where the issuer's keys are; without, they are found by its discovery document.
	JWKSURI     string   `yaml:"jwks_uri"`
	JWKSFile    string   `yaml:"jwks_file"`
	CAFile      string   `yaml:"ca_file"` // PEM; none: the system's
	GroupsClaim string   `yaml:"groups_claim" required:"true"`
	Algorithms  []string `yaml:"algorithms"` // none: all asymmetric ones
	// AccessTokens also admits tokens of type at+jwt (RFC 9068), which others than us may have been shown.
	AccessTokens bool `yaml:"access_tokens"`
	OutliveToken bool `yaml:"outlive_token"` // sessions may last longer than the token that they were made with
}

// maxTokenAge is the most that max_age may be: a token that was stolen later is of no use.
const maxTokenAge = 24 * time.Hour

// signature matches the names of algorithms that sign with a private key (RFC 7518, section 3.1; RFC 8037).
var signature = regexp.MustCompile(`^(RS|PS|ES)(256|384|512)$|^EdDSA$`)

func (d *document) checkMachines(c *Config, hooks Hooks) {
	for i := range c.Machines {
		key, m := fmt.Sprintf("machines[%d]", i), &c.Machines[i]
		d.checkProviderName(key+".name", m.Name)
		d.checkMachineIssuer(key, m, c.Providers)
		d.checkMachineRules(key, m)
		if m.Allow != "" {
			d.checkPolicy(key+".allow", hooks.CompileClaims(m.Allow))
		}
	}
	d.checkUnique("machines", "machine", len(c.Machines), func(i int) string { return c.Machines[i].Name })
}

// checkMachineIssuer checks who issues the tokens, and where the keys come from.
func (d *document) checkMachineIssuer(key string, m *Machine, providers []Provider) {
	if m.JWKSURI == "" && m.JWKSFile == "" { // else it is only compared
		d.checkIssuer(key+".issuer", m.Issuer)
	}
	d.checkSource(key+".jwks_uri", m.JWKSURI, "the address of keys", "for example https://kubernetes.default.svc/openid/v1/jwks")
	if m.JWKSURI != "" && m.JWKSFile != "" {
		d.wrongKey(key+".jwks_file", "the keys come from jwks_uri already", "give one of both")
	}
	if m.CAFile != "" && m.JWKSFile != "" {
		d.wrongKey(key+".ca_file", "nothing is fetched: the keys are in jwks_file", "delete the line")
	}
	for _, p := range providers {
		if m.Issuer != "" && p.Issuer == m.Issuer && p.ClientID == m.Audience {
			d.wrong(key+".audience", fmt.Sprintf("with this one the ID tokens of users at provider %q would be machines' tokens", p.Name),
				"have the issuer make tokens for an audience of their own")
		}
	}
}

// checkMachineRules checks which tokens may sign in.
func (d *document) checkMachineRules(key string, m *Machine) {
	if len(m.Subjects) == 0 && m.Allow == "" {
		d.wrongKey(key, "says nothing about which tokens may sign in", "add subjects, or allow, or both")
	}
	for i, pattern := range m.Subjects {
		child := fmt.Sprintf("%s.subjects[%d]", key, i)
		switch {
		case pattern == "":
			d.wrong(child, "no token has an empty subject", "delete it")
		case !utf8.ValidString(pattern):
			d.wrong(child, "it is not UTF-8", "")
		case strings.Contains(pattern, "**"):
			d.wrong(child, "a * ends at the next : or /, and so do two", "write one for each segment, or use allow")
		}
	}
	if m.MaxAge > maxTokenAge {
		d.wrong(key+".max_age", fmt.Sprintf("%s is too long", m.MaxAge), fmt.Sprintf("at most %s", maxTokenAge))
	}
	d.checkAlgorithms(key, m.Algorithms)
}

func (d *document) checkAlgorithms(key string, algorithms []string) {
	for i, alg := range algorithms {
		if !signature.MatchString(alg) {
			d.wrong(fmt.Sprintf("%s.algorithms[%d]", key, i), fmt.Sprintf("%q is no signature", alg), "for example RS256, ES256 or EdDSA")
		}
	}
}

// checkKeysFile checks a file with a JWK Set.
func (d *document) checkKeysFile(key, path string, hooks Hooks) {
	b := d.readFile(key, path, false)
	if b == nil {
		return
	}
	if !json.Valid(b) {
		d.wrong(key, path+" is not JSON", "it must have the issuer's keys as a JWK Set (RFC 7517)")
	} else if err := hooks.CheckKeys(b); err != nil {
		d.wrong(key, fmt.Sprintf("the keys in %s %v", path, err), "it must have the issuer's keys as a JWK Set (RFC 7517)")
	}
}
