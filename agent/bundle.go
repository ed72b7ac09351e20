// SPDX-License-Identifier: Apache-2.0

//go:build linux

package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/curfew-proxy/curfew/agent/config"
)

// bundle is what the privileged process hands the proxy process to work with: the configuration, and the
// contents of the files it names, which the proxy's user may not read. It travels in an anonymous
// file that both keep open; on a reload it is rewritten before the proxy is told.
type bundle struct {
	Config *config.Config    `json:"config"`
	Files  map[string][]byte `json:"files"` // by path, as the configuration spells it
	Join   string            `json:"join"`  // the token of a cluster to join, or empty
	// VaultKey seals what providers have given.
	VaultKey []byte `json:"vault_key"`
}

// newBundle reads the files that c names. The caller may be root, the reader of the bundle is not.
func newBundle(c *config.Config) (*bundle, error) {
	b := &bundle{Config: c, Files: map[string][]byte{}}
	var errs []error
	for _, path := range c.Files() {
		content, err := os.ReadFile(path)
		errs = append(errs, err)
		b.Files[path] = content
	}
	return b, errors.Join(errs...)
}

// hasTokens reports whether tokens of others will be in the memory of whoever works with b.
func (b *bundle) hasTokens() bool { return len(b.Config.Providers)+len(b.Config.Machines) > 0 }

// newBundleFile returns an anonymous file in memory, which leaves no trace on a disk.
func newBundleFile() (*os.File, error) {
	fd, err := unix.MemfdCreate("curfew-config", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create configuration file in memory: %w", err)
	}
	return os.NewFile(uintptr(fd), "curfew-config"), nil
}

// write replaces the content of f.
func (b *bundle) write(f *os.File) error {
	body, err := json.Marshal(b)
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt(body, 0)
	}
	if err != nil {
		return fmt.Errorf("hand over configuration: %w", err)
	}
	return nil
}

// readBundle reads what write wrote.
func readBundle(f *os.File) (*bundle, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	b := &bundle{}
	if err := json.NewDecoder(io.NewSectionReader(f, 0, info.Size())).Decode(b); err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	if b.Config == nil {
		return nil, errors.New("read configuration: it is empty")
	}
	return b, nil
}
