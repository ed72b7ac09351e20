// SPDX-License-Identifier: Apache-2.0

//go:build linux

package bpf

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/curfew-proxy/curfew/agent/session"
)

// The tests play three parts: the test process is the enforcer, outside the gated cgroup; a
// child of the same binary, born in that cgroup, is the proxy and does what it is told over its
// standard input; the ends that the proxy talks to are sockets of the test process.

const roleVar = "CURFEW_TEST_ROLE"

var roles = map[string]func() error{"proxy": proxyMain}

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVar); role != "" {
		if err := roles[role](); err != nil {
			fmt.Fprintln(os.Stderr, role+":", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// rig is an enforcer with a gated cgroup and a proxy in it.
type rig struct {
	t       testing.TB
	objects *Objects
	cgroup  string
	proxy   *proxyProcess
}

var instances struct {
	sync.Mutex
	n int
}

func newInstance(t testing.TB) string {
	instances.Lock()
	defer instances.Unlock()
	instances.n++
	return fmt.Sprintf("test-%d-%d", os.Getpid(), instances.n)
}

func newRig(t testing.TB, change ...func(*Config)) *rig {
	t.Helper()
	cfg := Config{Instance: newInstance(t)}
	for _, c := range change {
		c(&cfg)
	}
	r := &rig{t: t}
	var err error
	if r.cgroup, err = CreateCgroup(cfg.Instance); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(KillCgroup(r.cgroup), RemoveCgroup(r.cgroup)); err != nil {
			t.Error(err)
		}
	})
	if r.objects, err = Load(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.objects.Unpin(); err != nil {
			t.Error(err)
		}
	})
	if err := r.objects.AttachGate(r.cgroup); err != nil {
		t.Fatal(err)
	}
	r.proxy = startProxy(t, r.objects, r.cgroup)
	return r
}

type proxyProcess struct {
	t   testing.TB
	cmd *exec.Cmd
	in  *json.Encoder
	out *json.Decoder
}

// startProxy starts a proxy as nobody, with no capabilities, in the cgroup.
func startProxy(t testing.TB, o *Objects, cgroup string) *proxyProcess {
	t.Helper()
	dir, err := os.Open(cgroup)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	files, err := o.Maps()
	if err != nil {
		t.Fatal(err)
	}
	p := &proxyProcess{t: t, cmd: exec.Command("/proc/self/exe")}
	p.cmd.Env = append(os.Environ(), roleVar+"=proxy")
	p.cmd.ExtraFiles = files
	p.cmd.Stderr = os.Stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{
		UseCgroupFD: true, CgroupFD: int(dir.Fd()),
		Credential: &syscall.Credential{Uid: 65534, Gid: 65534},
	}
	in, err := p.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		f.Close()
	}
	p.in, p.out = json.NewEncoder(in), json.NewDecoder(bufio.NewReader(out))
	t.Cleanup(p.kill)
	return p
}

func (p *proxyProcess) kill() {
	_ = p.cmd.Process.Kill() // may have been killed before
	_ = p.cmd.Wait()
}

func (p *proxyProcess) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
	if s == unix.SIGSTOP {
		eventually(p.t, "proxy is stopped", func() bool {
			b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
			_, after, _ := strings.Cut(string(b), ") ")
			return strings.HasPrefix(after, "T")
		})
	}
}

// try carries out an order and returns the proxy's error in the answer.
func (p *proxyProcess) try(o order) answer {
	p.t.Helper()
	if err := p.in.Encode(o); err != nil {
		p.t.Fatalf("order %s: %v", o.Do, err)
	}
	var a answer
	if err := p.out.Decode(&a); err != nil {
		p.t.Fatalf("answer to %s: %v", o.Do, err)
	}
	return a
}

func (p *proxyProcess) do(o order) answer {
	p.t.Helper()
	a := p.try(o)
	if a.Err != "" {
		p.t.Fatalf("%s: %s", o.Do, a.Err)
	}
	return a
}

func (p *proxyProcess) refused(want error, o order) {
	p.t.Helper()
	if a := p.try(o); a.Kind != want.Error() {
		p.t.Fatalf("%s: error %q, want %q", o.Do, a.Err, want)
	}
}

// pair is a connection between the test (far) and the proxy.
type pair struct {
	far  *net.TCPConn
	conn int            // the proxy's handle
	sock session.Socket // the proxy's socket, once tagged
}

// connect makes a connection to the proxy's listener.
func (r *rig) connect(network string) pair {
	r.t.Helper()
	addr := map[string]string{"tcp4": "127.0.0.1:0", "tcp6": "[::1]:0", "tcp": "[::]:0"}[network]
	at := netip.MustParseAddrPort(r.proxy.do(order{Do: "listen", Network: network, Addr: addr}).Addr)
	return r.accept(at)
}

func (r *rig) accept(at netip.AddrPort) pair {
	r.t.Helper()
	if at.Addr() == netip.IPv6Unspecified() { // a dual-stack listener: reach it as IPv4
		at = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), at.Port())
	}
	d := net.Dialer{}
	d.SetMultipathTCP(false)
	c, err := d.Dial("tcp", at.String())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	return pair{far: c.(*net.TCPConn), conn: r.proxy.do(order{Do: "accept"}).Conn}
}

// open registers a session that ends after d.
func (r *rig) open(number uint64, d time.Duration) session.Instant {
	r.t.Helper()
	deadline := Now().Add(d)
	r.proxy.do(order{Do: "open", Number: number, Deadline: deadline})
	return deadline
}

func (r *rig) tag(p *pair, number uint64, deadline session.Instant) {
	r.t.Helper()
	p.sock = r.proxy.do(order{Do: "tag", Conn: p.conn, Number: number, Leg: session.ClientLeg, Deadline: deadline}).Socket
}

// passes reports whether a byte gets through from the test to the proxy and one back.
func (r *rig) passes(p pair) bool {
	r.t.Helper()
	if _, err := p.far.Write([]byte{1}); err != nil {
		return false
	}
	in := r.proxy.try(order{Do: "read", Conn: p.conn, Bytes: 1})
	r.proxy.try(order{Do: "write", Conn: p.conn, Bytes: 1})
	_ = p.far.SetReadDeadline(time.Now().Add(200 * time.Millisecond)) // fails on a dead socket, as the read will
	n, _ := p.far.Read(make([]byte, 1))
	if (in.Bytes == 1) != (n == 1) {
		r.t.Fatalf("passes one way only: in %d, out %d", in.Bytes, n)
	}
	return n == 1
}

// eventually waits until cond holds.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	within(t, 10*time.Second, what, cond)
}

func within(t testing.TB, d time.Duration, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(d); ; time.Sleep(5 * time.Millisecond) {
		if cond() {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", d, what)
		}
	}
}

// passed waits for an instant.
func passed(i session.Instant) {
	time.Sleep(i.Sub(Now()) + time.Millisecond)
}
