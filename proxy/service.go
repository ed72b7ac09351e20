// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"crypto/tls"
	"fmt"
	"net"
	"regexp"
	"strings"
	"sync/atomic"
	"time"
)

// The protocols that the proxy knows more of than bytes.
const (
	ProtocolTCP      = ""         // nothing is known of the payload
	ProtocolPostgres = "postgres" // PostgreSQL's own way into TLS, and its error messages
)

// Service is a named upstream with its listeners. Immutable once handed to a Proxy.
type Service struct {
	// Name is a DNS label in lower case, so that it can be given by SNI.
	Name string
	// Listen are addresses (host:port) for TLS clients of this service alone.
	Listen []string
	// ListenPlain are addresses for clients without TLS, told apart by their source address.
	ListenPlain []string
	// Protocol is ProtocolTCP or ProtocolPostgres.
	Protocol string
	// TLS12 admits TLS 1.2 beside 1.3, for clients that know no better.
	TLS12 bool
	// ALPN are protocols that clients may negotiate beyond "curfew" and that of Protocol.
	ALPN []string
	// AllowCancel forwards PostgreSQL's cleartext CancelRequest; see postgres.go.
	AllowCancel bool
	Upstream    Upstream
	// MaxConnections limits the live connections of the service; zero means no limit.
	MaxConnections int
	// MaxDuration limits the life of each connection; zero means no limit.
	MaxDuration time.Duration
}

// Upstream says how a service is reached.
type Upstream struct {
	Address string // host:port; a host name is resolved for each connection
	// TLS is nil for a plain upstream. ServerName defaults to Address's host.
	TLS *tls.Config
	// ProxyProtocol sends a PROXY protocol v2 header first; see proxyproto.go.
	ProxyProtocol bool
	// Timeout bounds dialling, TLS and all; zero means DefaultDialTimeout.
	Timeout time.Duration
}

// DefaultDialTimeout bounds the way to an upstream that sets no timeout of its own.
const DefaultDialTimeout = 10 * time.Second

var serviceName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// Validate reports the first fault of s, naming the service and the field.
func (s *Service) Validate() error {
	if !serviceName.MatchString(s.Name) {
		return fmt.Errorf("service %q: name: want a DNS label in lower case", s.Name)
	}
	if s.Protocol != ProtocolTCP && s.Protocol != ProtocolPostgres {
		return fmt.Errorf("service %s: protocol %q is not known", s.Name, s.Protocol)
	}
	if s.AllowCancel && s.Protocol != ProtocolPostgres {
		return fmt.Errorf("service %s: allow_cancel means something for protocol postgres only", s.Name)
	}
	if _, _, err := net.SplitHostPort(s.Upstream.Address); err != nil {
		return fmt.Errorf("service %s: upstream: %w", s.Name, err)
	}
	return nil
}

// service is a Service with what the proxy derives from it and counts for it.
type service struct {
	Service
	minTLS uint16
	protos []string
	active *atomic.Int64 // relayed connections; shared by all versions of the service
}

func newService(s Service, active *atomic.Int64) *service {
	if s.Upstream.Timeout == 0 {
		s.Upstream.Timeout = DefaultDialTimeout
	}
	if t := s.Upstream.TLS; t != nil && t.ServerName == "" {
		t = t.Clone()
		t.ServerName, _, _ = net.SplitHostPort(s.Upstream.Address) // checked by Validate
		s.Upstream.TLS = t
	}
	svc := &service{Service: s, active: active, minTLS: tls.VersionTLS13, protos: []string{alpnCurfew}}
	if s.TLS12 {
		svc.minTLS = tls.VersionTLS12
	}
	if s.Protocol == ProtocolPostgres {
		svc.protos = append(svc.protos, alpnPostgres)
	}
	svc.protos = append(svc.protos, s.ALPN...)
	return svc
}

// take counts one more connection and reports whether the limit allows it; on false nothing
// is counted.
func (s *service) take() bool {
	if n := s.active.Add(1); s.MaxConnections > 0 && n > int64(s.MaxConnections) {
		s.active.Add(-1)
		return false
	}
	return true
}

func (s *service) give() { s.active.Add(-1) }

// routes maps server names to services; immutable.
type routes struct {
	services map[string]*service
	api      bool
}

// lookup returns the service that a server name asks for: NAME or NAME.anything. Nil: none.
func (r *routes) lookup(serverName string) *service {
	name, _, _ := strings.Cut(serverName, ".")
	return r.services[strings.Map(asciiLower, name)]
}

// asciiLower folds as DNS does. Unicode would fold the Kelvin sign to k.
func asciiLower(c rune) rune {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}
