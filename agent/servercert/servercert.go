// SPDX-License-Identifier: Apache-2.0

// Package servercert provides the certificate that the agent shows to clients: the operator's own, or
// a self-made one that is kept in the state directory and pinned by clients at first contact.
//
// A self-made certificate is its own root: the file works as "ca.pem" for psql, redis-cli and others.
package servercert

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
)

// Names of the files in the state directory.
const (
	CertFile = "agent-cert.pem"
	KeyFile  = "agent-key.pem"
)

// lifetime of a self-made certificate: clients pin its key, so that age adds no safety.
const lifetime = 20 * 365 * 24 * time.Hour

// Source hands out the certificate; Set and Prepare replace it. The zero Source has none. Safe for concurrent use.
type Source struct {
	current atomic.Pointer[tls.Certificate]
}

// Set takes a certificate chain and its key (PEM); on an error the certificate in use stays.
func (s *Source) Set(certPEM, keyPEM []byte) error {
	take, err := s.Prepare(certPEM, keyPEM)
	if err == nil {
		take()
	}
	return err
}

// Prepare checks what Set would take, and returns what takes it.
func (s *Source) Prepare(certPEM, keyPEM []byte) (take func(), err error) {
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("certificate and key: %w", err)
	}
	return func() { s.current.Store(&cert) }, nil
}

// SelfMade loads the certificate in dir, and makes it if there is none. Hosts are the names and addresses
// that clients may check; they pin the key, so the list need not be complete.
func SelfMade(dir string, hosts []string) (*Source, error) {
	certFile, keyFile := filepath.Join(dir, CertFile), filepath.Join(dir, KeyFile)
	_, err := os.Stat(keyFile)
	if errors.Is(err, os.ErrNotExist) {
		err = create(certFile, keyFile, hosts)
	}
	if err != nil {
		return nil, fmt.Errorf("self-made certificate: %w", err)
	}
	certPEM, err1 := os.ReadFile(certFile)
	keyPEM, err2 := os.ReadFile(keyFile)
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("self-made certificate: %w", err)
	}
	s := &Source{}
	if err := s.Set(certPEM, keyPEM); err != nil {
		return nil, fmt.Errorf("self-made certificate %s: %w; move it and %s away to have a new one made", certFile, err, keyFile)
	}
	return s, nil
}

// Adopt takes the key of another node in place of the self-made one, with a certificate of its own for hosts: clients
// that have pinned one node of a cluster know all. The key is PEM, as Key returns it.
func (s *Source) Adopt(dir string, keyPEM []byte, hosts []string) error {
	block, _ := pem.Decode(keyPEM)
	if block == nil {
		return errors.New("adopt a gateway key: it is not PEM")
	}
	any, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return fmt.Errorf("adopt a gateway key: %w", err)
	}
	key, ok := any.(*ecdsa.PrivateKey)
	if !ok {
		return fmt.Errorf("adopt a gateway key: it is of type %T", any)
	}
	certFile, keyFile := filepath.Join(dir, CertFile), filepath.Join(dir, KeyFile)
	if err := write(certFile, keyFile, key, hosts); err != nil {
		return fmt.Errorf("adopt a gateway key: %w", err)
	}
	certPEM, err := os.ReadFile(certFile)
	if err != nil {
		return fmt.Errorf("adopt a gateway key: %w", err)
	}
	return s.Set(certPEM, keyPEM)
}

// Key returns the key as PEM, for Adopt at another node.
func (s *Source) Key() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(s.current.Load().PrivateKey)
	if err != nil {
		return nil, fmt.Errorf("gateway key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// Get is for tls.Config.GetCertificate.
func (s *Source) Get(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.current.Load(), nil }

// Leaf is the certificate itself.
func (s *Source) Leaf() *x509.Certificate { return s.current.Load().Leaf }

// PEM is the chain as clients get it in ca.pem.
func (s *Source) PEM() []byte {
	var out []byte
	for _, der := range s.current.Load().Certificate {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return out
}

func create(certFile, keyFile string, hosts []string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	return write(certFile, keyFile, key, hosts)
}

// write makes a certificate for a key, and writes both.
func write(certFile, keyFile string, key *ecdsa.PrivateKey, hosts []string) error {
	der, err := x509.CreateCertificate(rand.Reader, template(hosts), template(hosts), key.Public(), key)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := writeFile(certFile, "CERTIFICATE", der, 0o644); err != nil {
		return err
	}
	return writeFile(keyFile, "PRIVATE KEY", keyDER, 0o600) // last: its presence means that both are there
}

func template(hosts []string) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)) // crypto/rand does not fail
	t := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "Curfew agent", Organization: []string{"self-made"}},
		NotBefore:             time.Now().Add(-24 * time.Hour),
		NotAfter:              time.Now().Add(lifetime),
		IsCA:                  true, // its own root, for clients that insist on one
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, h)
		}
	}
	return t
}

// writeFile writes a PEM file whole or not at all.
func writeFile(path, kind string, der []byte, mode os.FileMode) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // gone already if the rename worked
	if err := errors.Join(tmp.Chmod(mode), pem.Encode(tmp, &pem.Block{Type: kind, Bytes: der}), tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
