// SPDX-License-Identifier: Apache-2.0

package client

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/curfew-proxy/curfew/agent/api"
)

func TestTokenSources(t *testing.T) {
	dir := t.TempDir()
	for name, tc := range map[string]struct{ content, want string }{
		"good":         {"a.b.c\n", ""},
		"empty":        {" \n", "is empty"},
		"something":    {"secret", "does not hold a token"},
		"long":         {strings.Repeat("a", maxToken) + ".b.c", "does not hold a token"},
		"with newline": {"\r\na.b.c\r\n", ""},
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(tc.content), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Setenv("CURFEW_TEST_TOKEN", tc.content)
		for from, source := range map[string]TokenSource{path: TokenFile(path), "$CURFEW_TEST_TOKEN": TokenEnv("CURFEW_TEST_TOKEN")} {
			token, err := source()
			if tc.want == "" {
				if err != nil || token != "a.b.c" {
					t.Errorf("%s: %q, %v", from, token, err)
				}
				continue
			}
			wantToken(t, err, from, tc.want)
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the content is in the error: %v", err)
			}
		}
	}
	_, err := TokenFile(filepath.Join(dir, "missing"))()
	wantToken(t, err, "missing", "no such file")
	_, err = TokenFile(dir)()
	wantToken(t, err, dir, "directory")
	_, err = TokenEnv("CURFEW_TEST_NO_TOKEN")()
	wantToken(t, err, "$CURFEW_TEST_NO_TOKEN", "is not set")
}

func wantToken(t *testing.T, err error, from, text string) {
	t.Helper()
	var e *api.Error
	if !errors.As(err, &e) || e.Hint == "" || !strings.Contains(e.Message, from) || !strings.Contains(e.Message, text) {
		t.Errorf("%#v; want %q of %s, and a hint", err, text, from)
	}
}

// A machine's key stays the same: the agent takes its token with no other.
func TestTokenLoginKeepsItsKey(t *testing.T) {
	a, _ := newFakeAgent(t, "127.0.0.1:0")
	a.token = "a.b.c"
	agent := signedIn(t, a) // a person
	path := filepath.Join(t.TempDir(), "token")
	put := func(token string) {
		if err := os.WriteFile(path, []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("a.b.c")
	login := func() (api.Session, error) {
		l, err := NewTokenLogin(agent, TokenFile(path), "ci")
		if err != nil {
			t.Fatal(err)
		}
		return l.SignIn(t.Context())
	}
	before, err := agent.Store.LoadKey()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		sess, err := login()
		if err != nil {
			t.Fatal(err)
		}
		if kept, err := agent.Store.LoadSession(); err != nil || kept.ID != sess.ID {
			t.Errorf("sign-in %d: the store has %s, %v", i, kept.ID, err)
		}
	}
	after, err := agent.Store.LoadKey()
	if err != nil {
		t.Fatal(err)
	}
	old, err1 := keyOf(before)
	now, err2 := keyOf(after)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if a.keys[0] == old.ID() || a.keys[1] != a.keys[0] || a.keys[2] != a.keys[0] || now.ID() != a.keys[0] {
		t.Errorf("keys %v, before %v, in the store %v", a.keys, old.ID(), now.ID())
	}
	put("x.y.z")
	_, err = login()
	var e *api.Error
	if !errors.As(err, &e) || e.Code != api.CodeTokenRefused {
		t.Errorf("a token that is refused: %v", err)
	}
	if _, err := agent.Store.LoadKey(); err != nil {
		t.Errorf("the session at hand has lost its key: %v", err)
	}
}
