// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// The files of a client key.
const (
	certFile = "cert.pem"
	keyFile  = "key.pem"
	caFile   = "ca.pem"
)

// clientKey is a fresh client key in PEM, and the name by which the agent knows it.
type clientKey struct {
	cert, key []byte
	id        session.Key
}

// newClientKey makes a P-256 key, which every TLS library can use, and a certificate around it.
// The certificate says nothing: the agent knows the key and ends the session itself, so the dates
// are wide.
func newClientKey() (*clientKey, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make client key: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "curfew client"},
		NotBefore:    time.Now().Add(-24 * time.Hour), // clocks differ
		NotAfter:     time.Now().AddDate(10, 0, 0),
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
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, fmt.Errorf("encode client key: %w", err)
	}
	return &clientKey{
		cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		key:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}),
		id:   session.KeyOf(cert),
	}, nil
}

// keyFiles are the files written into a directory, for taking them back.
type keyFiles struct {
	dir   string
	paths []string
}

// writeKey writes key and certificate into dir, which it makes if need be. It never replaces a
// file: the key of a live session could be lost.
func writeKey(dir string, k *clientKey) (*keyFiles, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	f := &keyFiles{dir: dir}
	for _, name := range []string{certFile, keyFile, caFile} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			return nil, hint(fmt.Errorf("%s exists already", filepath.Join(dir, name)), "choose another directory with --out, or remove it")
		}
	}
	err := f.write(keyFile, k.key, 0o600)
	if err == nil {
		err = f.write(certFile, k.cert, 0o644)
	}
	if err != nil {
		return nil, errors.Join(err, f.remove())
	}
	return f, nil
}

func (f *keyFiles) write(name string, b []byte, mode fs.FileMode) error {
	path := filepath.Join(f.dir, name)
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return fmt.Errorf("write: %w", err)
	}
	f.paths = append(f.paths, path)
	_, err = file.Write(b)
	return errors.Join(err, file.Close())
}

// remove takes back what was written.
func (f *keyFiles) remove() error {
	var errs []error
	for _, path := range f.paths {
		errs = append(errs, os.Remove(path))
	}
	return errors.Join(errs...)
}
