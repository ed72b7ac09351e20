// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/curfew-proxy/curfew/agent/session"
	"github.com/curfew-proxy/curfew/client"
)

// clientKey is a fresh client key in PEM, and the name by which the agent knows it.
type clientKey struct {
	cert, key []byte
	id        session.Key
}

// newClientKey makes a fresh key.
func newClientKey() (*clientKey, error) {
	k, err := client.NewKey()
	if err != nil {
		return nil, err
	}
	cert := k.Certificate()
	pkcs8, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		return nil, fmt.Errorf("encode client key: %w", err)
	}
	return &clientKey{
		cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}),
		key:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}),
		id:   k.ID(),
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
	for _, name := range []string{client.CertFile, client.KeyFile, client.CAFile} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			return nil, hint(fmt.Errorf("%s exists already", filepath.Join(dir, name)), "choose another directory with --out, or remove it")
		}
	}
	err := f.write(client.KeyFile, k.key, 0o600)
	if err == nil {
		err = f.write(client.CertFile, k.cert, 0o644)
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
