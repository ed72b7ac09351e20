// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// SSH is an OpenSSH server.
type SSH struct {
	Addr string
	user string
	key  string // the client's private key
}

// OpenSSH starts an OpenSSH server that lets the current user in with a key of its own.
func OpenSSH(t testing.TB) *SSH {
	t.Helper()
	dir := t.TempDir()
	keygen := Find(t, "ssh-keygen")
	for _, name := range []string{"host", "client"} {
		if out, err := exec.Command(keygen, "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, name)).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v\n%s", err, out)
		}
	}
	// sshd insists on its privilege separation directory; packages make it when the service starts.
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
		t.Fatal(err)
	}
	port := FreePort(t)
	config := fmt.Sprintf(`
ListenAddress 127.0.0.1:%d
HostKey %s/host
AuthorizedKeysFile %s/client.pub
PasswordAuthentication no
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
PidFile none
`, port, dir, dir)
	file := filepath.Join(dir, "sshd_config")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(Find(t, "/usr/sbin/sshd"), "-D", "-e", "-f", file)
	// In a process namespace of its own, so that what users run there ends with the server.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	p := Start(t, cmd)
	p.WaitDial(t, loopback(port))
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	return &SSH{Addr: loopback(port), user: me.Username, key: filepath.Join(dir, "client")}
}

// Command is an ssh client that reaches the server through proxyCommand.
func (s *SSH) Command(t testing.TB, proxyCommand []string, remote ...string) *exec.Cmd {
	t.Helper()
	args := []string{"-F", "none", "-i", s.key, "-o", "ProxyCommand=" + strings.Join(proxyCommand, " "),
		"-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
		"-o", "LogLevel=ERROR", s.user + "@behind-curfew"}
	return exec.Command(Find(t, "ssh"), append(args, remote...)...)
}
