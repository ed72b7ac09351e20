// SPDX-License-Identifier: Apache-2.0

//go:build linux

package enforcer

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/curfew-proxy/curfew/bpf"
)

// Config says what to enforce and which proxy to run. Path, and each duration, has a default.
type Config struct {
	BPF bpf.Config

	// Path is the proxy's program, this one's if empty; Args are its arguments without the
	// program's name, Env returns its whole environment, a slice of its own each time it is started.
	Path string
	Args []string
	Env  func() []string
	// UID and GID are the unprivileged user that the proxy runs as; not root.
	UID, GID uint32
	// Files are handed to the proxy. The caller keeps them, and keeps them open.
	Files []File

	// ReadyTimeout is how long a new proxy may take until it is ready (30 s), HangTimeout how long
	// heartbeats may be missing until it is killed and started anew (10 s), DrainTimeout how long
	// it may take to finish on shutdown (30 s).
	ReadyTimeout, HangTimeout, DrainTimeout time.Duration

	// Userspace runs the proxy without any of the kernel's enforcement: no BPF, no cgroup, no
	// kills. For hosts where none is to be had, if somebody has decided so.
	Userspace bool
	// OnReload is called before the proxy is told to read its configuration again; on an error it is
	// not told. Nil: nothing to do.
	OnReload func() error

	Log *slog.Logger // slog.Default() if nil
}

// Validate reports whether c can be run.
func (c *Config) Validate() error {
	if c.UID == 0 || c.GID == 0 {
		return errors.New("the proxy must not run as root: set a user and a group")
	}
	for _, f := range c.Files {
		if f.Name == "" || strings.Contains(f.Name, ",") || f.File == nil {
			return fmt.Errorf("file %q: want a name without commas, and a file", f.Name)
		}
	}
	for name, d := range map[string]time.Duration{"ready": c.ReadyTimeout, "hang": c.HangTimeout, "drain": c.DrainTimeout} {
		if d < 0 {
			return fmt.Errorf("%s timeout %v: want none or more", name, d)
		}
	}
	return c.BPF.Validate()
}

// withDefaults returns c with what is left out filled in.
func (c Config) withDefaults() Config {
	for p, d := range map[*time.Duration]time.Duration{
		&c.ReadyTimeout: 30 * time.Second,
		&c.HangTimeout:  10 * time.Second,
		&c.DrainTimeout: 30 * time.Second,
	} {
		if *p == 0 {
			*p = d
		}
	}
	if c.Path == "" {
		c.Path = "/proc/self/exe"
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c
}
