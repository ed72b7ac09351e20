// SPDX-License-Identifier: Apache-2.0

package jose

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	gojose "github.com/go-jose/go-jose/v4"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"
)

// Limits on the keys of one issuer.
const (
	// keysMaxAge is how long a signing key that its issuer has removed may still be honoured.
	keysMaxAge       = time.Hour
	keyFetchInterval = 10 * time.Second // once the burst is spent
	keyFetchBurst    = 5
	maxKeys          = 100
	maxPatient       = 1024 // tokens of one issuer that wait for a fetch
)

var (
	// ErrNoKeys is returned where a token cannot be checked because its issuer's keys cannot be had: that says
	// nothing about the token.
	ErrNoKeys = errors.New("signing keys")
	// ErrSignature is returned where no key of the issuer has made the signature.
	ErrSignature = errors.New("the signature is not by a key of the issuer")

	// ErrKeysLater is returned, with ErrNoKeys, where keys have been fetched too often: not at once, but in a while they
	// could be.
	ErrKeysLater = errors.New("were fetched a moment ago and are not fetched again yet")
)

// KeySet is an issuer's set of signing keys. It is safe for concurrent use.
//
// go-oidc's own would not do: it fetches anew for every token that does not verify (50 bad tokens were 50
// fetches), keeps removed keys for ever, and puts whatever the issuer answers into its errors. This one
// fetches through a limiter and forgets after an hour.
type KeySet struct {
	url     string
	locate  func(context.Context) (string, error) // nil: the keys never change
	client  *http.Client
	now     func() time.Time
	limiter *rate.Limiter
	flight  singleflight.Group
	patient atomic.Int64 // those who wait for the limiter

	mu   sync.Mutex // guards the fields below
	keys []gojose.JSONWebKey
	born time.Time
}

// NewKeySet returns the keys at url (RFC 7517), which are fetched when the first token is to be verified,
// through client. Now reads the wall clock.
func NewKeySet(url string, client *http.Client, now func() time.Time) *KeySet {
	s := &KeySet{url: url, client: client, now: now, limiter: rate.NewLimiter(rate.Every(keyFetchInterval), keyFetchBurst)}
	s.locate = func(context.Context) (string, error) { return url, nil }
	return s
}

// NewIssuerKeySet returns the keys that an issuer names in its discovery document (OpenID Connect Discovery
// 1.0, section 4), which is read again whenever they are fetched.
func NewIssuerKeySet(issuer string, client *http.Client, now func() time.Time) *KeySet {
	return NewLocatedKeySet(issuer, func(ctx context.Context) (string, error) { return discoverKeys(ctx, client, issuer) }, client, now)
}

// NewLocatedKeySet returns the keys at the URL that locate finds, which is asked whenever they are fetched: for issuers
// that say where their keys are in another document than OpenID Connect's. The name is for errors.
func NewLocatedKeySet(name string, locate func(context.Context) (string, error), client *http.Client, now func() time.Time) *KeySet {
	s := NewKeySet(name, client, now)
	s.locate = locate
	return s
}

// NewFixedKeySet returns the keys of a JWK Set that is at hand. It returns an error if there is no usable one in it.
func NewFixedKeySet(jwks []byte) (*KeySet, error) {
	keys, err := parseKeys(jwks)
	if err != nil {
		return nil, err
	}
	return &KeySet{keys: keys}, nil
}

// URL returns where the keys come from: the argument of NewKeySet.
func (s *KeySet) URL() string { return s.url }

// VerifySignature returns the payload of a token that a key of the set has signed. It implements oidc.KeySet.
// The error is ErrNoKeys, ErrSignature, or what is wrong with the token's form.
func (s *KeySet) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	return s.verify(ctx, token, s.fetch)
}

// VerifyPatiently does the same, but where keys have been fetched too often it waits until they may be fetched again: for a
// token that does not come twice. All who wait do so for one fetch, whose turn nobody can take. The error is ErrNoKeys and
// ErrKeysLater if too many wait.
func (s *KeySet) VerifyPatiently(ctx context.Context, token string) ([]byte, error) {
	return s.verify(ctx, token, s.fetchInTurn)
}

func (s *KeySet) verify(ctx context.Context, token string, fetch func(context.Context) ([]gojose.JSONWebKey, error)) ([]byte, error) {
	jws, err := gojose.ParseSignedCompact(token, signatureAlgorithms)
	if err != nil {
		return nil, fmt.Errorf("malformed token: %w", err)
	}
	if payload, ok := verifyWith(s.known(), jws); ok {
		return payload, nil
	}
	if s.locate == nil {
		return nil, ErrSignature
	}
	keys, err := fetch(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoKeys, err)
	}
	if payload, ok := verifyWith(keys, jws); ok {
		return payload, nil
	}
	return nil, ErrSignature
}

// verifyWith tries those keys that a token may be signed with.
func verifyWith(keys []gojose.JSONWebKey, jws *gojose.JSONWebSignature) ([]byte, bool) {
	header := jws.Signatures[0].Header // ParseSignedCompact admits exactly one
	for _, key := range keys {
		if header.KeyID != "" && header.KeyID != key.KeyID || key.Algorithm != "" && key.Algorithm != header.Algorithm {
			continue
		}
		if payload, err := jws.Verify(key); err == nil {
			return payload, true
		}
	}
	return nil, false
}

// known returns the keys at hand, unless they are too old.
func (s *KeySet) known() []gojose.JSONWebKey {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.locate != nil && s.now().Sub(s.born) >= keysMaxAge {
		return nil
	}
	return s.keys
}

// fetch gets the keys anew; many who ask at once wait for one answer.
func (s *KeySet) fetch(ctx context.Context) ([]gojose.JSONWebKey, error) {
	return s.share(ctx, "now", func() (any, error) {
		if !s.limiter.Allow() {
			return nil, ErrKeysLater
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*Timeout) // for all who wait
		defer cancel()
		return s.load(ctx)
	})
}

// fetchInTurn does the same when the limiter has room.
func (s *KeySet) fetchInTurn(ctx context.Context) ([]gojose.JSONWebKey, error) {
	defer s.patient.Add(-1)
	if s.patient.Add(1) > maxPatient {
		return nil, ErrKeysLater
	}
	return s.share(ctx, "in turn", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keyFetchInterval+2*Timeout) // for all who wait
		defer cancel()
		if err := s.limiter.Wait(ctx); err != nil {
			return nil, ErrKeysLater
		}
		return s.load(ctx)
	})
}

// share returns what get does, which is done once for all who ask at the same time in the same way.
func (s *KeySet) share(ctx context.Context, way string, get func() (any, error)) ([]gojose.JSONWebKey, error) {
	answer := s.flight.DoChan(way, get)
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case r := <-answer:
		keys, _ := r.Val.([]gojose.JSONWebKey)
		return keys, r.Err
	}
}

func (s *KeySet) load(ctx context.Context) (keys []gojose.JSONWebKey, err error) {
	url, err := s.locate(ctx)
	if err != nil {
		return nil, err
	}
	body, err := get(ctx, s.client, url)
	if err != nil {
		return nil, err
	}
	if keys, err = parseKeys(body); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys, s.born = keys, s.now()
	return slices.Clone(keys), nil
}
