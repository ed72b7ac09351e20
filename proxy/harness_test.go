// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
	"golang.org/x/sys/unix"
)

const patience = 20 * time.Second // bounds waits that end at once unless something is broken

// fakes stands in for the agent: sessions, policy, gate, observer and clock.
type fakes struct {
	mu       sync.Mutex
	byKey    map[session.Key]session.Session
	byAddr   map[netip.Addr]session.Session
	ended    map[session.Key]*session.EndedError
	deny     error
	noGate   error
	asked    []session.Session // policy about
	stale    []func()          // what changes, each while a connection is on its way
	refused  []Refused
	relayed  []Relayed
	released []released
	live     int
}

type released struct {
	conn   *session.Connection
	reason session.Reason
	err    error
}

func newFakes() *fakes {
	return &fakes{
		byKey:  make(map[session.Key]session.Session),
		byAddr: make(map[netip.Addr]session.Session),
		ended:  make(map[session.Key]*session.EndedError),
	}
}

func (f *fakes) ByKey(k session.Key) (session.Session, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if e := f.ended[k]; e != nil {
		return session.Session{}, e
	}
	s, ok := f.byKey[k]
	if !ok {
		return s, session.ErrUnknownKey
	}
	return s, nil
}

func (f *fakes) ByAddr(a netip.Addr) (session.Session, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, ok := f.byAddr[a]
	if !ok {
		return s, session.ErrNotFound
	}
	return s, nil
}

func (f *fakes) Authorize(s session.Session, _ string, _ netip.AddrPort) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, s)
	return fmt.Sprint("decision ", len(f.asked)), f.deny
}

func (f *fakes) denyAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.deny = errors.New("not on a Sunday")
}

func (f *fakes) Register(c *session.Connection, client, upstream *net.TCPConn) (func(session.Reason, error), error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.noGate != nil {
		return nil, f.noGate
	}
	if client == nil || upstream == nil {
		return nil, errors.New("a socket is missing")
	}
	if c.Since == 0 || c.Since > f.Boot() {
		return nil, errors.New("it does not say since when policy is known")
	}
	if len(f.stale) > 0 {
		change := f.stale[0]
		f.stale = f.stale[1:]
		change()
		return nil, session.ErrStale
	}
	f.live++
	return func(reason session.Reason, err error) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.live--
		f.released = append(f.released, released{c, reason, err})
	}, nil
}

func (f *fakes) Refused(r Refused) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refused = append(f.refused, r)
}

func (f *fakes) Relayed(r Relayed) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.relayed = append(f.relayed, r)
}

func (f *fakes) events() (refused []Refused, relayed []Relayed, rel []released) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append(refused, f.refused...), append(relayed, f.relayed...), append(rel, f.released...)
}

func (f *fakes) Coarse() session.Instant { return f.Boot() }
func (f *fakes) Boot() session.Instant {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	return session.Instant(ts.Nano())
}

func (f *fakes) Wall() time.Time { return time.Now() }

// rig is a running proxy with fakes, a known client and a server certificate.
type rig struct {
	*fakes
	t      testing.TB
	proxy  *Proxy
	server tls.Certificate
	client tls.Certificate // its key has a session
	sess   session.Session
	addrs  map[string]string // what addr returned, by name
}

// newRig starts a proxy. configure adds services to the Config; addresses come from rig.addr.
func newRig(t testing.TB, configure func(*rig, *Config)) *rig {
	t.Helper()
	r := &rig{fakes: newFakes(), t: t, addrs: make(map[string]string)}
	r.server, r.client = newCert(t, "proxy.test"), newCert(t, "client")
	r.sess = r.admit(r.client)
	config := Config{
		Sessions: r, Policy: r, Gate: r, Observer: r, Clock: r,
		Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &r.server, nil },
	}
	configure(r, &config)
	p, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	r.proxy = p
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			t.Error("Run does not return")
		}
		if f := r.fakes; f.live != 0 {
			t.Errorf("%d connections were not released", f.live)
		}
	})
	return r
}

// addr hands the proxy an open listener and returns its address under name.
func (r *rig) addr(config *Config, name string) string {
	r.t.Helper()
	l := listenTCP(r.t, "127.0.0.1:0")
	config.Inherited = append(config.Inherited, l)
	r.addrs[name] = l.Addr().String()
	return r.addrs[name]
}

func listenTCP(t testing.TB, addr string) *net.TCPListener {
	t.Helper()
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(context.Background(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return l.(*net.TCPListener)
}

// admit gives cert's key a session.
func (r *rig) admit(cert tls.Certificate) session.Session {
	key := session.KeyOf(cert.Leaf)
	s := session.Session{ID: session.NewID(), Key: key, Identity: session.Identity{Issuer: "test", Subject: "alice"}}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.byKey[key] = s
	return s
}

func (r *rig) tlsConfig(certs ...tls.Certificate) *tls.Config {
	return &tls.Config{Certificates: certs, InsecureSkipVerify: true, ServerName: "db.test"}
}

// dial opens a TLS connection to a named address with the known client's key.
func (r *rig) dial(name string) *tls.Conn {
	r.t.Helper()
	c, err := tls.Dial("tcp", r.addrs[name], r.tlsConfig(r.client))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

// eventually waits until ok holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// wantRelease waits for the n-th release and checks its reason.
func (r *rig) wantRelease(n int, reason session.Reason) released {
	r.t.Helper()
	var got []released
	eventually(r.t, fmt.Sprintf("release %d", n), func() bool {
		_, _, got = r.events()
		return len(got) >= n
	})
	if got[n-1].reason != reason {
		r.t.Errorf("released for %s (%v), want %s", got[n-1].reason, got[n-1].err, reason)
	}
	return got[n-1]
}

func newCert(t testing.TB, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		DNSNames:     []string{name},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:         true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// writeCert stores cert as PEM files and returns their paths.
func writeCert(t testing.TB, dir, name string, cert tls.Certificate) (certFile, keyFile string) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	write := func(file, typ string, der []byte) {
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(certFile, "CERTIFICATE", cert.Certificate[0])
	write(keyFile, "PRIVATE KEY", der)
	return certFile, keyFile
}

// upstream serves each connection with handle, which it closes afterwards, and returns its address.
func upstream(t testing.TB, handle func(*net.TCPConn)) string {
	t.Helper()
	l := listenTCP(t, "127.0.0.1:0")
	var wg sync.WaitGroup
	wg.Add(1)
	var mu sync.Mutex
	open := make(map[net.Conn]bool)
	go func() {
		defer wg.Done()
		for {
			c, err := l.AcceptTCP()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil { // out of descriptors, in the test that makes it so
				time.Sleep(time.Millisecond)
				continue
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			wg.Add(1)
			go func() {
				defer wg.Done()
				handle(c)
				c.Close()
				mu.Lock()
				delete(open, c)
				mu.Unlock()
			}()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().String()
}

func echo(c *net.TCPConn) {
	_, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
	_ = c.CloseWrite()
}

// noLeaks fails t if goroutines or descriptors are left over at its end. Call it first.
func noLeaks(t testing.TB) {
	t.Helper()
	goroutines, fds := runtime.NumGoroutine(), openFiles(t)
	t.Cleanup(func() {
		var g int
		var f map[string]string
		for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
			drainPipes()
			runtime.GC() // runs the finalizers of those that the pool dropped
			g, f = runtime.NumGoroutine(), openFiles(t)
			if g <= goroutines && len(f) <= len(fds) {
				return
			}
			if time.Now().After(deadline) {
				break
			}
		}
		stacks := make([]byte, 1<<16)
		t.Errorf("goroutines %d -> %d, descriptors %v -> %v\n%s", goroutines, g, fds, f, stacks[:runtime.Stack(stacks, true)])
	})
}

// drainPipes closes the pooled pipes.
func drainPipes() {
	for {
		p, ok := pipes.Get().(*pipe)
		if !ok {
			return
		}
		p.close()
	}
}

func openFiles(t testing.TB) map[string]string {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]string, len(entries))
	for _, e := range entries {
		if target, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil {
			files[e.Name()] = target
		}
	}
	return files
}
