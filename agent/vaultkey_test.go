// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/curfew-proxy/curfew/agent/identity"
)

// The key that opens the tokens on the disk is made once, for root alone, and is trusted only if nobody else can have made it.
func TestVaultKey(t *testing.T) {
	run := t.TempDir()
	path := filepath.Join(run, vaultKeyName)
	key, err := vaultKey(run)
	if err != nil || len(key) != identity.SealKeyLen || bytes.Equal(key, make([]byte, identity.SealKeyLen)) {
		t.Fatalf("%d bytes, %v", len(key), err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if again, err := vaultKey(run); err != nil || !bytes.Equal(again, key) {
		t.Errorf("the second time it is another: %v", err)
	}
	if other, err := vaultKey(t.TempDir()); err != nil || bytes.Equal(other, key) {
		t.Errorf("after a reboot it is the same: %v", err)
	}
	target := filepath.Join(t.TempDir(), "key")
	for name, change := range map[string]func() error{
		"others can read it":  func() error { return os.Chmod(path, 0o640) },
		"another's":           func() error { return os.Chown(path, 65534, 65534) },
		"too short":           func() error { return os.WriteFile(path, key[1:], 0o600) },
		"too long":            func() error { return os.WriteFile(path, append(key[:len(key):len(key)], 0), 0o600) },
		"empty":               func() error { return os.WriteFile(path, nil, 0o600) },
		"a link":              func() error { return os.WriteFile(target, key, 0o600) },
		"a link to nothing":   func() error { return os.RemoveAll(target) },
		"a directory instead": func() error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
			var err error
			switch name {
			case "a link", "a link to nothing":
				err = os.Symlink(target, path)
			case "a directory instead":
				err = os.Mkdir(path, 0o600)
			default:
				err = os.WriteFile(path, key, 0o600)
			}
			if err == nil {
				err = change()
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := vaultKey(run); err == nil {
				t.Error("it was taken")
			}
		})
	}
}
