// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/config"
	"github.com/curfew-proxy/curfew/agent/identity"
	"github.com/curfew-proxy/curfew/agent/policy"
	"github.com/curfew-proxy/curfew/agent/session"
	"github.com/curfew-proxy/curfew/proxy"
)

// proxyServices translates the configured services for package proxy.
func (b *bundle) proxyServices() ([]proxy.Service, error) {
	list := make([]proxy.Service, len(b.Config.Services))
	for i, s := range b.Config.Services {
		upstreamTLS, err := b.upstreamTLS(s)
		if err != nil {
			return nil, fmt.Errorf("service %s: upstream_tls: %w", s.Name, err)
		}
		list[i] = proxy.Service{
			Name: s.Name, Listen: addresses(s.Listen), ListenPlain: addresses(s.PlainListen),
			ALPN: s.ALPN, AllowCancel: s.AllowCancel, TLS12: s.TLSMin == tls.VersionTLS12, MaxConnections: s.MaxConnections, MaxDuration: s.AbsoluteTimeout,
			Upstream: proxy.Upstream{Address: s.Upstream, TLS: upstreamTLS, ProxyProtocol: s.ProxyProtocol, Timeout: s.DialTimeout},
		}
		if s.Protocol == config.ProtocolPostgres {
			list[i].Protocol = proxy.ProtocolPostgres
		}
	}
	return list, nil
}

func addresses(list []netip.AddrPort) []string {
	out := make([]string, len(list))
	for i, a := range list {
		out[i] = a.String()
	}
	return out
}

func (b *bundle) upstreamTLS(s config.Service) (*tls.Config, error) {
	u := s.UpstreamTLS
	if u == nil {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: u.ServerName}
	if u.CA != "" {
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(b.Files[u.CA]) {
			return nil, fmt.Errorf("%s has no certificate", u.CA)
		}
	}
	if u.Certificate != "" {
		pair, err := tls.X509KeyPair(b.Files[u.Certificate], b.Files[u.Key])
		if err != nil {
			return nil, err
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// providers translates the configured OpenID providers for package identity; browsers come back to url from them.
func (b *bundle) providers(url string) []identity.Config {
	list := make([]identity.Config, len(b.Config.Providers))
	for i, p := range b.Config.Providers {
		list[i] = identity.Config{
			Name: p.Name, Issuer: p.Issuer, ClientID: p.ClientID, ClientSecret: string(bytes.TrimSpace(b.Files[p.ClientSecretFile])),
			RedirectURL: strings.TrimSuffix(url, "/") + "/callback/" + p.Name,
			Scopes:      p.Scopes, GroupsClaim: p.GroupsClaim, CA: b.Files[p.CAFile],
			TrustedAudiences: p.TrustedAudiences, Algorithms: p.Algorithms,
			FrontChannelLogout: p.FrontChannelLogout, PostLogoutRedirect: p.PostLogoutRedirect, Device: p.Device, Revalidation: identity.Revalidation(p.Revalidate),
		}
	}
	return list
}

// machines translates the configured issuers of machines' tokens for package identity.
func (b *bundle) machines() ([]identity.MachineConfig, error) {
	list := make([]identity.MachineConfig, len(b.Config.Machines))
	for i, m := range b.Config.Machines {
		list[i] = identity.MachineConfig{
			Name: m.Name, Issuer: m.Issuer, Audience: m.Audience, TrustedAudiences: m.TrustedAudiences, Subjects: m.Subjects, MaxAge: m.MaxAge,
			JWKSURI: m.JWKSURI, JWKS: b.Files[m.JWKSFile], CA: b.Files[m.CAFile], GroupsClaim: m.GroupsClaim, Algorithms: m.Algorithms,
			AccessTokens: m.AccessTokens, OutliveToken: m.OutliveToken,
		}
		if m.Allow == "" {
			continue
		}
		rule, err := policy.CompileClaims(m.Allow)
		if err != nil {
			return nil, fmt.Errorf("machine %s: allow: %w", m.Name, err)
		}
		list[i].Allow = rule.Allow
	}
	return list, nil
}

// rules are what the services ask of their users, by name.
func (b *bundle) rules() map[string]policy.Rule {
	list := map[string]policy.Rule{}
	for _, s := range b.Config.Services {
		list[s.Name] = policy.Rule{Allow: s.Allow, Require: session.Requirement(s.Require)}
	}
	return list
}

// serviceLimits returns what the gate needs to know of a service.
func (b *bundle) serviceLimits(name string) (maxDuration time.Duration, both bool) {
	for _, s := range b.Config.Services {
		if s.Name == name {
			return s.AbsoluteTimeout, s.IdleCounts == config.IdleCountsBoth
		}
	}
	return 0, b.Config.Sessions.IdleCounts == config.IdleCountsBoth
}

// serviceInfos describes the services to operators.
func (b *bundle) serviceInfos() []api.ServiceInfo {
	list := make([]api.ServiceInfo, len(b.Config.Services))
	for i, s := range b.Config.Services {
		list[i] = api.ServiceInfo{Name: s.Name, Protocol: s.Protocol, Listen: s.Listen, PlainListen: s.PlainListen, Upstream: s.Upstream, Allow: s.Allow}
	}
	return list
}

// userServices describes them to users, who are not told where the upstream is. An address
// without a host is at the agent's own.
func (b *bundle) userServices() []api.Service {
	list := make([]api.Service, len(b.Config.Services))
	for i, s := range b.Config.Services {
		list[i] = api.Service{Name: s.Name, Protocol: s.Protocol, Require: api.RequireOf(session.Requirement(s.Require))}
		if len(s.Listen) > 0 {
			list[i].Address = fmt.Sprintf(":%d", s.Listen[0].Port())
		}
	}
	return list
}

// strictServices are those that a node without a majority does not serve.
func (b *bundle) strictServices() (list []string) {
	for _, s := range b.Config.Services {
		if s.Partition == config.PartitionStrict {
			list = append(list, s.Name)
		}
	}
	return list
}

// inCluster reports whether the node is to be part of a cluster.
func (b *bundle) inCluster() bool { return b.Config.Cluster.Enabled() }

// gateway is host:port of the URL that clients use.
func (b *bundle) gateway() string {
	u, err := url.Parse(b.Config.URL)
	if err != nil || u.Host == "" {
		return b.Config.URL // validated: does not happen
	}
	if u.Port() == "" {
		return net.JoinHostPort(u.Hostname(), "443")
	}
	return u.Host
}

// certificateHosts are the names and addresses for a self-made certificate.
func (b *bundle) certificateHosts() []string {
	hosts := []string{"localhost", "127.0.0.1", "::1", b.Config.Name}
	if host, _, err := net.SplitHostPort(b.gateway()); err == nil {
		hosts = append(hosts, host)
	}
	for _, a := range b.Config.Listen {
		if !a.Addr().IsUnspecified() {
			hosts = append(hosts, a.Addr().String())
		}
	}
	return hosts
}
