// SPDX-License-Identifier: Apache-2.0

package config

import (
	"crypto/tls"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// Default returns the configuration that an empty file stands for, but for what depends on other
// keys; complete fills that in. All defaults are in this file.
func Default() *Config {
	return &Config{
		Listen:      []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:8443")},
		State:       "/var/lib/curfew",
		Run:         "/run/curfew",
		User:        "curfew",
		Enforcement: EnforceKernel,
		Sessions: Sessions{
			AbsoluteTimeout: 12 * time.Hour,
			IdleTimeout:     time.Hour,
			IdleCounts:      IdleCountsClient,
			Max:             100_000,
			Connections:     1000,
		},
		Limits: Limits{
			HandshakeTimeout:         10 * time.Second,
			Unauthenticated:          1024,
			UnauthenticatedPerSource: 64,
			DrainTimeout:             30 * time.Second,
		},
		Cluster: Cluster{StrictAfter: 10 * time.Second},
	}
}

func (p *Provider) setDefaults() {
	p.Scopes = []string{"profile", "email"}
	p.GroupsClaim = "groups"
	p.Revalidate = Revalidate{Every: 10 * time.Minute, Grace: time.Hour}
}

func (m *Machine) setDefaults() {
	m.MaxAge = time.Hour
	m.GroupsClaim = "groups"
}

func (s *Signal) setDefaults() {
	s.MaxAge = 24 * time.Hour
	s.CredentialChange, s.DeviceCompliance = "end", "end"
	s.Opaque, s.SessionIDs = "session", "sid"
}

func (s *SCIM) setDefaults() {
	s.UserName, s.ExternalID = "email", "ignore"
}

func (s *Service) setDefaults() {
	s.Protocol = ProtocolTCP
	s.DialTimeout = 10 * time.Second
	s.TLSMin = tls.VersionTLS13
	s.Partition = PartitionAvailable
}

func (o *OPA) setDefaults() {
	o.Timeout, o.Cache = 500*time.Millisecond, 30*time.Second
}

// complete fills in the defaults that depend on the host or on other keys.
func (c *Config) complete() {
	if c.Name == "" {
		c.Name, _ = os.Hostname() // empty if unknown: then name is reported as missing
	}
	if c.URL == "" && len(c.Listen) > 0 {
		c.URL = "https://" + net.JoinHostPort(c.Name, strconv.Itoa(int(c.Listen[0].Port())))
	}
	if c.ControlSocket == "" {
		c.ControlSocket = filepath.Join(c.Run, "control.sock")
	}
	if l := c.Cluster.Listen; l.IsValid() && c.Cluster.Advertise == "" {
		host := c.Name
		if !l.Addr().IsUnspecified() {
			host = l.Addr().String()
		}
		c.Cluster.Advertise = net.JoinHostPort(host, strconv.Itoa(int(l.Port())))
	}
	for i := range c.Services {
		if s := &c.Services[i]; s.IdleCounts == "" {
			s.IdleCounts = c.Sessions.IdleCounts
		}
	}
}
