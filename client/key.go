// SPDX-License-Identifier: Apache-2.0

package client

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// Key is a client key with its self-signed certificate. The certificate is only the envelope in
// which TLS carries the key: it names nobody, and its dates mean nothing to the agent.
type Key struct {
	private *ecdsa.PrivateKey
	cert    *x509.Certificate
}

// certLifetime is far beyond any session; clients like OpenSSL want dates that hold.
const certLifetime = 10 * 365 * 24 * time.Hour

// NewKey makes a fresh P-256 key: every TLS library can use it.
func NewKey() (*Key, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make client key: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "curfew client"},
		NotBefore:    now.Add(-24 * time.Hour), // clocks differ
		NotAfter:     now.Add(certLifetime),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return nil, fmt.Errorf("make client certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("make client certificate: %w", err)
	}
	return &Key{private: private, cert: cert}, nil
}

// keyOf returns a key that NewKey made and a Store kept.
func keyOf(cert tls.Certificate) (*Key, error) {
	private, ok := cert.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("the client key is of type %T, not of one that is made here", cert.PrivateKey)
	}
	leaf, err := x509.ParseCertificate(cert.Certificate[0])
	if err != nil {
		return nil, fmt.Errorf("the client's certificate: %w", err)
	}
	return &Key{private: private, cert: leaf}, nil
}

// Certificate returns the key in the form that crypto/tls takes.
func (k *Key) Certificate() tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{k.cert.Raw}, PrivateKey: k.private, Leaf: k.cert}
}

// ID returns the name under which the agent knows the key.
func (k *Key) ID() session.Key { return session.KeyOf(k.cert) }

// encode returns the certificate and the private key in PEM.
func (k *Key) encode() (cert, key []byte, err error) {
	der, err := x509.MarshalPKCS8PrivateKey(k.private)
	if err != nil {
		return nil, nil, fmt.Errorf("encode client key: %w", err)
	}
	defer clear(der)
	return encodeCerts([]*x509.Certificate{k.cert}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
