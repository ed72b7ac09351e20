// SPDX-License-Identifier: Apache-2.0

package session

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// What a provider says anew of a user is known on every node, whoever hears of it in which order, and after a restart.
func TestValidate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, 50*time.Millisecond)
		var mu sync.Mutex
		said := map[int][]string{}
		for i, table := range c.tables {
			table.cfg.OnValidate = func(r Record) { c.tell(i, r) }
			table.cfg.OnIdentity = func(s Session) {
				mu.Lock()
				defer mu.Unlock()
				said[i] = append(said[i], s.Identity.Groups[0])
			}
		}
		s := c.tables[0].create(t, 1, time.Hour, 0)
		c.settle()
		for _, group := range []string{"z", "a", "a"} {
			time.Sleep(time.Second)
			who := s.Identity
			who.Groups = []string{group}
			if err := c.tables[0].Validate(s.ID, who); err != nil {
				t.Fatal(err)
			}
			c.settle()
		}
		c.equal(t)
		for i, table := range c.tables {
			got, err := table.ByID(s.ID)
			if err != nil || !slices.Equal(got.Identity.Groups, []string{"a"}) || got.Validated <= got.Born {
				t.Errorf("node %d: %v validated at %d, %v", i, got.Identity.Groups, got.Validated-got.Born, err)
			}
			if saved, _ := table.store.get(s.ID); saved.Validated != got.Validated || !slices.Equal(saved.Identity.Groups, []string{"a"}) {
				t.Errorf("node %d: a restart would know %+v", i, saved.Identity)
			}
			mu.Lock()
			if !slices.Equal(said[i], []string{"z", "a"}) {
				t.Errorf("node %d was told of %v", i, said[i])
			}
			mu.Unlock()
			if n := len(table.people); n != 1 {
				t.Errorf("node %d: %d identities are held for one person", i, n)
			}
		}
		who := s.Identity
		who.Subject = "mallory"
		if err := c.tables[0].Validate(s.ID, who); err == nil {
			t.Error("it is of somebody else now")
		}
		if err := c.tables[0].Validate(ID{9}, s.Identity); !errors.Is(err, ErrNotFound) {
			t.Errorf("nobody's: %v", err)
		}
	})
}

// A token makes sessions of one key only: who steals it after it was used has nothing, and of two who use it at once, in
// two places, neither has.
func TestCredentialServesOneKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 2, 50*time.Millisecond)
		token := CredentialOf("https://idp", "jti-1")
		with := func(i int, key byte) error {
			_, err := c.tables[i].Create(Session{Key: Key{key}, Identity: Identity{Issuer: "https://idp", Subject: "job"}, Credential: token}, time.Hour)
			return err
		}
		if err := with(0, 1); err != nil {
			t.Fatal(err)
		}
		c.settle()
		s, err := c.tables[1].ByKey(Key{1})
		if err != nil {
			t.Fatal(err)
		}
		for i := range c.tables {
			if err := with(i, 2); !errors.Is(err, ErrCredentialUsed) {
				t.Errorf("node %d: with another key: %v", i, err)
			}
		}
		if _, err := c.tables[0].End(s.ID, End{Reason: ReasonLogout}); err != nil {
			t.Fatal(err)
		}
		c.settle()
		if err := with(1, 2); !errors.Is(err, ErrCredentialUsed) {
			t.Errorf("with another key, after the end: %v", err)
		}
		if err := with(1, 1); err != nil {
			t.Errorf("with its own key again: %v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3, 50*time.Millisecond)
		token := CredentialOf("https://idp", "jti-2")
		for i := range 2 {
			if _, err := c.tables[i].Create(Session{Key: Key{byte(i + 1)}, Identity: Identity{Issuer: "https://idp", Subject: "job"}, Credential: token}, time.Hour); err != nil {
				t.Fatal(err)
			}
		}
		c.settle()
		c.settle()
		c.equal(t)
		for i, table := range c.tables {
			for key := range byte(2) {
				if _, err := table.ByKey(Key{key + 1}); ReasonOf(err) != ReasonReplayed {
					t.Errorf("node %d: key %d: %v", i, key+1, err)
				}
			}
		}
	})
}

// The provider's last word is no older than the sign-in, and not of the future.
func TestValidatedAtTheBeginning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHarness(t)
		now := OriginTime(h.clock.Boot())
		born := now - OriginTime(10*time.Minute)
		for n, tc := range []struct{ said, want OriginTime }{{0, 0}, {1, born}, {now - 7, now - 7}, {now + OriginTime(time.Hour), now}} {
			s, err := h.Create(Session{Key: Key{byte(n + 1)}, Identity: Identity{Subject: "user"}, Born: born, Validated: tc.said}, time.Hour)
			if err != nil || s.Validated != tc.want {
				t.Errorf("%d: %d, %v; want %d", tc.said-now, s.Validated-now, err, tc.want-now)
			}
		}
	})
}
