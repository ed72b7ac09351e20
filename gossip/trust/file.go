// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

const fileName = "trust.json"

// file is all that a node keeps: one file, so that it is never half of two states.
type file struct {
	Name        string    `json:"name"`
	Key         []byte    `json:"key"`         // Ed25519 seed
	Seal        []byte    `json:"seal"`        // X25519
	Certificate []byte    `json:"certificate"` // DER
	Issuer      []byte    `json:"issuer"`      // DER, of the root that issued it
	Document    *Document `json:"document"`
}

// load returns nil if there is no file.
func load(dir string) (*file, error) {
	data, err := os.ReadFile(filepath.Join(dir, fileName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read trust: %w", err)
	}
	f := new(file)
	if err := json.Unmarshal(data, f); err != nil {
		return nil, fmt.Errorf("read %s: %w", fileName, err)
	}
	if f.Document == nil || len(f.Key) != ed25519.SeedSize || !ValidName(f.Name) {
		return nil, fmt.Errorf("read %s: it is not whole", fileName)
	}
	if err := f.Document.check(); err != nil {
		return nil, fmt.Errorf("read %s: %w", fileName, err)
	}
	return f, nil
}

// save replaces the file; after a crash there is the old one or the new one.
func (f *file) save(dir string) (err error) {
	data, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("encode trust: %w", err)
	}
	path := filepath.Join(dir, fileName)
	temporary, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600) // one writer at a time
	if err != nil {
		return fmt.Errorf("write trust: %w", err)
	}
	_, err = temporary.Write(data)
	err = errors.Join(err, temporary.Sync(), temporary.Close())
	if err == nil {
		err = os.Rename(temporary.Name(), path)
	}
	if err != nil {
		_ = os.Remove(temporary.Name()) // what went wrong before is told
		return fmt.Errorf("write trust: %w", err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("write trust: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("write trust: %w", err)
	}
	return nil
}
