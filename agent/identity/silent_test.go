// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// TestSilentProvider: a provider that does not answer has many sessions. The others' are asked about all the same.
func TestSilentProvider(t *testing.T) {
	hold := make(chan struct{})
	silent, d, r := refreshed(t, func(w http.ResponseWriter, _ *http.Request) { <-hold; writeTokens(w, 1, "") },
		func(c *Config) { c.Revalidation.Every = 100 * time.Millisecond })
	t.Cleanup(sync.OnceFunc(func() { close(hold) })) // before the server is closed
	for i := range byte(4 * revalidators) {
		r.Vault.Put(session.ID{2, i}, r.Providers.All()[0], Tokens{Refresh: []byte("r"), Access: []byte("a")})
	}
	other := newHostile(t)
	other.token = func(w http.ResponseWriter, _ *http.Request) { writeTokens(w, 1, "") }
	p := other.provider(t, func(c *Config) { c.Name, c.Revalidation.Every = "other", 100*time.Millisecond })
	r.Providers = providersOf(append(r.Providers.All(), p)...)
	r.Vault.Put(session.ID{3}, p, Tokens{Refresh: []byte("r"), Access: []byte("a")})
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = r.Run(ctx) })
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) { // less than the silent one may take
		d.mu.Lock()
		valid := d.valid
		d.mu.Unlock()
		if valid >= 3 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("validated %d times while %s is silent", valid, silent.URL)
		}
	}
	stop()
	running.Wait()
}

// TestSilentProviderRevokes: a provider that does not answer has many tokens to revoke. The others' are revoked all the same, and
// it is not asked by more workers than its own.
func TestSilentProviderRevokes(t *testing.T) {
	hold := make(chan struct{})
	var under, most atomic.Int64
	silent, other := newHostile(t), newHostile(t)
	silent.hold = func() {
		if n := under.Add(1); n > most.Load() {
			most.Store(n)
		}
		<-hold
		under.Add(-1)
	}
	t.Cleanup(sync.OnceFunc(func() { close(hold) })) // before the server is closed
	p, q := silent.provider(t, nil), other.provider(t, func(c *Config) { c.Name = "other" })
	v := NewVault(slog.New(slog.DiscardHandler), nil)
	runVault(t, v)
	for i := range byte(4 * revokeWorkers) {
		v.Put(session.ID{2, i}, p, Tokens{Refresh: []byte("r")})
		v.EndLater(session.ID{2, i})
	}
	waitFor(t, func() bool { return under.Load() == revokeWorkers })
	for i := range byte(4 * revokeWorkers) {
		v.Put(session.ID{3, i}, q, Tokens{Refresh: []byte("r")})
		v.EndLater(session.ID{3, i})
	}
	waitFor(t, func() bool { return other.revoked.Load() == 4*revokeWorkers })
	if most.Load() != revokeWorkers || silent.revoked.Load() != 0 || v.toRevoke() != 3*revokeWorkers {
		t.Errorf("%d at once at the silent one, %d revoked there, %d left", most.Load(), silent.revoked.Load(), v.toRevoke())
	}
	for range 4 * revokeWorkers {
		hold <- struct{}{}
	}
	waitFor(t, func() bool { return silent.revoked.Load() == 4*revokeWorkers })
	waitFor(t, func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		return len(v.lanes) == 0
	})
}
