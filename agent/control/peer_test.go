// SPDX-License-Identifier: Apache-2.0

//go:build linux

package control

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/curfew-proxy/curfew/agent/api"
)

const (
	asNobody = "CURFEW_TEST_SOCKET" // set in the child of TestOnlyRootMayCall
	nobody   = 65534
)

func TestMain(m *testing.M) {
	if socket := os.Getenv(asNobody); socket != "" {
		_, err := NewClient(socket).Kill(context.Background(), api.KillRequest{All: true})
		fmt.Print(codeOf(err))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func callAsNobody(t *testing.T, socket string) string {
	t.Helper()
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	path := shortDir(t) + "/test" // the test binary's own directory is closed to others
	if err := os.WriteFile(path, exe, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path)
	cmd.Env = []string{asNobody + "=" + socket}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("run as nobody: %v", err)
	}
	return string(out)
}

// The socket's mode is the first lock. This is the second: it holds when the mode was changed.
func TestOnlyRootMayCall(t *testing.T) {
	f := &fake{}
	socket, _ := serve(t, f, nil)
	if err := os.Chmod(socket, 0o777); err != nil {
		t.Fatal(err)
	}
	if code := callAsNobody(t, socket); code != api.CodeForbidden {
		t.Errorf("a kill by nobody: %q, want %q", code, api.CodeForbidden)
	}
	if len(f.killed) != 0 {
		t.Error("the agent was asked to kill")
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		t.Fatal(err)
	}
	if code := callAsNobody(t, socket); code != api.CodeUnreachable {
		t.Errorf("a kill by nobody through a closed socket: %q, want %q", code, api.CodeUnreachable)
	}
}

func TestAllowUIDs(t *testing.T) {
	f := &fake{}
	socket, _ := serve(t, f, func(c *Config) { c.AllowUIDs = []uint32{nobody} })
	if err := os.Chmod(socket, 0o777); err != nil {
		t.Fatal(err)
	}
	if code := callAsNobody(t, socket); code != "" || f.by != "nobody@control" {
		t.Errorf("a kill by nobody, who is allowed: %q by %q", code, f.by)
	}
	if _, err := NewClient(socket).Status(t.Context()); codeOf(err) != api.CodeForbidden {
		t.Errorf("root, who is not on the list: %v", err)
	}
}
