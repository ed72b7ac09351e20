// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"net/netip"
	"time"

	"golang.org/x/oauth2"

	"github.com/curfew-proxy/curfew/agent/session"
)

// secrets are what a sign-in shares with the provider alone.
type secrets struct {
	state    string // comes back with the callback
	nonce    string // comes back in the ID token
	verifier string // PKCE (RFC 7636)
}

func newSecrets(mark string) secrets {
	return secrets{state: marked(mark), nonce: newSecret(), verifier: oauth2.GenerateVerifier()}
}

// newSecret returns 256 random bits in 43 characters that are safe in URLs.
func newSecret() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand aborts the program instead (Go 1.24)
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// digest stands for a secret that someone will present. Secrets are looked up and compared by
// digest only, so that the time it takes says nothing about them.
type digest [sha256.Size]byte

func digestOf(secret string) digest { return sha256.Sum256([]byte(secret)) }

// stage is how far a sign-in has come. See Logins.
type stage uint8

const (
	begun      stage = iota // waits for the browser at /start
	opened                  // the browser is at the provider
	exchanging              // the provider's code is being traded for tokens
	coded                   // waits for the one-time code
)

// login is one sign-in under way. All fields but the last group are immutable.
type login struct {
	key      session.Key
	source   netip.Prefix // counted against the limit
	bind     []netip.Addr // see NewSession
	provider *Provider
	demand   *Demand
	redirect redirect
	secrets  secrets
	start    digest // of the token in the /start link
	state    digest
	device   *device // nil: in the browser; else there are no redirect, secrets, start and state

	stage   stage
	expires time.Time
	browser digest    // from opened on
	since   time.Time // from opened on, and of a device from the start: the user may be at the provider
	code    digest    // from coded on
	signIn  SignIn    // from coded on
}

// pending indexes the sign-ins under way, and bounds them. It is not safe for concurrent use.
type pending struct {
	byKey    map[session.Key]*login
	byStart  map[digest]*login
	byState  map[digest]*login
	byCode   map[digest]*login
	byHandle map[digest]*login // those of devices
	bySource map[netip.Prefix]int
}

func newPending() pending {
	return pending{
		byKey:    map[session.Key]*login{},
		byStart:  map[digest]*login{},
		byState:  map[digest]*login{},
		byCode:   map[digest]*login{},
		byHandle: map[digest]*login{},
		bySource: map[netip.Prefix]int{},
	}
}

func (p *pending) add(l *login) {
	p.byKey[l.key] = l
	if l.device != nil {
		p.byHandle[l.device.handle] = l
	} else {
		p.byStart[l.start], p.byState[l.state] = l, l
	}
	p.bySource[l.source]++
}

func (p *pending) remove(l *login) {
	if p.byKey[l.key] != l {
		return // it is gone already
	}
	delete(p.byKey, l.key)
	if l.device != nil {
		delete(p.byHandle, l.device.handle)
	}
	delete(p.byStart, l.start)
	delete(p.byState, l.state)
	delete(p.byCode, l.code)
	if p.bySource[l.source]--; p.bySource[l.source] == 0 {
		delete(p.bySource, l.source)
	}
}

func (p *pending) has(l *login) bool { return p.byKey[l.key] == l }

// victim says whether the limits leave no room for one more sign-in from source, and which to drop
// if so: the oldest whose page nobody is known to have opened. So whoever begins many pushes out those that
// nobody looks at, and does not keep others from signing in. It is nil if there is none.
func (p *pending) victim(source netip.Prefix) (victim *login, full bool) {
	sourceFull := p.bySource[source] >= maxLoginsPerSource
	if !sourceFull && len(p.byKey) < maxLogins {
		return nil, false
	}
	for _, l := range p.byKey {
		if l.stage == begun && (!sourceFull || l.source == source) && (victim == nil || l.expires.Before(victim.expires)) {
			victim = l
		}
	}
	return victim, true
}
