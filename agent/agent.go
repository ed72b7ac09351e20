// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package agent is the only place where the parts of Curfew meet: it wires the session table to the
// kernel, the proxy, the identity providers, the control API and the store.
//
// The agent is two processes (see docs/architecture.md): Run is the privileged one, which enforces
// and starts RunProxy, which talks to the network.
package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/curfew-proxy/curfew/agent/api"
	"github.com/curfew-proxy/curfew/agent/config"
	"github.com/curfew-proxy/curfew/agent/enforcer"
	"github.com/curfew-proxy/curfew/agent/jose"
	"github.com/curfew-proxy/curfew/agent/policy"
	"github.com/curfew-proxy/curfew/bpf"
)

// drainMargin is what the proxy process gets beyond its drain timeout before it is killed.
const drainMargin = 5 * time.Second

// Options of Run.
type Options struct {
	ConfigPath string
	// ProxyArgs start RunProxy when given to this program.
	ProxyArgs []string
	// Join is the token of a cluster to join; empty: none.
	Join string
	Log  *slog.Logger
}

// LoadConfig reads and checks a configuration file; its error lists every mistake with its place.
func LoadConfig(path string) (*config.Config, error) {
	return config.Load(path, config.Hooks{
		Compile:       func(expr string) error { _, err := policy.Compile(expr); return err },
		CompileClaims: func(expr string) error { _, err := policy.CompileClaims(expr); return err },
		CheckKeys:     func(jwks []byte) error { _, err := jose.NewFixedKeySet(jwks); return err },
	})
}

// Run is the privileged process. It returns when ctx is done, or a signal asked for it, and everything is
// cleared away; or with an error if the agent cannot begin, or leaves something behind.
func Run(ctx context.Context, o Options) error {
	c, err := LoadConfig(o.ConfigPath)
	if err != nil {
		return err
	}
	if o.Join != "" && !c.Cluster.Enabled() {
		return &api.Error{Code: api.CodeBadRequest, Message: "--join: the configuration does not say where this node talks to others",
			Hint: "add a line such as cluster: {listen: 0.0.0.0:7946}"}
	}
	uid, gid, err := lookupUser(c.User)
	if err != nil {
		return err
	}
	if err := prepareDirs(c, uid, gid); err != nil {
		return err
	}
	socket, err := listenControl(c.ControlSocket)
	if err != nil {
		return err
	}
	defer os.Remove(c.ControlSocket)
	defer socket.Close()
	memory, err := newBundleFile()
	if err != nil {
		return err
	}
	defer memory.Close()
	rewrite := func() error { return loadBundle(o, memory) }
	if err := rewrite(); err != nil {
		return err
	}
	if err := writeRunInfo(c, o.ConfigPath); err != nil {
		return err
	}
	defer os.Remove(runInfoPath(c.Run))
	supervisor, err := enforcer.New(enforcer.Config{
		BPF:  bpf.Config{Instance: Instance(c)},
		Args: o.ProxyArgs, Env: func() []string { return proxyEnv(memory) }, UID: uid, GID: gid,
		Files:        []enforcer.File{{Name: fileBundle, File: memory}, {Name: fileControl, File: socket}},
		DrainTimeout: c.Limits.DrainTimeout + drainMargin,
		Userspace:    c.Enforcement == config.EnforceUserspace,
		OnReload:     rewrite,
		Log:          o.Log,
	})
	if err != nil {
		return err
	}
	return supervisor.RunWithSignals(ctx)
}

// loadBundle reads the configuration anew, and hands it over if nothing is wrong with it.
func loadBundle(o Options, to *os.File) error {
	c, err := LoadConfig(o.ConfigPath)
	if err != nil {
		return err
	}
	b, err := newBundle(c)
	if err != nil {
		return err
	}
	b.Join = o.Join
	if b.VaultKey, err = vaultKey(c.Run); err != nil {
		return err
	}
	return b.write(to)
}

// proxyEnv is the whole environment of the proxy process, which is about to read its bundle: what the Go runtime and the
// resolver look at.
func proxyEnv(bundle *os.File) []string {
	env := []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	debug := os.Getenv("GODEBUG")
	if b, err := readBundle(bundle); err != nil || b.hasTokens() {
		debug = strings.TrimPrefix(debug+","+clobberFree, ",") // tokens of others will be in its memory
	}
	if debug != "" {
		env = append(env, "GODEBUG="+debug)
	}
	for _, name := range []string{"GOGC", "GOMEMLIMIT", "GOMAXPROCS", "GOTRACEBACK", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTPS_PROXY", "NO_PROXY", wallOffsetEnv} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// Instance is the name of the agent's pins and cgroup on the host: its configured name, in the
// characters that those may have.
func Instance(c *config.Config) string {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '-'
	}, strings.ToLower(c.Name))
	return name[:min(len(name), 64)]
}

// lookupUser finds the user of the proxy process; numbers work without an entry in /etc/passwd.
func lookupUser(name string) (uid, gid uint32, err error) {
	u, err := user.Lookup(name)
	if err != nil {
		n, numErr := strconv.ParseUint(name, 10, 32)
		if numErr == nil && n != 0 {
			return uint32(n), uint32(n), nil
		}
		return 0, 0, fmt.Errorf("user %q of the proxy process: %w; make it with: useradd --system --no-create-home --shell /usr/sbin/nologin %s; or set user: in the configuration to one that exists", name, err, name)
	}
	id, err1 := strconv.ParseUint(u.Uid, 10, 32)
	group, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return 0, 0, fmt.Errorf("user %q: %w", name, err)
	}
	if id == 0 {
		return 0, 0, fmt.Errorf("user %q is root: the proxy process must not be; set user: in the configuration to another", name)
	}
	return uint32(id), uint32(group), nil
}

// prepareDirs makes the state directory, which belongs to the proxy's user alone, and the run directory.
func prepareDirs(c *config.Config, uid, gid uint32) error {
	if err := os.MkdirAll(c.State, 0o700); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	if err := os.Chown(c.State, int(uid), int(gid)); err != nil {
		return fmt.Errorf("state directory: %w", err)
	}
	if err := os.MkdirAll(c.Run, 0o755); err != nil {
		return fmt.Errorf("run directory: %w", err)
	}
	return nil
}

// listenControl makes the control socket for root alone. One that an agent still answers on is left alone.
func listenControl(path string) (*os.File, error) {
	if conn, err := net.DialTimeout("unix", path, time.Second); err == nil {
		_ = conn.Close()
		return nil, fmt.Errorf("control socket %s: an agent answers on it: is it running already?", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	defer l.Close() // the file below keeps the socket open
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	return l.File()
}

// RunInfo is what break-glass needs to know of an agent that does not answer.
type RunInfo struct {
	Instance string `json:"instance"`
	Config   string `json:"config"`
	State    string `json:"state"`
	PID      int    `json:"pid"` // of the privileged process
}

func runInfoPath(run string) string { return filepath.Join(run, "agent.json") }

func writeRunInfo(c *config.Config, configPath string) error {
	body, err := json.Marshal(RunInfo{Instance: Instance(c), Config: configPath, State: c.State, PID: os.Getpid()})
	if err == nil {
		err = os.WriteFile(runInfoPath(c.Run), body, 0o644)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", runInfoPath(c.Run), err)
	}
	return nil
}
