// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/json"
	"fmt"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// Sealed keeps sealed tokens across restarts. Safe for concurrent use.
type Sealed interface {
	PutTokens(id session.ID, sealed []byte) error // returns when it is durable
	DeleteTokensSoon(id session.ID)               // does not block; a crash may lose it
	LoadTokens() (map[session.ID][]byte, error)
}

// sealer encrypts tokens (AES-256-GCM, a random nonce each, bound to the session) before they go to the disk. Its key
// is not there: who has the disk, or a copy of it, has nothing. A nil sealer keeps nothing.
type sealer struct {
	aead cipher.AEAD
	disk Sealed
}

// SealKeyLen is the length of a vault's key, in bytes.
const SealKeyLen = 32

func newSealer(key []byte, disk Sealed) (*sealer, error) {
	if len(key) != SealKeyLen {
		return nil, fmt.Errorf("key of %d bytes, want %d", len(key), SealKeyLen)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	return &sealer{aead, disk}, nil
}

// sealedGrant is what is sealed, as JSON.
type sealedGrant struct {
	Provider string    `json:"provider"`
	Issuer   string    `json:"issuer"`
	ClientID string    `json:"client_id"`
	Refresh  []byte    `json:"refresh"`
	Access   []byte    `json:"access"`
	IDToken  []byte    `json:"id_token"`
	Asked    time.Time `json:"asked"`
}

func (s *sealer) put(g *grant) error {
	if s == nil {
		return nil
	}
	c := g.provider.config()
	plain, err := json.Marshal(sealedGrant{c.Name, c.Issuer, c.ClientID, g.tokens.Refresh, g.tokens.Access, g.tokens.IDToken, g.asked})
	if err != nil {
		return err
	}
	defer clear(plain)
	return s.disk.PutTokens(g.session, s.aead.Seal(nil, nil, plain, g.session[:]))
}

func (s *sealer) forget(id session.ID) {
	if s != nil && !id.IsZero() {
		s.disk.DeleteTokensSoon(id)
	}
}

func (s *sealer) open(id session.ID, sealed []byte) (g sealedGrant, err error) {
	plain, err := s.aead.Open(nil, nil, sealed, id[:])
	if err != nil {
		return g, fmt.Errorf("the key is another: %w", err)
	}
	defer clear(plain)
	return g, json.Unmarshal(plain, &g)
}

// Keep makes the vault keep tokens on the disk, sealed with key, and takes over those that an earlier process left, of
// sessions that live. What cannot be opened any more, for the key is gone, is dropped: the provider cannot be asked
// about those sessions. So is what a provider gave that the configuration has no more, and its sessions are returned. Call it
// before anything is put in. live reports whether a session does.
func (v *Vault) Keep(key []byte, disk Sealed, providers *Providers, live func(session.ID) bool) (forsaken []session.ID, err error) {
	seal, err := newSealer(key, disk)
	if err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	left, err := disk.LoadTokens()
	if err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.seal = seal
	for id, sealed := range left {
		g, err := seal.open(id, sealed)
		p := providers.named(g.Provider)
		switch {
		case err != nil:
			v.count(EventSealLost)
			v.log.Warn("tokens of a session dropped: the provider cannot be asked about it", "session", id, "error", err)
			seal.forget(id)
		case p == nil || !p.isOf(g.Provider, g.Issuer, g.ClientID):
			v.count(EventSealLost)
			v.log.Warn("tokens of a session dropped: their provider was taken out of the configuration", "session", id, "provider", g.Provider)
			seal.forget(id)
			if live(id) {
				forsaken = append(forsaken, id)
			}
		case !live(id):
			// They were not revoked; the disk keeps them until they are.
			v.enqueueLocked(grant{session: id, provider: p, tokens: Tokens{g.Refresh, g.Access, g.IDToken}})
		default:
			v.held[id] = grant{session: id, provider: p, tokens: Tokens{g.Refresh, g.Access, g.IDToken}, asked: g.Asked}
		}
	}
	return forsaken, nil
}
