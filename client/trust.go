// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
)

// dialTimeout bounds connecting and shaking hands with the agent.
const dialTimeout = 10 * time.Second

// Fingerprint is the SHA-256 of the SubjectPublicKeyInfo of an agent's certificate. It stays the
// same when the certificate is renewed for the same key.
type Fingerprint [sha256.Size]byte

const fingerprintPrefix = "sha256:"

// FingerprintOf returns the fingerprint of a certificate's key.
func FingerprintOf(c *x509.Certificate) Fingerprint { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

// ParseFingerprint reads 64 hexadecimal digits, with or without "sha256:" in front and colons
// between.
func ParseFingerprint(s string) (f Fingerprint, err error) {
	digits := strings.ReplaceAll(strings.TrimPrefix(strings.ToLower(strings.TrimSpace(s)), fingerprintPrefix), ":", "")
	b, err := hex.DecodeString(digits)
	if err != nil || len(b) != len(f) {
		return f, fmt.Errorf("fingerprint %q: want sha256: and 64 hexadecimal digits", s)
	}
	copy(f[:], b)
	return f, nil
}

func (f Fingerprint) String() string { return fingerprintPrefix + hex.EncodeToString(f[:]) }

// MarshalText makes a Fingerprint a JSON string.
func (f Fingerprint) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (f *Fingerprint) UnmarshalText(b []byte) (err error) {
	*f, err = ParseFingerprint(string(b))
	return err
}

// Trust is how an agent is known to be the right one. Once decided it does not change by itself:
// an agent that was known by the system's roots is not accepted by fingerprint later, nor one
// with a pinned fingerprint by another.
type Trust struct {
	// Pin is the agent's fingerprint, or nil if its certificate is checked against the system's
	// roots and its host name.
	Pin *Fingerprint `json:"pin,omitempty"`
}

// verify checks the chain that the agent showed in the handshake. It takes the place of
// crypto/tls's own check, which would take the SNI, a service's name, for the agent's host name.
func (t Trust) verify(addr Address, roots *x509.CertPool, chain []*x509.Certificate) error {
	if len(chain) == 0 {
		return errors.New("the agent showed no certificate")
	}
	if t.Pin == nil {
		return verifyByName(addr, roots, chain)
	}
	have := FingerprintOf(chain[0])
	if subtle.ConstantTimeCompare(have[:], t.Pin[:]) != 1 {
		return changedKey(addr, have, *t.Pin)
	}
	return nil
}

func verifyByName(addr Address, roots *x509.CertPool, chain []*x509.Certificate) error {
	opts := x509.VerifyOptions{DNSName: addr.Host(), Roots: roots, Intermediates: x509.NewCertPool()}
	for _, c := range chain[1:] {
		opts.Intermediates.AddCert(c)
	}
	if _, err := chain[0].Verify(opts); err != nil {
		return &api.Error{Code: api.CodeForbidden, Cause: err,
			Message: fmt.Sprintf("the certificate of %s is not good: %v", addr, err),
			Hint:    "nothing was sent; ask the operator before you go on"}
	}
	return nil
}

func changedKey(addr Address, have, want Fingerprint) error {
	return &api.Error{Code: api.CodeForbidden,
		Message: fmt.Sprintf("THE KEY OF %s HAS CHANGED: its fingerprint is %s, and was %s. "+
			"Somebody may be between you and the agent. Nothing was sent", addr, have, want),
		Hint: "if the operator confirms the new key, run `curfew login " + addr.String() + " --forget --fingerprint " + have.String() + "`"}
}

// tlsConfig returns the configuration for a connection to the agent. cert may be nil.
func (t Trust) tlsConfig(addr Address, roots *x509.CertPool, cert *tls.Certificate) *tls.Config {
	cfg := &tls.Config{
		MinVersion:         tls.VersionTLS13,
		ServerName:         addr.Host(),
		InsecureSkipVerify: true, // VerifyConnection does it
		VerifyConnection:   func(s tls.ConnectionState) error { return t.verify(addr, roots, s.PeerCertificates) },
	}
	if cert != nil {
		cfg.Certificates = []tls.Certificate{*cert}
	}
	return cfg
}

// probe shakes hands with the agent, whoever it is, and returns the certificates it showed and
// proved to have the key of. It sends nothing.
func probe(ctx context.Context, addr Address) ([]*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", addr.String())
	if err != nil {
		return nil, unreachable(addr, err)
	}
	defer raw.Close()
	conn := tls.Client(raw, &tls.Config{MinVersion: tls.VersionTLS13, ServerName: addr.Host(), InsecureSkipVerify: true})
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, unreachable(addr, err)
	}
	return conn.ConnectionState().PeerCertificates, nil
}

func unreachable(addr Address, err error) error {
	var e *api.Error
	if errors.As(err, &e) { // such as a changed key
		return e
	}
	return &api.Error{Code: api.CodeUnreachable, Message: fmt.Sprintf("the agent at %s does not answer: %v", addr, err),
		Hint: "check the address and that the agent runs", Cause: err}
}
