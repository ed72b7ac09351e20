// SPDX-License-Identifier: Apache-2.0

//go:build linux

package oidc_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/curfew-proxy/curfew/test/harness"
)

// TestTokensAreWiped looks for the provider's tokens in the memory of both processes and in all files of the agent: they are
// in the memory of one, while the session lives, and nowhere afterwards, whoever ended it. Nor are they of use at the provider.
func TestTokensAreWiped(t *testing.T) {
	s := newSite(t, "true", ", revalidate: {every: 1s}")
	find := func() (places []string) {
		tokens, err := s.provider.Tokens()
		if err != nil || len(tokens) < 6 {
			t.Fatalf("%d tokens, %v", len(tokens), err)
		}
		for name, pid := range map[string]int{"proxy": s.agent.ProxyPID(t), "enforcer": s.agent.EnforcerPID()} {
			n := 0
			for _, token := range tokens {
				n += inMemory(t, pid, token)
			}
			if n > 0 {
				places = append(places, fmt.Sprintf("%s: %d copies", name, n))
			}
		}
		for _, token := range tokens {
			places = append(places, inFiles(t, s.agent.Dir, token)...)
		}
		return places
	}
	signOut := func(u *user) {
		if r := u.curfew(t, "logout"); r.Code != 0 {
			t.Errorf("logout: %+v", r)
		}
	}
	for round, tc := range []struct {
		by  string
		end func()
	}{
		{"the users", func() { signOut(s.alice); signOut(s.bob) }},
		{"the provider and an operator", func() {
			if err := s.alice.browser.SignOut(t.Context(), s.provider); err != nil {
				t.Error(err)
			}
			if r := s.agent.Curfew(t, "kill", "--subject", "bob"); r.Code != 0 {
				t.Errorf("kill: %+v", r)
			}
		}},
	} {
		if round > 0 {
			s.alice.mustLogin(t)
			s.bob.mustLogin(t)
		}
		if places := find(); len(places) != 1 || !strings.HasPrefix(places[0], "proxy: ") {
			t.Errorf("while the sessions live: %v", places)
		}
		tc.end()
		harness.Eventually(t, "the tokens to be gone, with sessions ended by "+tc.by, func() error {
			if places := find(); len(places) > 0 {
				return fmt.Errorf("%v", places)
			}
			return nil
		})
		s.mustBeRevoked(t)
	}
}

// mustBeRevoked checks that no token that the provider has given out so far is of use there.
func (s *site) mustBeRevoked(t *testing.T) {
	t.Helper()
	tokens, err := s.provider.Tokens()
	if err != nil {
		t.Fatal(err)
	}
	for i, token := range tokens {
		if active, err := s.provider.Active(t.Context(), "curfew", "s3cret", token); active || err != nil {
			t.Errorf("token %d of %d is active: %v, %v", i, len(tokens), active, err)
		}
	}
}

// inMemory counts how often text is in the memory of a process that can be written to.
func inMemory(t *testing.T, pid int, text string) (n int) {
	t.Helper()
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer maps.Close()
	memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		var from, to int64
		var mode string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &mode); err != nil || !strings.HasPrefix(mode, "rw") {
			continue
		}
		b := make([]byte, to-from)
		got, _ := memory.ReadAt(b, from) // some of it cannot be read, or is gone
		n += bytes.Count(b[:got], []byte(text))
	}
	return n
}

// inFiles returns the files below a directory that have text in them.
func inFiles(t *testing.T, dir, text string) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if bytes.Contains(b, []byte(text)) {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}
