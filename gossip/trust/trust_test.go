// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func chmod(dir string) error { return os.Chmod(dir, 0o700) }

func TestBootstrapAndReopen(t *testing.T) {
	w := newWorld(t)
	n := w.empty()
	if _, err := n.Certificate(); !errors.Is(err, ErrNoCluster) || n.Name() != "" {
		t.Errorf("an empty trust has a certificate: %v", err)
	}
	if err := n.Bootstrap("Bad Name"); err == nil {
		t.Error("a bad name was taken")
	}
	if err := n.Bootstrap("a"); err != nil {
		t.Fatal(err)
	}
	if err := n.Bootstrap("b"); !errors.Is(err, ErrInCluster) {
		t.Errorf("bootstrapped twice: %v", err)
	}
	must(t, n, n)
	info, err := os.Stat(filepath.Join(n.dir, fileName))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("file: %v, %v", info.Mode(), err)
	}
	again := w.open(n.dir)
	must(t, n, again)
	before, _ := n.ResetKey()
	after, err := again.ResetKey()
	if err != nil || before != after || again.Name() != "a" || again.Cluster() != n.Cluster() {
		t.Errorf("reopened as %q of %q, reset key the same: %v, %v", again.Name(), again.Cluster(), before == after, err)
	}
	if err := os.Chmod(n.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(n.dir, n.cfg); err == nil {
		t.Error("opened a directory that others can read")
	}
}

func TestJoin(t *testing.T) {
	w := newWorld(t)
	all := w.cluster("a", "b", "c")
	for _, n := range all {
		wantRoster(t, n, "a", "b", "c")
		for _, other := range all {
			must(t, n, other)
		}
	}
	// Any node can honour any other's token.
	k := w.token(all[0], TokenOptions{Uses: 2})
	k.Addrs = []string{"nowhere:1", "b:1"}
	w.gossip(all...)
	d, err := w.join(k, "d")
	if err != nil {
		t.Fatal(err)
	}
	if by := d.Roster()[3].By; by != "b" {
		t.Errorf("admitted by %q", by)
	}
	mustNot(t, all[0], d, ErrNotOnRoster) // a has not heard yet
	w.gossip(all...)
	must(t, all[0], d)
}

func TestTokens(t *testing.T) {
	w := newWorld(t)
	w.now = time.Now()
	a := w.cluster("a", "b")[0]
	refused := func(what string, k JoinToken, name string, want error) {
		t.Helper()
		if _, err := w.join(k, name); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	k := w.token(a, TokenOptions{})
	refused("a taken name", k, "b", ErrNameTaken)
	refused("the name of the member that is asked", k, "a", ErrNameTaken)
	if _, err := w.join(k, "c"); err != nil {
		t.Fatalf("the refusals used the token up: %v", err)
	}
	refused("used", k, "d", ErrTokenUsed)

	k = w.token(a, TokenOptions{Life: time.Minute})
	w.now = w.now.Add(time.Minute)
	refused("expired", k, "d", ErrTokenExpired)

	k = w.token(a, TokenOptions{})
	if err := a.RevokeToken(k.ID()); err != nil {
		t.Fatal(err)
	}
	refused("revoked", k, "d", ErrTokenUnknown)

	k = w.token(a, TokenOptions{})
	k.secret[0] ^= 1
	refused("tampered secret", k, "d", ErrTokenUnknown)

	other := newWorld(t)
	other.cluster("a")
	foreign := other.token(other.nodes["a"], TokenOptions{})
	refused("foreign", foreign, "d", ErrCluster)
	foreign.Roots = w.token(a, TokenOptions{}).Roots // its maker knows this cluster's root
	refused("foreign with our root", foreign, "d", ErrCluster)

	if _, err := a.NewToken(nil, TokenOptions{}); err == nil {
		t.Error("a token without an address")
	}
	if _, err := a.NewToken([]string{"a:1"}, TokenOptions{Life: MaxTokenLife + 1}); err == nil {
		t.Error("a token for ever")
	}
	wantRoster(t, a, "a", "b", "c")
}

func TestTokenText(t *testing.T) {
	w := newWorld(t)
	k := w.token(w.cluster("a")[0], TokenOptions{})
	back, err := ParseToken("  " + k.Text() + "\n")
	if err != nil || back.secret != k.secret || back.Cluster != k.Cluster {
		t.Errorf("read back: %v, %v", back, err)
	}
	secret := fmt.Sprintf("%x", k.secret)
	for _, shown := range []string{k.String(), fmt.Sprintf("%v %+v %#v %s", k, k, k, &k), k.LogValue().String()} {
		if strings.Contains(shown, k.Text()) || strings.Contains(shown, secret[:16]) || strings.Contains(shown, fmt.Sprint(k.secret)) {
			t.Errorf("the secret is in %q", shown)
		}
	}
	text := k.Text()
	for _, bad := range []string{"", "curfew-join-2.x", text[:len(text)-3], text + "A", strings.Replace(text, "e", "!", 1), tokenPrefix, tokenPrefix + "e30", text + strings.Repeat("A", maxToken)} {
		if _, err := ParseToken(bad); !errors.Is(err, ErrTokenForm) {
			t.Errorf("%.40q: %v", bad, err)
		} else if len(bad) > 30 && strings.Contains(err.Error(), bad[20:30]) {
			t.Errorf("the error repeats the token: %v", err)
		}
	}
}

// A machine that was set up anew comes back under its name; its old key is worth nothing then.
func TestReplace(t *testing.T) {
	w := newWorld(t)
	all := w.cluster("a", "b", "c")
	old := all[1]
	k := w.token(all[0], TokenOptions{Replace: true})
	again, err := w.join(k, "b")
	if err != nil {
		t.Fatal(err)
	}
	w.gossip(all[0], all[2], again)
	for _, n := range []*Trust{all[0], all[2]} {
		must(t, n, again)
		mustNot(t, n, old, ErrDenied)
		wantRoster(t, n, "a", "b", "c")
	}
	w.turn("the root that the old key knew is retired", []*Trust{all[0], all[2], again}, func() bool {
		return !all[0].Rotating() && !all[2].Rotating() && !again.Rotating()
	})
	must(t, all[2], again)
}

func TestRotateCA(t *testing.T) {
	w := newWorld(t)
	all := w.cluster("a", "b", "c")
	first := chainOf(all[0])
	if err := all[1].RotateCA(); err != nil {
		t.Fatal(err)
	}
	if err := all[1].RotateCA(); !errors.Is(err, ErrRotating) {
		t.Errorf("rotated twice at a time: %v", err)
	}
	w.turn("rotation", all, func() bool {
		for _, n := range all {
			for _, other := range all {
				must(t, n, other) // at each step
			}
		}
		return !all[0].Rotating() && !all[1].Rotating() && !all[2].Rotating()
	})
	if _, err := all[1].Verify(first); err == nil {
		t.Error("a certificate of the retired root is believed")
	}
	if d, err := w.join(w.token(all[2], TokenOptions{}), "d"); err != nil {
		t.Errorf("join after a rotation: %v", err)
	} else {
		must(t, d, all[0])
	}
	must(t, all[0], w.open(all[0].dir)) // what is on disk is of the new root
}

// A node that was away during a removal comes back without a token.
func TestCatchUp(t *testing.T) {
	w := newWorld(t)
	all := w.cluster("a", "b", "away", "evil")
	a, away := all[0], all[2]
	if err := a.Remove("evil"); err != nil {
		t.Fatal(err)
	}
	w.turn("rotation without one", all[:2], func() bool { return !a.Rotating() && !all[1].Rotating() })
	if linked(a, away) {
		t.Fatal("the retired root is still believed")
	}
	if err := away.CatchUp(t.Context(), "b:1", w.dial); err != nil {
		t.Fatal(err)
	}
	must(t, a, away)
	must(t, away, a)
	mustNot(t, away, all[3], ErrDenied)
	if err := all[3].CatchUp(t.Context(), "b:1", w.dial); err == nil {
		t.Error("the removed node caught up")
	}
}

func TestRenewal(t *testing.T) {
	w := newWorld(t)
	w.now = time.Now()
	a := w.cluster("a", "b")[0]
	first, _ := a.Certificate()
	if err := a.change(a.step); err != nil {
		t.Fatal(err)
	}
	if own, _ := a.Certificate(); own != first {
		t.Error("renewed although it is new")
	}
	w.now = w.now.Add(DefaultLifetime/2 + time.Minute)
	if err := a.change(a.step); err != nil {
		t.Fatal(err)
	}
	own, _ := a.Certificate()
	if own == first || own.Leaf.SerialNumber.Cmp(first.Leaf.SerialNumber) <= 0 {
		t.Error("not renewed after half of its life")
	}
	must(t, w.nodes["b"], a)
	w.now = w.now.Add(DefaultLifetime + time.Minute)
	if _, err := w.nodes["b"].Verify(chainOf(a)); err == nil {
		t.Error("an expired certificate is believed")
	}
	// A clock that was set back does not bring an older serial number.
	w.now = w.now.Add(-100 * 24 * time.Hour)
	if err := a.change(func(s *state) error { return a.reissue(s) }); err != nil {
		t.Fatal(err)
	}
	if again, _ := a.Certificate(); again.Leaf.SerialNumber.Cmp(own.Leaf.SerialNumber) <= 0 {
		t.Error("serial numbers went back")
	}
}
