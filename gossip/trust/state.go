// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/rand"
	"crypto/tls"
	"fmt"
)

// state is not changed once it is published.
type state struct {
	name string
	id   KeyID
	key  ed25519.PrivateKey
	seal hpke.PrivateKey
	doc  *Document
	view *view
	own  *tls.Certificate
}

// newState makes the keys of a node.
func newState(name string) (*state, error) {
	if !ValidName(name) {
		return nil, fmt.Errorf("name %q: 1 to %d of a-z, 0-9, '-', '.', '_', the first a letter or a digit", name, MaxName)
	}
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	sealKey, err := newSealKey()
	if err != nil {
		return nil, fmt.Errorf("make seal key: %w", err)
	}
	return &state{name: name, key: key, id: keyID(public), seal: sealKey}, nil
}

// entry is what this node says of itself; nobody has signed it yet.
func (s *state) entry(cluster RootID) Node {
	n := Node{Name: s.name, Key: s.key.Public().(ed25519.PublicKey), Seal: s.seal.PublicKey().Bytes()}
	n.Proof = ed25519.Sign(s.key, n.claim(cluster))
	return n
}

func (t *Trust) restore(f *file) (*state, error) {
	key := ed25519.NewKeyFromSeed(f.Key)
	sealKey, err := parseSealKey(f.Seal)
	if err != nil {
		return nil, fmt.Errorf("seal key: %w", err)
	}
	own, err := assemble(f.Certificate, f.Issuer, key)
	if err != nil {
		return nil, err
	}
	s := &state{name: f.Name, key: key, id: keyID(key.Public().(ed25519.PublicKey)), seal: sealKey, own: own}
	s.view, s.doc, err = read(f.Document, &t.sigs)
	return s, err
}

func (s *state) file() (*file, error) {
	sealKey, err := s.seal.Bytes()
	if err != nil {
		return nil, fmt.Errorf("encode seal key: %w", err)
	}
	return &file{
		Name: s.name, Key: s.key.Seed(), Seal: sealKey,
		Certificate: s.own.Certificate[0], Issuer: s.own.Certificate[1], Document: s.doc,
	}, nil
}
