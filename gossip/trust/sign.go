// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
)

const sealKeySize = 32

// message is what is signed: a purpose and parts, each with its length before it, so that no two read alike.
func message(purpose string, parts ...[]byte) []byte {
	m := append([]byte("curfew trust 1 "), purpose...)
	for _, p := range parts {
		m = binary.BigEndian.AppendUint32(m, uint32(len(p)))
		m = append(m, p...)
	}
	return m
}

// list is one part of a message that has many.
func list[T ~string](items []T) []byte {
	var m []byte
	for _, i := range items {
		m = binary.BigEndian.AppendUint32(m, uint32(len(i)))
		m = append(m, i...)
	}
	return m
}

// ID names a root.
func (r *Root) ID() RootID { return rootID(r.Certificate) }

func rootID(der []byte) RootID {
	sum := sha256.Sum256(der)
	return RootID(hex.EncodeToString(sum[:]))
}

// ID names a node's key.
func (n *Node) ID() KeyID { return keyID(n.Key) }

func keyID(key ed25519.PublicKey) KeyID {
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "" // cannot be: ed25519 keys always encode; and no entry has this ID
	}
	return spkiID(spki)
}

func spkiID(spki []byte) KeyID {
	sum := sha256.Sum256(spki)
	return KeyID(hex.EncodeToString(sum[:len(sum)/2]))
}

func (r *Root) message(cluster RootID) []byte {
	return message("root", []byte(cluster), r.Certificate)
}

func (n *Node) message(cluster RootID) []byte {
	return message("node", []byte(cluster), []byte(n.Name), n.Key, n.Seal, []byte(n.By), []byte(n.Token), n.Proof, []byte(n.Root))
}

// claim is what a node signs of itself, so that nobody else's seal key can be put beside its key.
func (n *Node) claim(cluster RootID) []byte {
	return message("claim", []byte(cluster), []byte(n.Name), n.Key, n.Seal)
}

// entry names all that an entry of the roster says.
func (n *Node) entry(cluster RootID) string {
	sum := sha256.Sum256(n.message(cluster))
	return hex.EncodeToString(sum[:])
}

func (t *Token) message(cluster RootID) []byte {
	limits := binary.BigEndian.AppendUint64(nil, uint64(t.Expires))
	limits = binary.BigEndian.AppendUint64(limits, uint64(t.Uses))
	if t.Replace {
		limits = append(limits, 1)
	}
	return message("token", []byte(cluster), []byte(t.ID), limits, []byte(t.By), []byte(t.Root))
}

func (d *Denial) message(cluster RootID) []byte {
	at := binary.BigEndian.AppendUint64(nil, uint64(d.At))
	return message("denial", []byte(cluster), []byte(d.Name), list(d.Keys), list(d.Roots), list(d.Keep),
		[]byte(d.By), []byte(d.Key), at)
}

// signatures remembers which were good, so that a document that comes again costs no arithmetic. It is not safe
// for concurrent use. The zero value works, and nil remembers nothing.
type signatures struct{ good map[[32]byte]struct{} }

const maxSignatures = 1 << 16

func (s *signatures) verify(key ed25519.PublicKey, m, signature []byte) bool {
	if len(key) != ed25519.PublicKeySize {
		return false
	}
	id := sha256.Sum256(message("cache", key, m, signature))
	if s != nil {
		if _, ok := s.good[id]; ok {
			return true
		}
	}
	if !ed25519.Verify(key, m, signature) {
		return false
	}
	if s != nil {
		if s.good == nil || len(s.good) >= maxSignatures {
			s.good = make(map[[32]byte]struct{})
		}
		s.good[id] = struct{}{}
	}
	return true
}

// newSealKey makes the key that secrets of the cluster are sealed to.
func newSealKey() (hpke.PrivateKey, error) {
	return hpke.DHKEM(ecdh.X25519()).GenerateKey()
}

func parseSealKey(data []byte) (hpke.PrivateKey, error) {
	return hpke.DHKEM(ecdh.X25519()).NewPrivateKey(data)
}

// seal encrypts a root's private key to a node.
func seal(to []byte, id RootID, key ed25519.PrivateKey) ([]byte, error) {
	public, err := hpke.DHKEM(ecdh.X25519()).NewPublicKey(to)
	if err != nil {
		return nil, fmt.Errorf("seal key of node: %w", err)
	}
	sealed, err := hpke.Seal(public, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), message("seal", []byte(id)), key.Seed())
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return sealed, nil
}

// unseal returns a root's private key, if it is sealed to this node and is the one of its certificate.
func unseal(own hpke.PrivateKey, r *Root, id KeyID, public ed25519.PublicKey) (ed25519.PrivateKey, error) {
	sealed, ok := r.Sealed[id]
	if !ok {
		return nil, errors.New("root is not sealed to this node")
	}
	seed, err := hpke.Open(own, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), message("seal", []byte(r.ID())), sealed)
	if err != nil {
		return nil, fmt.Errorf("unseal: %w", err)
	}
	if len(seed) != ed25519.SeedSize {
		return nil, errors.New("unseal: not a key")
	}
	key := ed25519.NewKeyFromSeed(seed)
	if !public.Equal(key.Public()) {
		return nil, errors.New("unseal: the key of another root")
	}
	return key, nil
}
