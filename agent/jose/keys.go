// SPDX-License-Identifier: Apache-2.0

package jose

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
)

// keysMaxAge is how long a signing key that its provider has removed may still be honoured.
const keysMaxAge = time.Hour

// KeySet is a provider's set of signing keys. go-oidc's own keeps removed keys for ever and
// fetches without limit; this one starts anew every hour and fetches through a limiter.
// It is safe for concurrent use.
type KeySet struct {
	url    string
	client *http.Client
	now    func() time.Time

	mu   sync.Mutex // guards the fields below
	keys *oidc.RemoteKeySet
	born time.Time
}

// NewKeySet returns the keys at url (RFC 7517), which are fetched when the first token is to be verified,
// through client. Now reads the wall clock.
func NewKeySet(url string, client *http.Client, now func() time.Time) *KeySet {
	return &KeySet{url: url, client: limitKeyFetches(client), now: now}
}

// URL returns where the keys come from.
func (s *KeySet) URL() string { return s.url }

// VerifySignature implements oidc.KeySet.
func (s *KeySet) VerifySignature(ctx context.Context, jwt string) ([]byte, error) {
	return s.current().VerifySignature(ctx, jwt)
}

func (s *KeySet) current() *oidc.RemoteKeySet {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.now(); s.keys == nil || now.Sub(s.born) >= keysMaxAge {
		s.keys = oidc.NewRemoteKeySet(oidc.ClientContext(context.Background(), s.client), s.url)
		s.born = now
	}
	return s.keys
}
