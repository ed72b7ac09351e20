// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/curfew-proxy/curfew/agent/identity"
)

// vaultKeyName is in the run directory: that is in memory, and in no backup of the disk. With a reboot the key is gone,
// and with it what it opens: providers cannot be asked any more about the sessions from before.
const vaultKeyName = "vault.key"

// vaultKey returns the key that providers' tokens are sealed with, and makes it if there is none. Only root can read it;
// the proxy process is handed a copy.
func vaultKey(run string) ([]byte, error) {
	path := filepath.Join(run, vaultKeyName)
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return newVaultKey(path)
	}
	if err != nil {
		return nil, fmt.Errorf("key of the vault: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("key of the vault: %w", err)
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	key := make([]byte, identity.SealKeyLen+1)
	n, _ := file.Read(key) // short or not, it is looked at
	if !ok || owner.Uid != uint32(os.Geteuid()) || !info.Mode().IsRegular() || info.Mode().Perm() != 0o600 || n != identity.SealKeyLen {
		return nil, fmt.Errorf("key of the vault: %s is not a file of root's, mode 0600, of %d bytes; delete it: providers cannot be asked about live sessions then", path, identity.SealKeyLen)
	}
	return key[:n], nil
}

func newVaultKey(path string) ([]byte, error) {
	key := make([]byte, identity.SealKeyLen)
	_, _ = rand.Read(key) // never fails: crypto/rand aborts the program instead
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("key of the vault: %w", err)
	}
	_, err = file.Write(key)
	if err := errors.Join(err, file.Close()); err != nil {
		_ = os.Remove(path) // half a key is none
		return nil, fmt.Errorf("key of the vault: %w", err)
	}
	return key, nil
}
