// SPDX-License-Identifier: Apache-2.0

package session

import (
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"
	"time"
)

// randomRecord is one of few sessions, so that records meet, with few values, so that they tie.
func randomRecord(r *rand.Rand, id byte) Record {
	rec := Record{ID: ID{id}, Origin: Origin{Node: "a", Boot: 1}, Deadline: OriginTime(100 + r.IntN(3))}
	if r.IntN(3) > 0 {
		rec.Key, rec.Identity = Key{id}, Identity{Issuer: "i", Subject: "u", Groups: []string{"g"}}
		rec.Method, rec.Born, rec.Created = "browser", 10, time.Unix(5, 0)
		rec.Active, rec.Validated = OriginTime(r.IntN(3)*20), OriginTime(r.IntN(3))
		rec.Identity.Groups = []string{string(rune('c' - rec.Validated))} // what is said last is not the greatest
	}
	if r.IntN(2) == 0 || rec.Tombstone() {
		rec.Revoked = &End{Reason: []Reason{ReasonKilled, ReasonLogout}[r.IntN(2)], By: []string{"x", "y"}[r.IntN(2)], At: time.Unix(int64(r.IntN(2)), 0)}
	}
	if r.IntN(4) == 0 {
		rec.Supersedes = ID{byte(r.IntN(3))}
	}
	if r.IntN(20) == 0 && !rec.Tombstone() {
		rec.Identity.Subject = "somebody else" // an attack, or a bug
	}
	if r.IntN(20) == 0 {
		rec.Origin.Node = "b"
	}
	if r.IntN(4) == 0 {
		rec.Extra = []byte{byte(r.IntN(3))}
	}
	if r.IntN(30) == 0 && !rec.Tombstone() {
		rec.BindAddrs = []netip.Addr{netip.MustParseAddr("10.0.0.1")}
	}
	return rec
}

// same compares what records say: two that contradict each other are over, whoever they are of.
func same(a, b Record) bool { return reflect.DeepEqual(a, b) }

func TestMergeLaws(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 50_000 {
		a, b, c := randomRecord(r, 1), randomRecord(r, 1), randomRecord(r, 1)
		if x, y := Merge(a, b), Merge(b, a); !same(x, y) {
			t.Fatalf("not commutative:\n%+v\n%+v\n->\n%+v\n%+v", a, b, x, y)
		}
		if x, y := Merge(Merge(a, b), c), Merge(a, Merge(b, c)); !same(x, y) {
			t.Fatalf("not associative:\n%+v\n%+v\n%+v\n->\n%+v %v\n%+v %v", a, b, c, x, x.Revoked, y, y.Revoked)
		}
		if x := Merge(a, a); !same(x, a) {
			t.Fatalf("not idempotent:\n%+v\n%+v", a, x)
		}
		x := Merge(a, b)
		if (a.Revoked != nil || b.Revoked != nil) && x.Revoked == nil {
			t.Fatalf("an end went away:\n%+v\n%+v", a, b)
		}
		if x.Deadline > a.Deadline || x.Deadline > b.Deadline || x.Active < a.Active || x.Active < b.Active {
			t.Fatalf("a deadline went later or activity back:\n%+v\n%+v\n%+v", a, b, x)
		}
		if y := Merge(x, a); !same(x, y) {
			t.Fatalf("a replay changes something:\n%+v\n%+v\n%+v", a, x, y)
		}
	}
}

func TestMergeOfContradictionsEnds(t *testing.T) {
	a := Record{ID: ID{1}, Key: Key{1}, Identity: Identity{Subject: "alice"}, Deadline: 100}
	b := a
	b.Identity.Groups = []string{"admin"}
	if got := Merge(a, b); got.Revoked == nil || got.Revoked.Reason != ReasonConflict {
		t.Errorf("two nodes disagree on who somebody is, and the session lives: %+v", got)
	}
}

func FuzzMerge(f *testing.F) {
	f.Add(uint64(1), uint64(2))
	f.Fuzz(func(t *testing.T, x, y uint64) {
		r := rand.New(rand.NewPCG(x, y))
		a, b, c := randomRecord(r, 1), randomRecord(r, 1), randomRecord(r, 1)
		if !same(Merge(Merge(a, b), c), Merge(Merge(c, a), b)) {
			t.Errorf("order matters: %+v %+v %+v", a, b, c)
		}
	})
}
