// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/test/harness"
	"github.com/curfew-proxy/curfew/test/peers"
)

// ip runs the ip command.
func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command(peers.Find(t, "/usr/sbin/ip", "ip"), args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %v: %v\n%s", args, err, out)
	}
}

// "ip netns exec" hides the mounts of bpffs and cgroup2; the agent finds them all the same, is found by
// break-glass, and clears up after itself.
func TestInsideANetworkNamespace(t *testing.T) {
	ns := "curfew-" + strings.ToLower(rand.Text()[:6])
	ip(t, "netns", "add", ns)
	t.Cleanup(func() { ip(t, "netns", "del", ns) })
	ip(t, "-n", ns, "link", "set", "lo", "up")
	a := harness.Start(t, harness.Config{
		Services: service("echo", "127.0.0.1:7000", "127.0.0.1:7001", ""), Gateway: "127.0.0.1:8443",
		Under: []string{peers.Find(t, "/usr/sbin/ip", "ip"), "netns", "exec", ns},
	})
	upstream := peers.Start(t, exec.Command("ip", "netns", "exec", ns, "bash", "-c",
		`exec python3 -c 'import socket
s = socket.create_server(("127.0.0.1", 7001))
print("listens", flush=True)
c, _ = s.accept()
print("let in", flush=True)
try:
    while c.recv(1): pass
    print("orderly end", flush=True)
except OSError as e:
    print("cut:", e.errno, flush=True)'`))
	harness.Eventually(t, "the upstream to listen", func() error {
		if !strings.Contains(upstream.Output(), "listens") {
			return errors.New(upstream.Output())
		}
		return nil
	})
	_, creds := a.CreateSession(t, "alice", time.Hour)
	openssl := exec.Command("ip", "netns", "exec", ns, peers.Find(t, "openssl"), "s_client", "-quiet", "-connect", "127.0.0.1:7000",
		"-cert", creds.Cert, "-key", creds.Key, "-CAfile", creds.CA)
	silence, speech, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silence.Close(); speech.Close() })
	openssl.Stdin = silence
	client := peers.Start(t, openssl)
	harness.Eventually(t, "the connection", func() error {
		if !strings.Contains(upstream.Output(), "let in") {
			return fmt.Errorf("upstream: %s, client: %s", upstream.Output(), client.Output())
		}
		return nil
	})
	// The agent is well and sees it too: whoever is first destroys.
	if k, res := a.KillJSON(t, "--local", "--all", "--run", filepath.Join(a.Dir, "run")); res.Code != 0 || !k.Verified || k.Destroyed+k.Gone != 1 {
		t.Fatalf("kill --local from another namespace: %+v %+v", k, res)
	}
	harness.Eventually(t, "the upstream to be cut", func() error {
		if !strings.Contains(upstream.Output(), fmt.Sprintf("cut: %d", syscall.ECONNRESET)) {
			return fmt.Errorf("upstream: %s", upstream.Output())
		}
		return nil
	})
}

// With a full disk nobody signs in, a kill holds, and a restart brings nothing back.
func TestFullDisk(t *testing.T) {
	r := newRig(t, "")
	r.Stop(t)
	if err := syscall.Mount("curfew-test", r.State(), "tmpfs", 0, "size=256k,mode=0700"); err != nil {
		t.Fatal("mount a small file system: ", err)
	}
	t.Cleanup(func() {
		r.Stop(t)
		if err := syscall.Unmount(r.State(), syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	r.Run(t)
	_, creds := r.CreateSession(t, "alice", time.Hour)
	conn := mustConnect(t, r.addr, creds)
	filler, err := os.Create(filepath.Join(r.State(), "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer filler.Close()
	for block := make([]byte, 4096); err == nil; {
		_, err = filler.Write(block)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	var res harness.Result
	for i := range 100 { // free pages of the file are used up first
		res = r.Curfew(t, "sessions", "create", "--subject", fmt.Sprint("u", i), "--ttl", "1h", "--out", filepath.Join(t.TempDir(), "creds"))
		if res.Code != 0 {
			break
		}
	}
	if res.Code == 0 || !strings.Contains(res.Stderr, "no space left on device") || !strings.Contains(res.Stderr, "hint:") {
		t.Fatalf("signing in on a full disk: %+v", res)
	}
	if k, res := r.KillJSON(t, "--subject", "alice"); res.Code != 0 || !k.Verified {
		t.Fatalf("a kill on a full disk: %+v %+v", k, res)
	}
	mustEnd(t, conn)
	r.Kill(t)
	r.Run(t)
	mustRefuse(t, r.addr, creds)
}

// Where nothing is to be had from the kernel, an operator can decide to do without; everything says so.
func TestUserspaceEnforcement(t *testing.T) {
	r := newRig(t, "enforcement: userspace")
	_, creds := r.CreateSession(t, "alice", time.Hour)
	conn := mustConnect(t, r.addr, creds)
	k, res := r.KillJSON(t, "--subject", "alice")
	if res.Code != 3 || k.Verified || k.Destroyed+k.Gone != 1 || len(k.Layers) != 1 || k.Layers[0] != "userspace" {
		t.Fatalf("a kill that nothing proves: %+v %+v", k, res)
	}
	mustEnd(t, conn)
	mustRefuse(t, r.addr, creds)
	_, creds = r.CreateSession(t, "bob", 1500*time.Millisecond)
	mustEnd(t, mustConnect(t, r.addr, creds))
}

// systemd is told when the agent serves, reloads and stops (sd_notify(3)).
func TestServiceManager(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	expect := func(what string) {
		t.Helper()
		buf := make([]byte, 4096)
		for {
			if err := socket.SetReadDeadline(time.Now().Add(harness.Patience)); err != nil {
				t.Fatal(err)
			}
			n, err := socket.Read(buf)
			if err != nil {
				t.Fatalf("waiting for %s: %v", what, err)
			}
			if strings.Contains(string(buf[:n]), what) {
				return
			}
		}
	}
	e := startEcho(t)
	a := harness.Start(t, harness.Config{
		Services: service("echo", fmt.Sprintf("127.0.0.1:%d", peers.FreePort(t)), e.addr, ""),
		Under:    []string{"/usr/bin/env", "NOTIFY_SOCKET=" + path},
	})
	expect("READY=1")
	harness.Signal(t, a.EnforcerPID(), syscall.SIGHUP)
	expect("RELOADING=1")
	harness.Signal(t, a.EnforcerPID(), syscall.SIGTERM)
	expect("STOPPING=1")
	a.WaitExit(t)
	a.CheckNothingLeft(t)
}

// The capabilities that packaging/curfew.service leaves are enough to serve, to kill, and to clear up.
func TestCapabilitiesOfTheUnitSuffice(t *testing.T) {
	unit, err := os.ReadFile("../../packaging/curfew.service")
	if err != nil {
		t.Fatal(err)
	}
	_, set, found := strings.Cut(string(unit), "\nCapabilityBoundingSet=")
	set, _, _ = strings.Cut(set, "\n")
	if !found || set == "" {
		t.Fatal("the unit bounds nothing")
	}
	bounds := "-all"
	for _, name := range strings.Fields(set) {
		bounds += ",+" + strings.ToLower(strings.TrimPrefix(name, "CAP_"))
	}
	e := startEcho(t)
	addr := fmt.Sprintf("127.0.0.1:%d", peers.FreePort(t))
	a := harness.Start(t, harness.Config{
		Services: service("echo", addr, e.addr, ""), Under: []string{peers.Find(t, "setpriv"), "--bounding-set", bounds},
	})
	_, creds := a.CreateSession(t, "alice", time.Hour)
	conn := mustConnect(t, addr, creds)
	k, res := a.KillJSON(t, "--all")
	if res.Code != 0 || !k.Verified || k.Destroyed+k.Gone != 1 || strings.Contains(strings.Join(k.Layers, " "), "userspace") {
		t.Fatalf("kill: %+v %+v", k, res)
	}
	mustEnd(t, conn)
	a.Stop(t)
}
