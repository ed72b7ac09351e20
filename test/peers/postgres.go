// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// Postgres starts a PostgreSQL server with an empty cluster, user "postgres", no password, and
// returns its address.
func Postgres(t testing.TB) string {
	t.Helper()
	bin := filepath.Dir(Find(t, "/usr/lib/postgresql/*/bin/postgres"))
	dir, err := os.MkdirTemp("", "curfew-pg-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	cred := credential(t, "postgres")
	if err := os.Chown(dir, int(cred.Uid), int(cred.Gid)); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	initdb := exec.Command(filepath.Join(bin, "initdb"), "--no-sync", "-A", "trust", "-U", "postgres", "-D", data)
	initdb.Dir = dir
	initdb.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	if out, err := initdb.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	port := FreePort(t)
	server := exec.Command(filepath.Join(bin, "postgres"), "-D", data, "-F", "-k", dir, "-p", strconv.Itoa(port),
		"-c", "listen_addresses=127.0.0.1", "-c", "max_connections=300")
	server.Dir = dir
	server.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	p := Start(t, server)
	p.WaitDial(t, loopback(port))
	// It listens before it answers.
	for deadline := time.Now().Add(patience); exec.Command(filepath.Join(bin, "pg_isready"), "-q", "-h", "127.0.0.1", "-p", strconv.Itoa(port)).Run() != nil; {
		if time.Now().After(deadline) {
			t.Fatalf("PostgreSQL does not answer:\n%s", p.Output())
		}
		time.Sleep(20 * time.Millisecond)
	}
	// SIGKILL would leave its children to themselves for a moment: ask it to stop at once first.
	t.Cleanup(func() {
		_ = server.Process.Signal(syscall.SIGQUIT) // it may have exited
		<-p.Exited()
	})
	return loopback(port)
}

func credential(t testing.TB, name string) *syscall.Credential {
	t.Helper()
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err1 != nil || err2 != nil {
		t.Fatal(fmt.Errorf("user %s has ids %s, %s", name, u.Uid, u.Gid))
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}
