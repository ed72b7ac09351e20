// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
)

// keysMaxAge is how long a signing key that its provider has removed may still be honoured.
const keysMaxAge = time.Hour

// keySet is a provider's set of signing keys. go-oidc's own keeps removed keys for ever and
// fetches without limit; this one starts anew every keysMaxAge and fetches through a limiter.
// It is safe for concurrent use.
type keySet struct {
	url    string
	client *http.Client
	now    func() time.Time

	mu   sync.Mutex // guards the fields below
	keys *oidc.RemoteKeySet
	born time.Time
}

func newKeySet(url string, client *http.Client, now func() time.Time) *keySet {
	return &keySet{url: url, client: limitKeyFetches(client), now: now}
}

// VerifySignature implements oidc.KeySet.
func (s *keySet) VerifySignature(ctx context.Context, jwt string) ([]byte, error) {
	return s.current().VerifySignature(ctx, jwt)
}

func (s *keySet) current() *oidc.RemoteKeySet {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now := s.now(); s.keys == nil || now.Sub(s.born) >= keysMaxAge {
		s.keys = oidc.NewRemoteKeySet(oidc.ClientContext(context.Background(), s.client), s.url)
		s.born = now
	}
	return s.keys
}
