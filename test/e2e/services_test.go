// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/bpf"
	"github.com/curfew-proxy/curfew/test/harness"
	"github.com/curfew-proxy/curfew/test/oidc"
	"github.com/curfew-proxy/curfew/test/peers"
)

// authority signs certificates for an upstream and for the agent as its client.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{dir: t.TempDir()}
	a.cert, a.key = a.issue(t, "ca")
	return a
}

// issue writes NAME.pem and NAME.key; the first certificate is the authority's own.
func (a *authority) issue(t *testing.T, name string) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true,
		IsCA: a.cert == nil, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{name + ".pem": {Type: "CERTIFICATE", Bytes: der}, name + ".key": {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(a.file(file), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

// The agent speaks TLS to the upstream with a certificate of its own, behind a PROXY protocol header that
// names the client; the files are root's, the process that uses them is not.
func TestUpstreamTLSBehindProxyHeader(t *testing.T) {
	ca := newAuthority(t)
	ca.issue(t, "db.internal")
	ca.issue(t, "agent")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	type seen struct {
		header []byte
		client string
		err    error
	}
	got := make(chan seen, 1)
	pair, err := tls.LoadX509KeyPair(ca.file("db.internal.pem"), ca.file("db.internal.key"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		fixed := make([]byte, 16)
		if _, err := io.ReadFull(conn, fixed); err != nil {
			got <- seen{err: err}
			return
		}
		rest := make([]byte, int(fixed[14])<<8|int(fixed[15]))
		_, err = io.ReadFull(conn, rest)
		server := tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots})
		if err == nil {
			err = server.Handshake()
		}
		s := seen{header: append(fixed, rest...), err: err}
		if err == nil {
			s.client = server.ConnectionState().PeerCertificates[0].Subject.CommonName
		}
		got <- s
		_, _ = io.Copy(server, server) // echoes until the client closes
	}()
	addr := fmt.Sprintf("127.0.0.1:%d", peers.FreePort(t))
	a := harness.Start(t, harness.Config{Services: service("db", addr, l.Addr().String(), fmt.Sprintf(
		", proxy_protocol: true, upstream_tls: {ca: %q, certificate: %q, key: %q, server_name: db.internal}", ca.file("ca.pem"), ca.file("agent.pem"), ca.file("agent.key")))})
	s, creds := a.CreateSession(t, "alice", time.Hour)
	mustConnect(t, addr, creds)
	saw := <-got
	if saw.err != nil || saw.client != "agent" {
		t.Fatalf("the upstream saw client %q, %v", saw.client, saw.err)
	}
	if !bytes.HasPrefix(saw.header, []byte("\r\n\r\n\x00\r\nQUIT\n!\x11")) || !bytes.Contains(saw.header, []byte("alice")) || !bytes.Contains(saw.header, []byte(s.ID.String())) {
		t.Errorf("PROXY header %q", saw.header)
	}
}

func TestIPv6(t *testing.T) {
	e := startEcho(t)
	addr := fmt.Sprintf("[::1]:%d", peers.FreePort(t))
	a := harness.Start(t, harness.Config{Services: service("echo", addr, e.addr, "")})
	_, creds := a.CreateSession(t, "alice", time.Hour)
	conn := mustConnect(t, addr, creds)
	if k, res := a.KillJSON(t, "--all"); res.Code != 0 || k.Destroyed+k.Gone != 1 {
		t.Fatalf("%+v %+v", k, res)
	}
	mustEnd(t, conn)
}

// Programs that can neither speak TLS nor run the helper: the source address that signed in is admitted
// to the plain listener for as long as the session lives, if the operator allows it, and it is logged.
func TestBoundAddress(t *testing.T) {
	e := startEcho(t)
	plain := fmt.Sprintf("127.0.0.1:%d", peers.FreePort(t))
	gateway := fmt.Sprintf("127.0.0.1:%d", peers.FreePort(t))
	provider := oidc.Start(t, oidc.Options{
		Clients: []oidc.Client{oidc.WebClient("curfew", "secret-of-the-test", "https://"+gateway+"/callback/idp")},
		Users:   map[string]oidc.Claims{"alice": {"sub": "alice"}},
	})
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret-of-the-test"), 0o600); err != nil {
		t.Fatal(err)
	}
	config := harness.Config{
		Gateway:  gateway,
		Services: fmt.Sprintf("  - {name: echo, plain_listen: [%q], upstream: %q, allow: 'true'}\n", plain, e.addr),
		Extra:    fmt.Sprintf("bind_address: {enabled: true}\nproviders:\n  - {name: idp, issuer: %q, client_id: curfew, client_secret_file: %q}\n", provider.Issuer, secret),
	}
	a := harness.Start(t, config)
	u := newUser(t, a, "alice")
	if err := dialPlain(t, plain); err == nil {
		t.Fatal("a source that nobody bound was let in")
	}
	s := u.login(t, "--bind-address")
	conn, err := net.Dial("tcp", plain)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := roundTrip(conn); err != nil {
		t.Fatalf("the bound source was not let in: %v\n%s", err, a.Log())
	}
	if !strings.Contains(a.Log(), `admitted_by="source address"`) {
		t.Error("the use of a bound address is not logged")
	}
	if k, res := a.KillJSON(t, s.ID.String()); res.Code != 0 || k.Destroyed+k.Gone != 1 {
		t.Fatalf("%+v %+v", k, res)
	}
	mustEnd(t, conn)
	if err := dialPlain(t, plain); err == nil {
		t.Fatal("the source was let in after the end")
	}
}

func dialPlain(t *testing.T, addr string) error {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	return roundTrip(conn)
}

// Half a million bytes in odd pieces, both ways at once, with a half-close: what arrives is what was sent.
func TestPayloadIsIntact(t *testing.T) {
	r := newRig(t, "")
	_, creds := r.CreateSession(t, "alice", time.Hour)
	conn := mustConnect(t, r.addr, creds)
	sent := make([]byte, 512<<10)
	_, _ = rand.Read(sent) // never fails
	go func() {
		for rest := sent; len(rest) > 0; {
			n := min(len(rest), 1+len(rest)%7919)
			if _, err := conn.Write(rest[:n]); err != nil {
				return
			}
			rest = rest[n:]
		}
		_ = conn.CloseWrite() // what arrives tells
	}()
	got, err := io.ReadAll(bufio.NewReader(conn))
	if err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("%d of %d bytes came back, %v", len(got), len(sent), err)
	}
}

// Whatever came and went: no entry of a connection stays in the kernel's maps, no descriptor in the
// proxy process.
func TestNothingLeaks(t *testing.T) {
	r := newRig(t, "")
	_, creds := r.CreateSession(t, "alice", time.Hour)
	mustConnect(t, r.addr, creds).Close()
	descriptors := func() int {
		list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", r.ProxyPID(t)))
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	harness.Eventually(t, "the first connection to be gone", func() error { return connections(t, r, 0) })
	before := descriptors()
	for i := range 50 {
		conn := mustConnect(t, r.addr, creds)
		if i%2 == 0 {
			_ = conn.NetConn().(*net.TCPConn).SetLinger(0) // ends in a reset
		}
		conn.Close()
		for _, garbage := range []string{"GET / HTTP/1.0\r\n\r\n", "\x16\x03\x01\x02\x00\x01", "\x00", ""} {
			c, err := net.Dial("tcp", r.addr)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = c.Write([]byte(garbage)) // whether it is taken does not matter
			c.Close()
		}
	}
	harness.Eventually(t, "everything to be gone", func() error {
		if err := connections(t, r, 0); err != nil {
			return err
		}
		if now := descriptors(); now > before {
			return fmt.Errorf("%d descriptors, %d before", now, before)
		}
		return nil
	})
}

// connections says whether the kernel's books have this many sockets.
func connections(t *testing.T, r *rig, want int) error {
	t.Helper()
	pinned, err := bpf.OpenPinned(r.Name)
	if err != nil {
		t.Fatal(err)
	}
	defer pinned.Close()
	sessions, err := pinned.Sessions()
	if err != nil {
		t.Fatal(err)
	}
	have := 0
	for _, s := range sessions {
		have += s.Conns
	}
	if have != want {
		return fmt.Errorf("%d sockets on the books, want %d", have, want)
	}
	return nil
}
