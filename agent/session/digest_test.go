// SPDX-License-Identifier: Apache-2.0

package session

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// The leaves hold what the table knows, whatever comes and goes.
func TestSummariesAreOfWhatIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _, clock := newMistaken(t, func(cfg *TableConfig) { cfg.Retention = time.Hour })
		all := map[uint16]bool{}
		for i := range 300 {
			r := recordOf(clock, 0, time.Duration(1+i)*time.Minute, 0)
			r.ID, r.Key = ID{1, byte(i % 3), byte(i), byte(i >> 8)}, Key{1, byte(i), byte(i >> 8)}
			all[LeafOf(r.ID)] = true
			h.merge(t, r)
		}
		for range 10 {
			list := h.Summaries(all)
			var want Digest
			for _, s := range list {
				want.toggle(s.ID, s.Hash)
			}
			if want.Fold() != h.Fold() {
				t.Error("the digest is not of what is in the leaves")
			}
			if len(list) != h.Count() {
				t.Errorf("%d in the leaves, %d live", len(list), h.Count())
			}
			if one := h.Summaries(map[uint16]bool{LeafOf(ID{1, 2}): true}); slices.ContainsFunc(one, func(s Summary) bool { return s.ID[1] != 2 }) {
				t.Error("what is in other leaves is among those of one")
			}
			time.Sleep(31 * time.Minute)
			synctest.Wait()
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		for leaf, e := range h.leaves {
			if e != nil {
				t.Fatalf("leaf %d still holds %s, which is forgotten", leaf, e.id.Short())
			}
		}
	})
}

// A fault it keeps out: what a newer version says was lost unless it came with the first word of a session, and
// no digest showed it.
func TestExtraIsPassedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _, clock := newMistaken(t)
		r := recordOf(clock, 1, time.Hour, 0)
		h.merge(t, r)
		before, old := h.Fold(), h.Records([]ID{r.ID})[0]
		r.Extra = []byte{1, 2}
		m := h.merge(t, r)
		if len(m.News) != 1 || !bytes.Equal(m.News[0].Extra, r.Extra) || h.Fold() == before || old.Extra != nil {
			t.Errorf("%+v", m)
		}
		if saved, _ := h.store.get(r.ID); !bytes.Equal(saved.Extra, r.Extra) {
			t.Errorf("stored: %v", saved.Extra)
		}
	})
}

// A kill does not wait for this node's disk before others hear of it.
func TestOthersAreToldBeforeTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var order []string
		h := newHarness(t, func(cfg *TableConfig) {
			cfg.OnChange = func(r Record) { order = append(order, fmt.Sprint("told ", r.Revoked != nil)) }
			cfg.OnEnd = func(Ending) { order = append(order, "shut") }
			cfg.Store = noting{cfg.Store, &order}
		})
		s := h.create(t, 1, time.Hour, 0)
		if _, err := h.End(s.ID, End{Reason: ReasonKilled}); err != nil {
			t.Fatal(err)
		}
		if want := []string{"disk", "told false", "shut", "told true", "disk"}; !slices.Equal(order, want) {
			t.Errorf("%v, want %v", order, want)
		}
	})
}

type noting struct {
	Store
	order *[]string
}

func (n noting) Save(list ...Session) error {
	*n.order = append(*n.order, "disk")
	return n.Store.Save(list...)
}

// What a round of anti-entropy holds the lock for, while no deadline fires, and what a change costs.
func BenchmarkDigest(b *testing.B) {
	table, err := NewTable(TableConfig{Clock: &bubbleClock{start: time.Now()}})
	if err != nil {
		b.Fatal(err)
	}
	for i := range 300_000 {
		if _, err := table.Create(Session{Key: Key{byte(i), byte(i >> 8), byte(i >> 16), 1}, Identity: Identity{Subject: fmt.Sprint(i / 10)}}, time.Hour); err != nil {
			b.Fatal(err)
		}
	}
	leaves := map[uint16]bool{}
	for i := range uint16(100) {
		leaves[i] = true
	}
	b.Run("Summaries100", func(b *testing.B) {
		for b.Loop() {
			table.Summaries(leaves)
		}
	})
	b.Run("Change", func(b *testing.B) {
		e := table.leaves[0]
		for b.Loop() {
			table.changeLocked(e, func() { e.published++ })
		}
	})
}
