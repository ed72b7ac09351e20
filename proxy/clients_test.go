// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/curfew-proxy/curfew/agent/session"
)

// daemon runs a server until the test ends and waits until port answers.
func daemon(t *testing.T, port string, cmd *exec.Cmd) {
	t.Helper()
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGQUIT) // PostgreSQL's immediate shutdown
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", cmd.Path, log.String())
		}
	})
	eventually(t, cmd.Path+" answers", func() bool {
		c, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// freePort finds a port that was free a moment ago.
func freePort(t *testing.T) string {
	l := listenTCP(t, "127.0.0.1:0")
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

// postgresServer runs a real PostgreSQL with TLS on and returns its port.
func postgresServer(t *testing.T) string {
	t.Helper()
	who, err := user.Lookup("postgres")
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(who.Uid)
	gid, _ := strconv.Atoi(who.Gid)
	dir, err := os.MkdirTemp("", "curfew-pg-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	crt, key := writeCert(t, dir, "server", newCert(t, "postgres.test"))
	for _, f := range []string{dir, crt, key} {
		if err := os.Chown(f, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	as := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	bin := postgresBin(t)
	data := filepath.Join(dir, "data")
	initdb := exec.Command(filepath.Join(bin, "initdb"), "-D", data, "-A", "trust", "-U", "alice", "-N")
	initdb.SysProcAttr, initdb.Dir = as, dir
	if out, err := initdb.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	port := freePort(t)
	server := exec.Command(filepath.Join(bin, "postgres"), "-D", data, "-p", port, "-k", dir, "-h", "127.0.0.1",
		"-c", "fsync=off", "-c", "ssl=on", "-c", "ssl_cert_file="+crt, "-c", "ssl_key_file="+key)
	server.SysProcAttr, server.Dir = &syscall.SysProcAttr{Credential: as.Credential}, dir
	daemon(t, port, server)
	return port
}

func postgresBin(t *testing.T) string {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if len(found) == 0 {
		t.Fatal("PostgreSQL is not installed")
	}
	return found[len(found)-1]
}

// psql runs one through the proxy.
type psql struct {
	rig      *rig
	crt, key string
}

func newPsql(t *testing.T, r *rig, cert tls.Certificate) psql {
	crt, key := writeCert(t, t.TempDir(), "client", cert)
	return psql{r, crt, key}
}

func (p psql) command(addr, query string, more ...string) *exec.Cmd {
	host, port, _ := net.SplitHostPort(p.rig.addrs[addr])
	params := append([]string{"host=" + host, "port=" + port, "user=alice", "dbname=postgres", "connect_timeout=10"}, more...)
	if p.crt != "" {
		params = append(params, "sslcert="+p.crt, "sslkey="+p.key)
	}
	return exec.Command("psql", "-X", "-A", "-t", "-c", query, strings.Join(params, " "))
}

func (p psql) run(addr, query string, more ...string) string {
	out, _ := p.command(addr, query, more...).CombinedOutput() // the text says what went wrong
	return strings.TrimSpace(string(out))
}

// TestPostgres runs a real psql and a real server through the proxy.
func TestPostgres(t *testing.T) {
	port := postgresServer(t)
	r := newRig(t, func(r *rig, c *Config) {
		add := func(s Service) {
			s.Protocol, s.Listen = ProtocolPostgres, []string{r.addr(c, s.Name)}
			s.Upstream.Address = "127.0.0.1:" + port
			c.Services = append(c.Services, s)
		}
		add(Service{Name: "pg"})
		add(Service{Name: "pgtls", Upstream: Upstream{TLS: r.tlsConfig(r.client)}})
		add(Service{Name: "pgcancel", AllowCancel: true, Upstream: Upstream{TLS: r.tlsConfig(r.client)}})
		add(Service{Name: "pg12", TLS12: true})
		c.Gateway = []string{r.addr(c, "gateway")}
	})
	known := newPsql(t, r, r.client)
	const tlsUpstream = "select ssl from pg_stat_ssl where pid = pg_backend_pid()"

	t.Run("query", func(t *testing.T) {
		for addr, want := range map[string]string{"pg": "f", "pgtls": "t"} {
			if got := known.run(addr, tlsUpstream, "sslmode=require"); got != want {
				t.Errorf("%s: %q, want %q", addr, got, want)
			}
		}
		if got := known.run("pg12", tlsUpstream, "sslmode=require", "ssl_max_protocol_version=TLSv1.2"); got != "f" {
			t.Errorf("TLS 1.2: %q", got)
		}
	})
	t.Run("by server name", func(t *testing.T) {
		if got := known.run("gateway", tlsUpstream, "sslmode=require", "host=pgtls.test", "hostaddr=127.0.0.1"); got != "t" {
			t.Errorf("%q", got)
		}
		if got := known.run("gateway", tlsUpstream, "sslmode=require", "host=nope.test", "hostaddr=127.0.0.1"); !strings.Contains(got, "unrecognized name") {
			t.Errorf("unknown service: %q", got)
		}
	})
	t.Run("GSS first", func(t *testing.T) {
		if got := known.run("pg", tlsUpstream, "sslmode=require", "gssencmode=prefer"); got != "f" {
			t.Errorf("%q", got)
		}
	})
	t.Run("bulk", func(t *testing.T) {
		const query = "select md5(string_agg(x, '')), sum(length(x)) from (select repeat(md5(i::text), 1000) x from generate_series(1, 500) i) t"
		down := strings.ReplaceAll(query, "select md5(string_agg(x, '')), sum(length(x)) from", "select x from")
		if got := known.run("pgtls", down, "sslmode=require"); len(got) != 500*32*1000+499 {
			t.Errorf("%d bytes", len(got))
		}
	})
	t.Run("words", func(t *testing.T) {
		stranger := newPsql(t, r, newCert(t, "stranger"))
		former := newCert(t, "former")
		r.mu.Lock()
		r.ended[session.KeyOf(former.Leaf)] = &session.EndedError{ID: session.NewID(),
			End: session.End{Reason: session.ReasonKilled, Message: "laptop stolen"}}
		r.mu.Unlock()
		for _, test := range []struct {
			name, got, want string
		}{
			{"cleartext", known.run("pg", "select 1", "sslmode=disable"), "asks for TLS with a client certificate"},
			{"cleartext, shared", known.run("gateway", "select 1", "sslmode=disable"), "asks for TLS with a client certificate"},
			{"no certificate", psql{rig: r}.run("pg", "select 1", "sslmode=require"), "asks for TLS with a client certificate"},
			{"stranger", stranger.run("pg", "select 1", "sslmode=require"), "no session for this client key"},
			{"stranger, 1.2", stranger.run("pg12", "select 1", "sslmode=require", "ssl_max_protocol_version=TLSv1.2"), "no session for this client key"},
			{"ended", newPsql(t, r, former).run("pg", "select 1", "sslmode=require"), "has ended: killed (laptop stolen)"},
		} {
			if !strings.Contains(test.got, test.want) {
				t.Errorf("%s: psql says %q, want %q", test.name, test.got, test.want)
			}
		}
	})
	t.Run("cancel", func(t *testing.T) { testPostgresCancel(t, r, known) })
}

// testPostgresCancel interrupts psql, which sends a cleartext CancelRequest.
func testPostgresCancel(t *testing.T, r *rig, p psql) {
	cmd := p.command("pgcancel", "select pg_sleep(60)", "sslmode=require", "application_name=sleeper")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	eventually(t, "the query runs", func() bool {
		return p.run("pg", "select count(*) from pg_stat_activity where application_name = 'sleeper' and state = 'active'", "sslmode=require") == "1"
	})
	_, before, _ := r.events()
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("psql goes on")
	}
	if !strings.Contains(out.String(), "canceling statement due to user request") {
		t.Errorf("psql says %q", out.String())
	}
	_, after, _ := r.events()
	if len(after) != len(before)+1 || !after[len(after)-1].Plain || after[len(after)-1].Session.ID != r.sess.ID {
		t.Errorf("the cancel was not accounted to the session: %+v", after[len(before):])
	}
}

// TestRedis runs redis-cli --tls and a real server through the proxy.
func TestRedis(t *testing.T) {
	port := freePort(t)
	daemon(t, port, exec.Command("redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", t.TempDir()))
	r := newRig(t, func(r *rig, c *Config) {
		c.Services = []Service{{Name: "redis", Listen: []string{r.addr(c, "redis")}, Upstream: Upstream{Address: "127.0.0.1:" + port}}}
		c.Gateway = []string{r.addr(c, "gateway")}
	})
	dir := t.TempDir()
	ca, _ := writeCert(t, dir, "ca", r.server)
	cli := func(addr string, cert tls.Certificate, args ...string) string {
		host, port, _ := net.SplitHostPort(r.addrs[addr])
		crt, key := writeCert(t, dir, "client", cert)
		cmd := exec.Command("redis-cli", append([]string{"-h", host, "-p", port, "--tls", "--cacert", ca, "--cert", crt, "--key", key}, args...)...)
		out, _ := cmd.CombinedOutput()
		return strings.TrimSpace(string(out))
	}
	value := strings.Repeat("v", 100_000)
	if got := cli("redis", r.client, "set", "k", value); got != "OK" {
		t.Errorf("set: %q", got)
	}
	if got := cli("gateway", r.client, "--sni", "redis.example.com", "get", "k"); got != value {
		t.Errorf("get by server name: %d bytes, %.80q", len(got), got)
	}
	if got := cli("redis", newCert(t, "stranger"), "ping"); !strings.HasPrefix(got, "Error") {
		t.Errorf("a stranger sees %q", got)
	}
	refused, relayed, _ := r.events()
	if len(relayed) != 2 || len(refused) != 1 || refused[0].Reason != session.ReasonUnknownKey {
		t.Errorf("relayed %+v, refused %+v", relayed, refused)
	}
}

// TestDirectTLS: libpq 17 with sslnegotiation=direct sends a ClientHello at once.
func TestDirectTLS(t *testing.T) {
	r := echoRig(t, func(_ *rig, c *Config) { c.Services[0].Protocol = ProtocolPostgres })
	config := r.tlsConfig(r.client)
	config.NextProtos = []string{alpnPostgres}
	c, err := tls.Dial("tcp", r.addrs["db"], config)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	roundTrip(t, c)
	if p := c.ConnectionState().NegotiatedProtocol; p != alpnPostgres {
		t.Errorf("protocol %q", p)
	}
}

// FuzzPreamble: no input may be taken for more than it is.
func FuzzPreamble(f *testing.F) {
	for _, s := range []string{
		"", "\x16\x03\x01", "\x00\x00\x00\x08\x04\xd2\x16\x2f", "\x00\x00\x00\x08\x04\xd2\x16\x30",
		"\x00\x00\x00\x10\x04\xd2\x16\x2e\x00\x00\x00\x01\x00\x00\x00\x02", "\x00\x00\x00\x29\x00\x03\x00\x00user\x00",
		"\x00\x00\x00\x07\x04\xd2\x16\x2f", "\xff\xff\xff\xff\x04\xd2\x16\x2f", "GET / HTTP/1.1\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, size := parsePreamble(b)
		switch p {
		case preambleBad:
			if size != 0 {
				t.Error("a bad preamble has a size")
			}
		case preambleTLS:
			if b[0] != tlsHandshakeByte {
				t.Error("not TLS")
			}
		case preambleShort:
			if len(b) >= size {
				t.Errorf("%d bytes are not enough for %d", len(b), size)
			}
		default:
			if size < 8 || size > maxPostgresPreamble || b[0] != 0 {
				t.Errorf("size %d", size)
			}
		}
		if len(b) > 8 {
			// Whatever comes behind the first 8 bytes changes nothing.
			if q, s := parsePreamble(b[:8]); q != p || s != size {
				t.Errorf("%d/%d with, %d/%d without the rest", p, size, q, s)
			}
		}
	})
}

// FuzzServerName: a name reaches a service only if its first label is that service's name.
func FuzzServerName(f *testing.F) {
	for _, s := range []string{"", ".", "db", "DB.example.com", "db.", "xdb.db", "db\x00", "d\u0131b", "\u212a.db"} {
		f.Add(s)
	}
	db, k := &service{}, &service{}
	r := routes{services: map[string]*service{"db": db, "k": k}}
	f.Fuzz(func(t *testing.T, name string) {
		label, _, _ := strings.Cut(name, ".")
		var want *service
		switch label {
		case "db", "dB", "Db", "DB":
			want = db
		case "k", "K":
			want = k
		}
		if got := r.lookup(name); got != want {
			t.Errorf("%q reaches %s", name, fmt.Sprint(got))
		}
	})
}
