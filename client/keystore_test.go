// SPDX-License-Identifier: Apache-2.0

package client

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/session"
)

func TestStoreIsPrivate(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Log("modes mean nothing here: the directory's access list is inherited from the profile")
		return
	}
	a, _ := newFakeAgent(t, "127.0.0.1:0")
	agent := signedIn(t, a)
	files := 0
	err := filepath.WalkDir(agent.Store.home, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		} else {
			files++
		}
		// t.TempDir makes the home itself; the store makes what is in it.
		if path != agent.Store.home && info.Mode().Perm() != want {
			t.Errorf("%s has mode %o, want %o", path, info.Mode().Perm(), want)
		}
		return nil
	})
	if err != nil || files != 6 {
		t.Errorf("%d files, %v; want cert, key, ca, agent, session, current and nothing left over", files, err)
	}
}

func TestStoreKeepsAndWipes(t *testing.T) {
	a, _ := newFakeAgent(t, "127.0.0.1:0")
	agent := signedIn(t, a)
	if at, err := CurrentAgent(agent.Store.home); err != nil || at != a.addr {
		t.Errorf("CurrentAgent = %v, %v", at, err)
	}
	old, err := agent.Store.LoadKey()
	if err != nil {
		t.Fatal(err)
	}
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := agent.Store.SaveLogin(key, a.session); err != nil {
		t.Fatal(err)
	}
	cert, err := agent.Store.LoadKey()
	if err != nil || session.KeyOf(cert.Leaf) != key.ID() || session.KeyOf(old.Leaf) == key.ID() {
		t.Errorf("the second key: %v", err)
	}
	ended := a.session
	ended.State, ended.Ended = api.StateEnded, &session.End{Reason: session.ReasonIdle, At: time.Now()}
	if err := agent.Store.SaveSession(cert, ended); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{KeyFile, CertFile} {
		if _, err := os.Stat(agent.Store.Path(file)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s after the end: %v", file, err)
		}
	}
	var e *EndedError
	if _, err := agent.SignedIn(); !errors.As(err, &e) || e.Reason != session.ReasonIdle || e.ExitCode() != ExitEnded {
		t.Errorf("SignedIn after the end: %v", err)
	}
}

func TestNotSignedIn(t *testing.T) {
	a, _ := newFakeAgent(t, "127.0.0.1:0")
	fp := FingerprintOf(a.cert.Leaf)
	home := t.TempDir()
	if _, err := CurrentAgent(home); err == nil {
		t.Error("an agent is current in an empty home")
	}
	agent, err := Connect(t.Context(), Config{Home: home, Agent: a.addr, Fingerprint: &fp})
	if err != nil {
		t.Fatal(err)
	}
	var e *api.Error
	if _, err := agent.SignedIn(); !errors.As(err, &e) || e.Code != api.CodeNoCertificate || e.Hint == "" {
		t.Errorf("SignedIn: %v", err)
	}
	if _, err := Status(t.Context(), agent); !errors.As(err, &e) || e.Code != api.CodeNoCertificate {
		t.Errorf("Status: %v", err)
	}
}

func TestLogoutWipesWithoutTheAgent(t *testing.T) {
	a, stop := newFakeAgent(t, "127.0.0.1:0")
	agent := signedIn(t, a)
	stop()
	var e *api.Error
	if _, err := Logout(t.Context(), agent, false); !errors.As(err, &e) || e.Code != api.CodeUnreachable || e.Hint == "" {
		t.Errorf("Logout: %v; want it to say that the session lives on", err)
	}
	if _, err := os.Stat(agent.Store.Path(KeyFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("key: %v", err)
	}
}
